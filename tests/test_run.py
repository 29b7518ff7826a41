"""The life of a run: what it leaves behind, and that nothing is lost or repeated however it ends."""

from __future__ import annotations

import csv
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file
from small_runs import TOY, TOYS, Bench, Noted, Train, environment, make_images

from anomaly_bench import config
from anomaly_bench.data.loading import ImageSet
from anomaly_bench.metrics import image_metrics, pixel_metrics
from anomaly_bench.run import run
from anomaly_bench.store import RunFolder, find

FILES = {
    *("manifest.json", "config.yaml", "overrides.txt", "metrics.json", "scores.csv", "maps.npy", "heatmaps"),
    *("weights.safetensors", "checkpoints", "log.txt", "training.csv"),
}


def curve(folder: RunFolder) -> list[tuple[str, int]]:
    """(stage, epoch) of each row of training.csv."""
    with (folder.path / "training.csv").open(newline="") as file:
        return [(row["stage"], int(row["epoch"])) for row in csv.DictReader(file)]


def equal(one: RunFolder, other: RunFolder) -> bool:
    """Metrics, scores and maps, to the bit."""
    assert one.maps is not None
    assert other.maps is not None
    return one.metrics == other.metrics and one.scores == other.scores and np.array_equal(one.maps, other.maps)


def stored(folder: RunFolder) -> config.Settings:
    """The configuration that the folder holds."""
    cfg = OmegaConf.load(folder.path / "config.yaml")
    assert isinstance(cfg, DictConfig)
    return config.validate(cfg)


def contents(folder: RunFolder) -> set[str]:
    return {path.name for path in folder.path.iterdir()}


def test_a_run_leaves_the_whole_folder_and_its_files_agree(train: Train, images: Path) -> None:
    folder = train()
    assert contents(folder) == FILES
    rows, maps = folder.scores, folder.maps
    assert maps is not None
    assert maps.shape == (10, 16, 16)
    assert maps.dtype == np.float32
    on_disk = sorted(path.relative_to(images).as_posix() for path in images.glob("test/*/*.png"))
    assert sorted(row.path for row in rows) == on_disk  # each test image exactly once
    assert all(row.kind == row.path.split("/")[1] and row.label == (row.kind != "good") for row in rows)
    assert [row.score for row in rows] == [
        float(m.max()) for m in maps
    ]  # the toy's image score: same order as the maps
    assert len(list((folder.path / "heatmaps").glob("*.png"))) == 10
    assert curve(folder) == [("template", 0), ("template", 1), ("template", 2), ("again", 0), ("again", 1)]
    assert "template: epoch 3 of 3" in (folder.path / "log.txt").read_text()
    assert "method.notes=notes" in (folder.path / "overrides.txt").read_text().splitlines()


def test_metrics_can_be_measured_again_from_the_stored_scores_and_maps(train: Train) -> None:
    folder = train()
    settings = stored(folder)
    records = config.build("dataset", settings.dataset).records("test")
    samples = ImageSet(records, 16, settings.cache_dir)
    masks = [samples[i]["mask"].numpy() for i in range(len(samples))]
    scores, labels = (np.array([getattr(row, name) for row in folder.scores]) for name in ("score", "label"))
    assert folder.maps is not None
    assert folder.metrics == image_metrics(scores, labels) | pixel_metrics(folder.maps, masks)
    assert 0.6 < folder.metrics["pixel_auroc"] < 1  # a number that a wrong order of the masks would change


def test_weights_and_config_alone_give_the_stored_scores(train: Train) -> None:
    folder = train()
    settings = stored(folder)
    method = config.build("method", settings.method)
    method.load_state_dict(load_file(folder.path / "weights.safetensors"))
    samples = ImageSet(config.build("dataset", settings.dataset).records("test"), 16, settings.cache_dir)
    with torch.inference_mode():
        alone = [method.eval().score(samples[i]["image"][None]) for i in range(len(samples))]
    np.testing.assert_allclose([float(s.image) for s in alone], [row.score for row in folder.scores], rtol=1e-6)


