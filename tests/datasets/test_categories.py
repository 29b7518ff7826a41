"""Several categories below the folder of a user's own."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from small_images import grey, save
from small_runs import Bench, make_images

from anomaly_bench import config
from anomaly_bench.commands.main import run_verb
from anomaly_bench.datasets.folder import Folder
from anomaly_bench.errors import UserError

OWN = ["method=brightness", "dataset=folder", "hardware=cpu"]
QUICK = ["save_heatmaps=false", "resamples=0"]


def folder(root: Path, category: str | None) -> Folder:
    return Folder(str(root), "good", "bad", 0.2, 0, category)


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """A line of parts: `7` and `nut` with flat folders, `bolt` with train and test, and two folders of no category."""
    for name in ("7", "nut"):
        for i in range(5):
            save(tmp_path / "parts" / name / "good" / f"{i}.png", grey(i))
        save(tmp_path / "parts" / name / "bad" / "0.png", grey(200))
    bolt = tmp_path / "parts" / "bolt"
    save(bolt / "train/good/0.png", grey(1))
    save(bolt / "test/bent/0.png", grey(2))
    (tmp_path / "parts" / "notes").mkdir()
    save(tmp_path / "parts" / "old" / "0.png", grey(3))
    return tmp_path / "parts"


def jobs(root: Path, *words: str, extra: Path | None = None) -> list[list[str]]:
    given = [*OWN, f"dataset.root={root}", *words]
    found = config.check(given, multirun=True, types=False, extra=str(extra) if extra else None)
    return [job[len(OWN) + 1 :] for job in found]


def test_a_category_is_the_folder_of_that_name(parts: Path) -> None:
    for name in ("7", "bolt", "nut"):
        for split in ("train", "test"):
            assert folder(parts, name).records(split) == folder(parts / name, None).records(split)


def test_folders_that_are_no_category_are_said(parts: Path) -> None:
    (parts / "readme.txt").touch()
    with pytest.warns(UserWarning, match="not used") as caught:
        assert folder(parts, None).categories() == ["7", "bolt", "nut"]
    layouts = "train/good and test/<kind>, or good and bad"
    assert [str(warning.message) for warning in caught] == [
        f"{parts}: not used: 2 x folder without {layouts} (notes, old)"
    ]


def test_an_unknown_category_is_named_with_what_is_there(parts: Path) -> None:
    with pytest.raises(UserError, match=r"dataset.category: 'bolts' is none of 7, bolt, nut, .* mean 'bolt'"):
        folder(parts, "bolts").records("train")
    with pytest.raises(UserError, match=r"'all' stands for several runs .*--multirun dataset.category=all"):
        folder(parts, "all").records("train")
    with pytest.raises(UserError, match=r"old has neither train/good and test/<kind> nor good and bad"):
        folder(parts, "old").records("train")
    (parts / "nut").rename(parts / "all")
    with pytest.raises(UserError, match=r"'all' stands for several runs"):
        folder(parts, "all").records("train")
    with pytest.raises(UserError, match=r"category=all: is every category, and one of them is called 'all' .*rename"):
        jobs(parts, "dataset.category=all")


def test_a_root_without_a_category_says_so(parts: Path) -> None:
    with pytest.raises(UserError, match=r"no folder in .*old is a category, with train/good .*it holds no folder"):
        folder(parts / "old", None).categories()
    with pytest.raises(UserError, match=r"bolt is one category itself, .*leave out dataset.category"):
        folder(parts / "bolt", None).categories()
    with pytest.raises(UserError, match=r"dataset.root: is not given"):
        Folder(None, "good", "bad", 0.2, 0, "bolt").records("train")


def test_all_is_each_category_in_its_order(parts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    each = ["dataset.category='7'", "dataset.category=bolt", "dataset.category=nut"]
    assert jobs(parts, "dataset.category=all") == [[word] for word in each]
    assert "bench: " in (said := capsys.readouterr().err)
    assert "2 x folder without" in said
    assert jobs(parts, "dataset.category='all'", "seed=0,1") == [[w, f"seed={i}"] for i in (0, 1) for w in each]
    assert jobs(parts, "dataset.category=nut,all") == [[each[2]], [each[0]], [each[1]]]
    assert jobs(parts, "dataset.category=nut,bolt") == [[each[2]], [each[1]]]
    assert config.count([*OWN, f"dataset.root={parts}", "dataset.category=all", "seed=0,1"]) == 6


def test_all_of_the_folders_that_a_yaml_of_the_users_names(parts: Path, tmp_path: Path) -> None:
    file = tmp_path / "conf" / "dataset" / "line.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(f"defaults: [folder, _self_]\nname: line\nroot: {parts}\nbad_dir: bad\n")
    words = ["method=brightness", "dataset=line", "dataset.category=all"]
    found = config.check(words, multirun=True, types=False, extra=str(file.parents[1]))
    assert [job[-1].rpartition("=")[2] for job in found] == ["'7'", "bolt", "nut"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["dataset.category=all"], "dataset.category=all: several values (add --multirun to run each of them)"),
        (["dataset.category=nut,bolt"], "dataset.category=nut,bolt: several values (add --multirun to run each"),
    ],
)
def test_several_categories_are_no_single_run(parts: Path, words: list[str], line: str) -> None:
    with pytest.raises(UserError) as caught:
        config.check([*OWN, f"dataset.root={parts}", *words], types=False)
    assert str(caught.value).startswith(line)


def identity(root: Path | str, *words: str) -> config.Identity:
    return config.identify(config.validate(config.compose([*OWN, f"dataset.root={root}", *words])))


def test_a_run_without_a_category_keeps_its_id() -> None:
    squashed = "dataset.fit=squash"  # which that version did
    assert identity("/nowhere/parts", squashed) == ("01092c11", "c45924e7")  # as the version before wrote them
    assert identity("/nowhere/parts", squashed, "dataset.name=parts") == ("87bd6656", "6c4dcb40")


def test_a_category_is_the_same_run_whichever_way_it_is_named() -> None:
    assert identity("/line", "dataset.category=7") == identity("/line/7")
    assert identity("/line", "dataset.category=7").run != identity("/line").run
    named = [identity(root, "dataset.name=line", "dataset.category=nut") for root in ("/line", "/moved")]
    assert named[0] == named[1]
    other = identity("/line", "dataset.name=line", "dataset.category=bolt")
    assert (other.setting, other.run != named[0].run) == (named[0].setting, True)


def test_two_categories_from_the_training_to_the_table(tmp_path: Path, bench: Bench) -> None:
    for name in ("bolt", "nut"):
        make_images(tmp_path / "parts" / name)
    words = [*OWN, "dataset.root=parts", "dataset.category=all", *QUICK]
    done = bench("train", "-m", *words)
    assert done.returncode == 0, done.stderr
    assert "2 runs: 2 to run" in done.stderr
    runs = sorted((tmp_path / "outputs").glob("brightness/folder/*/s0-*"))
    assert [run.parent.name for run in runs] == ["bolt", "nut"]
    manifest = json.loads((runs[0] / "manifest.json").read_text())
    assert (manifest["category"], manifest["place"]) == ("bolt", str(tmp_path / "parts" / "bolt"))
    assert "2 runs: 2 done" in bench("train", "-m", *words).stderr
    assert "already done" in bench("train", *OWN, "dataset.root=parts/nut", *QUICK).stderr
    assert bench("report", "outputs").returncode == 0
    with (tmp_path / "outputs/report/table_folder.csv").open(newline="") as file:
        lines = [row["category"] for row in csv.DictReader(file) if row["metric"] == "image_auroc"]
    assert lines == ["bolt", "nut", "mean of 2"]
    assert "are confirmed" in bench("eval", str(runs[0])).stdout
    shutil.rmtree(tmp_path / "parts" / "bolt")
    assert "parts" in bench("eval", str(runs[0])).stderr
    done = bench("predict", str(runs[0]), "parts/nut/test/hole")
    assert len(done.stdout.splitlines()) >= 3, done.stderr


def test_what_is_there_is_counted_for_each_category(
    parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_verb(["data", "verify", "folder", "root=parts", "decode=true"]) == 0
    out, err = capsys.readouterr()
    rows = [line.replace("│", " ").split() for line in out.splitlines()]
    counts = [["7", "4", "-", "1", "1", "ok"], ["bolt", "1", "-", "-", "1", "ok"], ["nut", "4", "-", "1", "1", "ok"]]
    assert [row for row in rows if row[-1:] == ["ok"]] == counts
    assert "folder: complete, 14 images" in out
    assert "2 x folder without" in err
    (parts / "nut/bad/0.png").write_text("x")
    shutil.rmtree(parts / "bolt/test")
    assert run_verb(["data", "verify", "folder", "root=parts", "decode=true"]) == 1
    assert "folder: damaged, 12 of 12 images; damaged: bolt (1 cannot be used), nut (1 cannot be used)" in " ".join(
        capsys.readouterr().out.split()
    )
    with pytest.raises(UserError, match=r"no folder in parts/notes is a category"):
        run_verb(["data", "verify", "folder", "root=parts/notes"])
    with pytest.raises(UserError, match=r"dataset.root: is not given"):
        run_verb(["data", "verify", "folder"])
