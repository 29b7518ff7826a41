"""However a run ends, nothing is lost, nothing is repeated, and it goes on as if nothing had happened."""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
from forks import Forked, Forks
from small_runs import FILES, QUICK, TOY, TOYS, Begin, Bench, Noted, Train, contents, curve, environment, equal

from anomaly_bench import config
from anomaly_bench.runs.checkpoints import read
from anomaly_bench.runs.folder import find
from anomaly_bench.runs.runner import run
from anomaly_bench.runs.stored_run import TRACK


def test_a_failed_run_says_why_and_the_next_call_goes_on(
    train: Train, trained: Train, notes: Noted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = trained(outputs="whole")
    began = len(notes("step"))
    (tmp_path / "notes" / "raise").touch()
    folder = train("checkpoint_seconds=0", code=1)
    assert folder.status == "failed"
    assert folder.manifest["error"] == "RuntimeError: the toy was told to fail"
    assert "bench: failed: RuntimeError: the toy was told to fail" in capsys.readouterr().err
    log = (folder.path / "log.txt").read_text()
    assert "Traceback" in log
    assert 'raise RuntimeError("the toy was told to fail")' in log
    (tmp_path / "notes" / "raise").unlink()
    folder = train("checkpoint_seconds=0")
    assert folder.status == "done"
    assert "error" not in folder.manifest
    epochs = [step["epoch"] for step in notes("step")[began:] if step["shape"][0] != 3]  # the template's
    assert epochs == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2]  # the failed epoch again, the one before it not
    assert equal(folder, whole)
    assert folder.manifest["learning"] == whole.manifest["learning"]


@pytest.mark.parametrize(("fault", "loss"), [("nan", "nan"), ("explode", r"\d\.\d+e\+11")])
def test_a_loss_that_leaves_all_bounds_stops_the_run_and_keeps_the_last_checkpoint(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str, loss: str
) -> None:
    (tmp_path / "notes" / fault).touch()
    folder = train("checkpoint_seconds=0", code=2)
    line = next(x for x in capsys.readouterr().err.splitlines() if x.startswith("bench:"))
    said = rf"bench: template, epoch 2, step 4: loss is {loss} \(the training diverged; a smaller method.lr\?\)"
    assert re.fullmatch(said, line)
    assert folder.status == "failed"
    assert curve(folder) == [("template", 0)]
    state = read(folder.path / "checkpoints" / "template" / "last.ckpt")
    assert state["epoch"] == 0
    assert state["state_dict"]["mean"].isfinite().all()


def test_a_loss_that_is_wrong_before_anything_was_learned_is_no_divergence(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes" / "nan_at_once").touch()
    train(code=2)
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("bench:")]
    assert line.startswith("bench: template, epoch 1, step 1: loss is nan (before anything was learned: ")
    assert "diverged" not in line