def test_the_manifest_says_what_was_done(train: Train) -> None:
    manifest = train("method.epochs=2", seed=3).manifest
    known = {"status": "done", "method": "toy", "dataset": "folder", "category": "widgets", "seed": 3, "format": 1}
    assert known.items() <= manifest.items()
    assert manifest["images"] == {"train": 9, "val": 3, "test_good": 4, "test_anomalous": 6}
    assert set(manifest["stages"]) == {"template", "again", "score"}
    assert all(stage["seconds"] > 0 and stage["peak_memory_mb"] > 1 for stage in manifest["stages"].values())
    assert manifest["started"] <= manifest["finished"]
    assert manifest["parameters"]["trainable"] == 2 * 3 * 16 * 16
    assert manifest["command"].endswith("seed=3 method.epochs=2")
    assert manifest["versions"]["torch"] == torch.__version__.split("+")[0]
    assert len(manifest["checksums"]["data"]) == 64
    assert any("nothing was chosen on test images" in line for line in manifest["protocol"])
    assert "error" not in manifest


def test_a_finished_run_is_not_repeated_unless_forced(
    train: Train, notes: Noted, capsys: pytest.CaptureFixture[str]
) -> None:
    first = train().manifest
    capsys.readouterr()
    assert train().manifest == first
    assert "already done" in capsys.readouterr().err
    assert len(notes("begin")) == 1
    folder = train("force=true")
    assert len(notes("begin")) == 2
    assert len(curve(folder)) == 5
    assert folder.manifest["versions"] == first["versions"]


def test_one_seed_gives_equal_runs_to_the_bit_another_does_not(train: Train) -> None:
    one, same, other = train(), train(outputs="elsewhere"), train(seed=1)
    assert equal(one, same)
    assert one.path.name == same.path.name != other.path.name
    assert not equal(one, other)


def test_maps_and_pictures_can_be_left_out(train: Train) -> None:
    folder = train("save_maps=false", "save_heatmaps=false")
    assert contents(folder) == FILES - {"maps.npy", "heatmaps"}
    assert "pixel_auroc" in folder.metrics


def test_labels_and_masks_never_reach_a_method(train: Train, notes: Noted) -> None:
    train()
    steps, scored = notes("step"), notes("score")
    assert {tuple(step["keys"]) for step in steps} == {("image", "path")}
    assert {path.split("/")[0] for step in steps for path in step["paths"]} == {"train"}
    assert {line["type"] for line in scored} == {"Tensor"}
    assert sum(line["shape"][0] for line in scored) == 10


