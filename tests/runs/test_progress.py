"""`.progress.json`: what a run writes of itself, and what is read of it."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from small_runs import Train

from anomaly_bench.runs import progress
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.progress import FILE, Progress, progress_line


def test_the_time_left_is_by_the_steps_of_this_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PAUSE", 0.0)
    written = Progress(tmp_path, "template")
    written.tell(100, 130)  # an earlier attempt took them, in no time of this one
    assert json.loads((tmp_path / FILE).read_text())["left"] is None
    assert progress_line(tmp_path) == "template  step 100 of 130"
    time.sleep(0.3)
    written.tell(110, 130, epoch=3, epochs=4, loss=0.25)
    known = json.loads((tmp_path / FILE).read_text())
    assert 0.6 <= known["left"] < 6  # 10 steps took 0.3 s or, on a busy machine, a little more; 20 are left
    line = progress_line(tmp_path)
    assert re.fullmatch(r"template  epoch 3 of 4  step 110 of 130  loss 0\.25  \d s left", line)


def test_it_is_written_every_two_seconds_and_never_ends_a_run(tmp_path: Path) -> None:
    written = Progress(tmp_path, "template")
    written.tell(1, 10)
    written.tell(2, 10)  # at once: not yet
    assert progress_line(tmp_path) == "template  step 1 of 10"
    (tmp_path / "file").write_text("")
    Progress(tmp_path / "file", "template").tell(1, 10)  # no folder can be there


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"stage": 1}', '{"stage": "a", "step": "x", "left": 1}', "7"])
def test_a_damaged_file_is_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    assert progress_line(tmp_path) == ""


def test_a_run_tells_each_stage_and_leaves_nothing_behind(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PAUSE", 0.0)
    seen: list[dict[str, float]] = []
    write = progress.write_atomic

    def written(path: Path, *rest: object, **more: object) -> None:
        write(path, *rest, **more)  # type: ignore[arg-type]
        seen.append(json.loads(path.read_text()))

    monkeypatch.setattr(progress, "write_atomic", written)
    folder = train("method.epochs=2")
    of_stage = {name: [known for known in seen if known["stage"] == name] for name in ("template", "again", "score")}
    steps = 3  # 9 images, 4 in a batch
    assert [(k["epoch"], k["step"]) for k in of_stage["template"]] == [(1, 1), (1, 2), (1, 3), (2, 4), (2, 5), (2, 6)]
    assert {(k["epochs"], k["steps"]) for k in of_stage["template"]} == {(2, 2 * steps)}
    assert [k["step"] for k in of_stage["again"]] == [1, 2]
    assert of_stage["score"][0]["steps"] == len(folder.scores)
    assert all(known["loss"] > 0 for known in of_stage["template"])
    assert not (folder.path / FILE).exists()


def test_a_finished_run_knows_its_size(trained: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    folder: RunFolder = trained()
    manifest = folder.path / "manifest.json"
    others = sum(f.stat().st_size for f in folder.path.rglob("*") if f.is_file() and f != manifest)
    log = (folder.path / "log.txt").stat().st_size
    assert others - log < folder.manifest["bytes"] <= others + manifest.stat().st_size  # the last lines came later