def test_a_damaged_loss_curve_is_named(train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes" / "raise").touch()
    file = train("checkpoint_seconds=0", code=1).path / "training.csv"
    content = file.read_bytes()
    for harmed in (
        content[: content.index(b"\n") + 6],
        content.replace(b"0.", b"\xff."),
        b"\0" * 99,
        content.replace(b"epoch", b"epohc"),
    ):
        file.write_bytes(harmed)
        train("checkpoint_seconds=0", code=2)
        assert f"bench: {file}: is damaged (" in capsys.readouterr().err
    file.unlink()
    (tmp_path / "notes" / "raise").unlink()
    assert curve(train("checkpoint_seconds=0"))[:2] == [("template", 1), ("template", 2)]


def test_finished_stages_are_loaded_and_the_code_between_them_runs_again(
    train: Train, trained: Train, notes: Noted, bench: Bench, shared_images: Path, tmp_path: Path
) -> None:
    whole = trained(outputs="whole")
    steps = len(notes("step"))
    (tmp_path / "notes" / "die").touch()
    words = ["train", *TOY, f"dataset.root={shared_images}", "method.notes=notes", "output_dir=outputs", "seed=0"]
    assert bench(*words).returncode == -signal.SIGKILL  # while it scores
    (folder,) = find("outputs")
    assert folder.status == "running"
    assert not contents(folder) & {"metrics.json", "scores.csv", "maps.npy", "heatmaps"}
    assert len(notes("step")) == 2 * steps
    (tmp_path / "notes" / "die").unlink()
    assert train().path.resolve() == folder.path.resolve()
    assert len(notes("step")) == 2 * steps  # nothing trained again
    assert [line["shift"] for line in notes("between")] == 3 * [notes("between")[0]["shift"]]
    assert contents(folder) == FILES
    assert equal(folder, whole)
    assert folder.manifest["learning"] == whole.manifest["learning"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_before_any_of_its_writes_a_run_is_never_called_done_and_goes_on(
    trained: Train, forks: Forks, tmp_path: Path, shared_images: Path, step: int
) -> None:
    whole = trained("track_test=true", outputs="whole")
    words = [*TOY, f"dataset.root={shared_images}", "checkpoint_seconds=0", "save_heatmaps=true", "cache_dir=cache"]
    words.append("track_test=true")
    done = forks.run(
        [TOYS / "die.py", "60", str(step), *words, "method.notes=notes", "seed=0"], tmp_path, environment()
    )
    attempts = [line.split()[2:] for line in done.stdout.splitlines() if line.startswith("attempt ")]
    assert len(attempts) > 15 / step, done.stderr
    assert all(ended == "9" and status in ("new", "running") for ended, status in attempts[:-1])
    assert attempts[-1] == ["0", "done"]
    (folder,) = find("outputs")
    assert contents(folder) == FILES | {TRACK}  # no temporary file of a killed attempt is left
    assert curve(folder) == curve(whole)
    assert equal(folder, whole)
    for name in ("metrics.json", "scores.csv", "maps.npy", "weights.safetensors", "curves.json", "images.csv", TRACK):
        assert (folder.path / name).read_bytes() == (whole.path / name).read_bytes(), name
    left = [path for place in ("outputs", "cache") for path in (tmp_path / place).rglob("*")]
    assert left
    assert [path for path in left if path.suffix in (".part", ".partial") or path.name.startswith(".lock")] == []


def test_killed_in_the_middle_of_its_training_a_run_ends_like_an_undisturbed_one(
    begin: Begin, shared_images: Path, tmp_path: Path, weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "anomaly_bench")  # as `bench` does, for log.txt
    words = ["method=rd", "method.backbone=resnet18", f"method.weights={weights}", "method.image_size=32"]
    words += ["method.batch_size=6", "method.epochs=3", "dataset=folder", f"dataset.root={shared_images}"]
    words += ["hardware=cpu", "hardware.threads=1", *QUICK]
    child = begin("train", *words, "checkpoint_seconds=0")
    until_a_checkpoint(child, tmp_path)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait().returncode == -signal.SIGKILL
    (killed,) = find(tmp_path / "outputs")
    assert killed.status == "running"
    assert 1 <= len(curve(killed)) < 3
    for outputs in ("outputs", "whole"):
        run(config.compose([*words, f"output_dir={tmp_path / outputs}"]))
    (whole,) = find(tmp_path / "whole")
    assert "resumes from" in (killed.path / "log.txt").read_text()
    assert killed.status == "done"
    assert curve(killed) == curve(whole) == [("distillation", epoch) for epoch in range(3)]
    assert killed.metrics == pytest.approx(whole.metrics, abs=5e-5, nan_ok=True)


def until_a_checkpoint(child: Forked, folder: Path) -> None:
    while not list(folder.glob("outputs/**/last.ckpt")) and child.poll() is None:
        time.sleep(0.01)


def test_interrupted_by_the_keyboard_it_goes_on_later(begin: Begin, tmp_path: Path, images: Path) -> None:
    child = begin("train", *TOY, f"dataset.root={images}", "method.epochs=5000", "checkpoint_seconds=0")
    until_a_checkpoint(child, tmp_path)
    os.kill(child.pid, signal.SIGINT)
    ended = child.wait()
    assert ended.returncode == 130, ended.stderr
    assert ended.stderr.splitlines()[-1] == "bench: interrupted; the same command goes on where it stopped"
    (folder,) = find(tmp_path / "outputs")
    assert folder.status == "running"


def test_data_that_changed_under_a_run_are_refused(
    train: Train, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = train().manifest
    shutil.copy(images / "train/good/000.png", images / "train/good/100.png")
    folder = train(code=2)
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("bench: dataset: its files are not those that ")
    assert "force=true trains the run anew" in line
    assert folder.manifest == before
    assert train("force=true").manifest["images"]["train"] == 10


@pytest.mark.parametrize(("kib", "file"), [(100, "last.ckpt"), (158, "maps.npy")])
def test_a_full_disk_is_one_line_and_the_run_goes_on_later(
    kib: int, file: str, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    import resource

    words = ["checkpoint_seconds=0", "method.epochs=1", "method.image_size=64", "save_heatmaps=false"]
    # a checkpoint of 147 KiB, maps of 160
    whole = train(*words, outputs="whole")  # also decodes the images
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (kib * 1024, hard))
    try:
        folder = train(*words, code=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("bench: ")]
    assert f"{folder.path}/" in line
    assert f"{file}: cannot be written: {os.strerror(errno.EFBIG)}" in line
    assert line.endswith("(free some space or choose another output_dir=DIR)")
    assert folder.status == "failed"
    assert train(*words).metrics == whole.metrics
