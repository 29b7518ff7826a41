"""A result file of a finished run that is not as the run wrote it is noticed, named, and never another number."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from small_runs import Train

from anomaly_bench.commands.main import main
from anomaly_bench.errors import UserError
from anomaly_bench.results.collect import collect
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.stored_run import LARGE, SMALL

Capsys = pytest.CaptureFixture[str]
ANEW = ("metrics.json", "curves.json")  # what `bench eval` measures anew


def flip(file: Path, seed: int = 0) -> None:
    content = bytearray(file.read_bytes())
    content[random.Random(seed).randrange(len(content))] ^= 1 << random.Random(seed).randrange(8)
    file.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "bit": flip,
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "empty": lambda file: file.write_bytes(b""),
    "zeros": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "gone": lambda file: file.unlink(),
}


def said(capsys: Capsys, *argv: str, code: int) -> list[str]:
    """The lines on standard error."""
    capsys.readouterr()
    assert main(list(argv)) == code
    return capsys.readouterr().err.splitlines()


def contents(folder: RunFolder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.path.iterdir() if path.is_file()}


def test_the_manifest_has_a_checksum_of_each_result_file(trained: Train) -> None:
    folder = trained()
    assert set(folder.manifest["files"]) == {*SMALL, *LARGE}
    assert folder.damage((*SMALL, *LARGE)) == []


@pytest.mark.parametrize(
    ("name", "damages"),
    [
        *((name, ["bit", "gone"]) for name in (*SMALL, *LARGE)),
        ("scores.csv", ["cut", "empty", "zeros"]),
        *(pytest.param(name, list(DAMAGES), marks=pytest.mark.slow) for name in (*SMALL, *LARGE)),
    ],
    ids=str,
)
def test_damage_is_named_and_never_a_number(
    train: Train, trained: Train, capsys: Capsys, name: str, damages: list[str]
) -> None:
    folder = trained()
    metrics, content = folder.metrics, (folder.path / name).read_bytes()
    for damage in damages:
        DAMAGES[damage](folder.path / name)
        before = contents(folder)
        what = "is missing" if damage == "gone" else "was changed or damaged"
        capsys.readouterr()
        assert main(["list", "runs", "--verify"]) == 1
        assert f"damaged     {folder.path}  {name} {what}" in capsys.readouterr().out
        found = collect("outputs")
        if name in LARGE:  # not read every time
            assert [row.metrics for row in found.rows] == [metrics]
        else:
            assert found.rows == []
            assert [(item.status, f"{name} {what}" in item.reason) for item in found.left_out] == [("damaged", True)]
            assert any("no finished run" in line for line in said(capsys, "report", code=2))
            capsys.readouterr()
            train(code=2)
            (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("bench: ")]
            assert f"{folder.path / name}: {what}" in line
        assert contents(folder) == before
        if name not in ANEW:
            (line,) = said(capsys, "eval", str(folder.path), code=2)
            assert str(folder.path / name) in line
            assert contents(folder) == before
            (folder.path / name).write_bytes(content)
        elif damage == "bit":
            assert main(["eval", str(folder.path)]) == 0
            assert (folder.path / name).read_bytes() == content
        else:
            (folder.path / name).write_bytes(content)
        assert folder.damage((*SMALL, *LARGE)) == []


def test_a_damaged_run_can_be_trained_anew(train: Train, trained: Train) -> None:
    folder = trained()
    metrics = folder.metrics
    for name in (*SMALL, *LARGE):
        flip(folder.path / name)
    train("force=true")
    assert folder.metrics == metrics
    assert folder.damage((*SMALL, *LARGE)) == []


def test_bits_all_over_are_noticed(trained: Train, spots: int) -> None:
    folder = trained()
    for name in (*SMALL, *LARGE):
        content = (folder.path / name).read_bytes()
        for seed in range(spots):
            flip(folder.path / name, seed)
            with pytest.raises(UserError, match=name):
                folder.require_undamaged()
            (folder.path / name).write_bytes(content)
    folder.require_undamaged()


def test_a_run_without_metrics_is_not_done(train: Train, trained: Train, capsys: Capsys) -> None:
    folder = trained()
    (folder.path / "metrics.json").unlink()
    capsys.readouterr()
    train(code=2)
    err = capsys.readouterr().err
    assert "already done" not in err
    assert f"(bench eval {folder.path} measures it again)" in err


def test_a_sweep_says_which_run_is_damaged(trained: Train, capsys: Capsys) -> None:
    one, other = trained(seed=0), trained(seed=1)
    flip(one.path / "scores.csv")
    from small_runs import TOY

    root = one.manifest["place"]
    lines = said(capsys, "train", "-m", *TOY, f"dataset.root={root}", "method.notes=notes", "seed=0,1", code=2)
    assert any("cannot run" in line and "scores.csv" in line for line in lines)
    assert other.status == "done"


def test_a_copied_run_with_anothers_metrics_is_damaged(trained: Train) -> None:
    one, other = trained(seed=0), trained(seed=1)
    shutil.copy(one.path / "metrics.json", other.path / "metrics.json")
    assert [row.seed for row in collect("outputs").rows] == [0]


def test_a_manifest_leads_nowhere_else(trained: Train, tmp_path: Path) -> None:
    good, foreign = trained(seed=0), trained(seed=1)
    outside = {path for path in tmp_path.rglob("*") if "outputs" not in path.parts}
    manifest = foreign.manifest
    for key in ("method", "dataset", "category"):
        for name in ("../../evil", "a/b", "", ".hidden", "x" * 65, "a\nb", "ä"):
            foreign.update(**{**manifest, key: name})
            found = collect("outputs")
            assert [row.path for row in found.rows] == [good.path]
            assert [(item.status, key in item.reason) for item in found.left_out] == [("damaged", True)]
        assert main(["report"]) == 0
    assert {path for path in tmp_path.rglob("*") if "outputs" not in path.parts} == outside
