"""What a sweep says: a line when a run has ended, then one table, verdicts and commands; the rest is in log.txt."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import mean, stdev

import pytest
from small_runs import QUICK, TOY, Bench

from anomaly_bench.runs.folder import find

ENDED = re.compile(r"^(done|failed) +(\d+ s)  (.*)$", re.MULTILINE)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"\s{2,}", line.strip())]


@pytest.mark.parametrize("launcher", [[], ["hydra/launcher=toy"]], ids=["here", "through a launcher"])
def test_one_line_a_run_then_one_table(bench: Bench, images: Path, tmp_path: Path, launcher: list[str]) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "raise.2").touch()
    given = [*TOY, "method.epochs=2", *QUICK, f"dataset.root={images}", "method.notes=notes", "seed=0,1,2", *launcher]
    done = bench("train", "-m", *given)
    assert done.returncode == 1, done.stderr
    lines = ENDED.findall(done.stderr)
    assert [state for state, _, _ in lines] == ["done", "done", "failed"]
    runs = {folder.manifest["seed"]: folder for folder in find(tmp_path / "outputs")}
    for seed in (0, 1):
        said, metrics = lines[seed][2], runs[seed].metrics
        assert (
            f"seed {seed}  image_auroc {metrics['image_auroc']:.4f}  pixel_auroc {metrics['pixel_auroc']:.4f}" in said
        )
    assert lines[2][2].endswith("RuntimeError: the toy was told to fail")
    assert "epoch 1 of 2" not in done.stderr + done.stdout  # that is in the log
    for seed in (0, 1):
        log = (runs[seed].path / "log.txt").read_text()
        assert "template: epoch 2 of 2" in log
        assert re.search(rf"aupro_0\.3 +│ +{runs[seed].metrics['aupro_0.3']:.4f}", log)
        assert f"run: {runs[seed].path.relative_to(tmp_path)}" in log
    title, head, _, row = [line for line in done.stdout.splitlines() if line.strip()][:4]
    assert title == "folder  widgets"
    assert cells(head) == ["setting", "runs", "seeds", "image_auroc", "pixel_auroc", "aupro_0.3"]
    expected = ["2", "2"]
    for name in ("image_auroc", "pixel_auroc", "aupro_0.3"):
        two = [json.loads((runs[seed].path / "metrics.json").read_text())[name] for seed in (0, 1)]
        expected.append(f"{mean(two):.4f} ± {stdev(two):.4f}")
    assert cells(row)[1:] == expected
    assert "bench report outputs  ->  outputs/report/index.html" in done.stdout

    (tmp_path / "notes" / "raise.2").unlink()
    again = bench("train", "-m", *given)
    assert [state for state, _, _ in ENDED.findall(again.stderr)] == ["done"]  # what was missing
    assert cells([line for line in again.stdout.splitlines() if line.strip()][3])[1:3] == ["3", "3"]  # all of them
    assert bench("train", "-m", *given).stdout == again.stdout  # nothing to do: the same table


def test_a_quiet_run_is_one_line_and_its_table_is_in_the_log(bench: Bench, images: Path, tmp_path: Path) -> None:
    done = bench("train", "--quiet", *TOY, "method.epochs=1", *QUICK, f"dataset.root={images}")
    assert (done.returncode, done.stdout) == (0, "")
    ((state, _, said),) = ENDED.findall(done.stderr)
    (folder,) = find(tmp_path / "outputs")
    assert (state, done.stderr.count("\n")) == ("done", 1)
    assert f"image_auroc {folder.metrics['image_auroc']:.4f}" in said
    assert f"on disk: {folder.manifest['bytes'] / 1e6:.1f} MB" in (folder.path / "log.txt").read_text()
    wrong = bench("train", "-q", *TOY, "dataset.root=/nowhere")
    assert wrong.returncode == 2
    ((state, _, said),) = ENDED.findall(wrong.stderr)
    assert (state, said.rpartition(": ")[2]) == ("failed", "/nowhere")