def test_a_failed_run_says_why_and_the_next_call_goes_on(
    train: Train, notes: Noted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = train(outputs="whole")
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


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes" / "nan").touch()
    folder = train("checkpoint_seconds=0", code=2)
    line = next(x for x in capsys.readouterr().err.splitlines() if x.startswith("bench:"))
    assert line == "bench: template, epoch 2, step 6: loss is nan (the training diverged; a smaller method.lr?)"
    assert folder.status == "failed"
    assert curve(folder) == [("template", 0)]
    state = torch.load(folder.path / "checkpoints" / "template" / "last.ckpt", weights_only=False)
    assert state["epoch"] == 0
    assert state["state_dict"]["mean"].isfinite().all()


def test_finished_stages_are_loaded_and_the_code_between_them_runs_again(
    train: Train, notes: Noted, tmp_path: Path, bench: Bench, images: Path
) -> None:
    whole = train(outputs="whole")
    steps = len(notes("step"))
    (tmp_path / "notes" / "die").touch()
    words = ["train", *TOY, f"dataset.root={images}", "method.notes=notes", "output_dir=outputs", "seed=0"]
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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_killed_before_any_of_its_writes_a_run_is_never_called_done_and_goes_on(
    train: Train, tmp_path: Path, images: Path
) -> None:
    whole = train("checkpoint_seconds=0", outputs="whole")
    words = [*TOY, f"dataset.root={images}", "checkpoint_seconds=0", "save_heatmaps=true"]
    done = subprocess.run(
        [sys.executable, str(TOYS / "die.py"), "60", *words, "method.notes=notes", "seed=0"],
        env=environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    attempts = [line.split()[2:] for line in done.stdout.splitlines() if line.startswith("attempt ")]
    assert len(attempts) > 12, done.stderr
    assert all(ended == "9" and status in ("new", "running") for ended, status in attempts[:-1])
    assert attempts[-1] == ["0", "done"]
    (folder,) = find("outputs")
    assert contents(folder) == FILES  # no temporary file of a killed attempt is left
    assert curve(folder) == curve(whole)
    assert equal(folder, whole)


def test_killed_in_the_middle_of_its_training_a_run_ends_like_an_undisturbed_one(tmp_path: Path, weights: Path) -> None:
    root = make_images(tmp_path / "widgets", side=64)
    words = ["method=rd", "method.backbone=resnet18", f"method.weights={weights}", "method.image_size=64"]
    words += ["method.batch_size=4", "method.epochs=4", "dataset=folder", f"dataset.root={root}"]
    words += ["hardware=cpu", "hardware.threads=1", "checkpoint_seconds=0"]
    child = begin(tmp_path, *words)
    child.kill()
    child.communicate()
    (killed,) = find(tmp_path / "outputs")
    assert child.returncode == -signal.SIGKILL
    assert killed.status == "running"
    assert 1 <= len(curve(killed)) < 4
    for outputs in ("outputs", "whole"):
        run(config.compose([*words, f"output_dir={tmp_path / outputs}"]))
    (whole,) = find(tmp_path / "whole")
    assert "resumes from" in (killed.path / "log.txt").read_text()
    assert killed.status == "done"
    assert curve(killed) == curve(whole) == [("distillation", epoch) for epoch in range(4)]
    assert killed.metrics == pytest.approx(whole.metrics, abs=5e-5, nan_ok=True)


def begin(folder: Path, *words: str) -> subprocess.Popen[str]:
    """`bench train` in another process, below `folder`, after its first checkpoint."""
    command = [sys.executable, "-m", "anomaly_bench", "train", *words]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    child = subprocess.Popen(command, cwd=folder, env=environment(), **pipes)
    while not list(folder.glob("outputs/**/last.ckpt")) and child.poll() is None:
        time.sleep(0.01)
    return child


def test_interrupted_by_the_keyboard_it_goes_on_later(tmp_path: Path, images: Path) -> None:
    child = begin(tmp_path, *TOY, f"dataset.root={images}", "method.epochs=5000", "checkpoint_seconds=0")
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 130, said
    assert said.splitlines()[-1] == "bench: interrupted; the same command goes on where it stopped"
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


def test_two_processes_make_one_folder_and_share_each_batch(
    tmp_path: Path, images: Path, bench: Bench, notes: Noted
) -> None:
    (tmp_path / "notes").mkdir()
    given = {"accelerator": "cpu", "devices": 2, "sync_batchnorm": False, "workers": 0}
    hardware = ["hardware=multi_gpu", *(f"hardware.{key}={value}" for key, value in given.items())]
    done = bench("train", *TOY, *hardware, f"dataset.root={images}", "method.notes=notes", "method.kind=one")
    assert done.returncode == 0, done.stderr
    (folder,) = find(tmp_path / "outputs")
    assert contents(folder) == FILES
    assert curve(folder) == [("template", 0), ("template", 1), ("template", 2)]
    steps = notes("step")
    assert len({step["pid"] for step in steps}) == 2
    assert max(step["shape"][0] for step in steps) == 2  # a batch of four, half for each
    seen = [path for step in steps if step["epoch"] == 0 for path in step["paths"]]
    assert len(set(seen)) == 9
    scored = [row.path for row in folder.scores]
    assert len(scored) == len(set(scored)) == 10
    assert sum(line["shape"][0] for line in notes("score")) == 10
    learned = load_file(folder.path / "weights.safetensors")["template.mean"]
    fitted = torch.load(folder.path / "checkpoints/template/last.ckpt", weights_only=True)["state_dict"]["mean"]
    assert torch.equal(learned, fitted)  # what the processes learned came back


@pytest.mark.parametrize("logger", ["csv", "tensorboard", "mlflow"])
def test_a_logger_writes_into_the_run_folder(train: Train, logger: str, tmp_path: Path) -> None:
    if not importlib.util.find_spec(logger):
        pytest.skip(f"{logger} is not installed")
    folder = train(f"logger={logger}")
    written = [path for path in (folder.path / "logs").rglob("*") if path.is_file()]
    assert written
    assert contents(folder) == FILES | {"logs"}
    assert {path.name for path in tmp_path.iterdir()} == {"notes", "outputs", "widgets"}  # and nowhere else
    assert folder.path.name == train(outputs="other").path.name  # a logger is not science
