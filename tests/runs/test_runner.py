"""A run from its start to its end: what it leaves behind, and that all of it agrees."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file
from small_runs import FILES, QUICK, TOY, Bench, Noted, Train, contents, curve, equal, make_images

from anomaly_bench import config
from anomaly_bench.loading.image_dataset import ImageSet
from anomaly_bench.metrics import image_metrics, pixel_metrics
from anomaly_bench.runs.checkpoints import read
from anomaly_bench.runs.folder import RunFolder, find
from anomaly_bench.runs.runner import run
from anomaly_bench.runs.weights import rounded


def stored(folder: RunFolder) -> config.Settings:
    """The configuration that the folder holds."""
    cfg = OmegaConf.load(folder.path / "config.yaml")
    assert isinstance(cfg, DictConfig)
    return config.validate(cfg)


def test_a_run_leaves_the_whole_folder_and_its_files_agree(trained: Train, shared_images: Path) -> None:
    folder = trained()
    assert contents(folder) == FILES
    rows, maps = folder.scores, folder.maps
    assert maps is not None
    assert maps.shape == (10, 16, 16)
    assert maps.dtype == np.float32
    on_disk = sorted(path.relative_to(shared_images).as_posix() for path in shared_images.glob("test/*/*.png"))
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


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_weights_and_config_alone_give_the_stored_scores(train: Train, dtype: str) -> None:
    folder = train(f"weights_dtype={dtype}")
    state = load_file(folder.path / "weights.safetensors")
    assert {str(value.dtype) for value in state.values()} == {f"torch.{dtype}"}
    settings = stored(folder)
    method = config.build("method", settings.method)
    method.load_state_dict(state)
    samples = ImageSet(config.build("dataset", settings.dataset).records("test"), 16, settings.cache_dir)
    with torch.inference_mode():
        alone = [method.eval().score(samples[i]["image"][None]) for i in range(len(samples))]
    np.testing.assert_allclose([float(s.image) for s in alone], [row.score for row in folder.scores], rtol=1e-6)


def test_float16_weights_tell_how_far_the_scores_moved(train: Train, trained: Train) -> None:
    exact = trained()
    folder = train("weights_dtype=float16", outputs="half")
    moved = [abs(a.score - b.score) for a, b in zip(folder.scores, exact.scores, strict=True)]  # all 10: fewer than 16
    told = folder.manifest["weights"]
    assert (told["dtype"], told["images"]) == ("float16", 10)
    assert 0 < told["largest_change"] == pytest.approx(max(moved), rel=1e-3)
    assert told["deviation"] == pytest.approx(np.std([row.score for row in exact.scores]), rel=1e-3)
    assert "weights" not in exact.manifest
    assert rounded(torch.tensor([1e5])).dtype == torch.float32  # beyond float16's range
    assert rounded(torch.tensor([7])).dtype == torch.int64


def test_the_manifest_says_what_was_done(train: Train) -> None:
    manifest = train("method.epochs=2", seed=3).manifest
    known = {"status": "done", "method": "toy", "dataset": "folder", "category": "widgets", "seed": 3, "format": 2}
    assert known.items() <= manifest.items()
    assert manifest["images"] == {"train": 9, "val": 3, "test_good": 4, "test_anomalous": 6}
    assert set(manifest["stages"]) == {"template", "again", "score"}
    assert all(stage["seconds"] > 0 and stage["peak_memory_mb"] > 1 for stage in manifest["stages"].values())
    assert manifest["started"] <= manifest["finished"]
    assert manifest["parameters"]["trainable"] == 2 * 3 * 16 * 16
    assert manifest["command"].endswith("seed=3 method.epochs=2")
    assert manifest["versions"]["torch"] == torch.__version__.split("+")[0]
    assert manifest["resize_rule"] == 2
    assert len(manifest["checksums"]["data"]) == 64
    assert any("nothing was chosen on test images" in line for line in manifest["protocol"])
    assert "error" not in manifest


def test_the_parts_of_a_score_are_measured_like_the_score(
    train: Train, trained: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = trained(outputs="plain")
    assert plain.manifest["parts"] == {}
    (tmp_path / "notes" / "parts").touch()
    folder = train()
    assert equal(folder, plain)
    assert contents(folder) == FILES
    assert re.search(r"ours .* red alone .* mean alone", capsys.readouterr().out)
    settings = stored(folder)
    method = config.build("method", settings.method)
    method.load_state_dict(load_file(folder.path / "weights.safetensors"))
    samples = ImageSet(config.build("dataset", settings.dataset).records("test"), 16, settings.cache_dir)
    with torch.inference_mode():  # in batches, as the run did
        rows = [torch.stack([samples[i]["image"] for i in range(at, min(at + 4, 10))]) for at in (0, 4, 8)]
        parts = [method.eval().score(images).components for images in rows]
    red, mean = (torch.cat([part[name].image for part in parts]).numpy() for name in ("red", "mean"))
    labels, masks = np.array([row.label for row in folder.scores]), [samples[i]["mask"].numpy() for i in range(10)]
    maps = torch.cat([part["red"].map for part in parts]).numpy()
    of_red, of_mean = image_metrics(red, labels) | pixel_metrics(maps, masks), image_metrics(mean, labels)
    assert folder.manifest["parts"] == {"red": of_red, "mean": of_mean}
    assert of_red.keys() == folder.metrics.keys()
    assert of_red != folder.metrics


def test_a_finished_run_is_not_repeated_unless_forced(
    train: Train, trained: Train, notes: Noted, capsys: pytest.CaptureFixture[str]
) -> None:
    first = trained().manifest
    assert train().manifest == first
    assert "already done" in capsys.readouterr().err
    assert len(notes("begin")) == 1
    folder = train("force=true")
    assert len(notes("begin")) == 2
    assert len(curve(folder)) == 5
    assert folder.manifest["versions"] == first["versions"]


def test_one_seed_gives_equal_runs_to_the_bit_another_does_not(train: Train, trained: Train) -> None:
    one, same, other = trained(), train(outputs="elsewhere"), trained(seed=1)
    assert equal(one, same)
    assert one.path.name == same.path.name != other.path.name
    assert not equal(one, other)


def test_maps_and_pictures_can_be_left_out(train: Train) -> None:
    folder = train("save_maps=false", "save_heatmaps=false")
    assert contents(folder) == FILES - {"maps.npy", "heatmaps"}
    assert "pixel_auroc" in folder.metrics


def test_labels_and_masks_never_reach_a_method(trained: Train, notes: Noted) -> None:
    trained()
    steps, scored = notes("step"), notes("score")
    assert {tuple(step["keys"]) for step in steps} == {("image", "path")}
    assert {path.split("/")[0] for step in steps for path in step["paths"]} == {"train"}
    assert {line["type"] for line in scored} == {"Tensor"}
    assert sum(line["shape"][0] for line in scored) == 10


def test_a_method_computes_its_statistics_on_the_device_of_the_run(
    train: Train, notes: Noted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anomaly_bench.runs.runner.pick_device", lambda hardware: torch.device("meta"))
    train(code=1)  # fails in the training: there is no data on this device
    assert [line["device"] for line in notes("begin")] == ["meta"]


def test_a_paper_on_the_demo_images(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["method=rd", "method.backbone=resnet18", f"method.weights={weights}", "method.image_size=64"]
    words += ["method.epochs=1", "dataset=demo/brick", "hardware=cpu", *QUICK]
    monkeypatch.setattr(RunFolder, "clear_leftovers", lambda _: None)
    folder = run(config.compose([*words, f"output_dir={tmp_path}"]), words)
    manifest = folder.manifest
    assert folder.path.parent == tmp_path / "rd" / "demo" / "brick"
    assert manifest["images"] == {"train": 40, "val": 0, "test_good": 16, "test_anomalous": 24}
    assert manifest["provenance"]["backbone_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert manifest["parameters"]["trainable"] < manifest["parameters"]["total"]
    assert len(folder.scores) == 40
    assert 0 <= folder.metrics["aupro_0.3"] <= 1
    stored = load_file(folder.path / "weights.safetensors")
    assert any(key.startswith("teacher.") for key in stored)  # a finished run needs no other file
    state = read(folder.path / "checkpoints" / "distillation" / "last.ckpt")["state_dict"]
    assert not any(
        key.startswith("teacher.") and key.endswith("conv1.weight") for key in state
    )  # frozen: once is enough


@pytest.mark.parametrize(("dtype", "close"), [("float16", 2e-3), pytest.param("float32", 1e-5, marks=pytest.mark.slow)])
def test_a_training_on_stored_features_is_the_same(tmp_path: Path, weights: Path, dtype: str, close: float) -> None:
    """The teacher of Reverse Distillation sees each image once, not in each epoch."""
    images = make_images(tmp_path / "images")
    words = ["method=rd", "method.backbone=resnet18", f"method.weights={weights}", "method.image_size=32"]
    words += ["method.epochs=2", "method.batch_size=4", "method.lr=0.0001", "dataset=folder", f"dataset.root={images}"]
    words += ["hardware=cpu", "hardware.threads=1", *QUICK, f"cache_dir={tmp_path}", f"output_dir={tmp_path}"]
    plain = run(config.compose([*words, "method.feature_dtype=null"]))
    kept = run(config.compose([*words, f"method.feature_dtype={dtype}"]))
    assert len(list(tmp_path.glob("*.features"))) == 1
    np.testing.assert_allclose(losses(kept), losses(plain), rtol=close)
    scores, expected = ([row.score for row in folder.scores] for folder in (kept, plain))
    np.testing.assert_allclose(scores, expected, rtol=30 * close)


def losses(folder: RunFolder) -> list[float]:
    with (folder.path / "training.csv").open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def test_two_processes_make_one_folder_and_share_each_batch(
    tmp_path: Path, images: Path, bench: Bench, notes: Noted
) -> None:
    (tmp_path / "notes").mkdir()
    given = {"accelerator": "cpu", "devices": 2, "sync_batchnorm": False, "workers": 0}
    hardware = ["hardware=multi_gpu", *(f"hardware.{key}={value}" for key, value in given.items())]
    words = ["train", *TOY, *hardware, f"dataset.root={images}", "method.notes=notes", "method.kind=one"]
    done = bench(*words)
    if "terminated with signal SIGABRT" in done.stderr:  # gloo, now and then, as its processes end
        done = bench(*words)  # the same command goes on
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
    assert learned.std() < 0.15  # what the processes learned came back: it was drawn with a deviation of 0.29


def test_maps_beyond_the_budget_are_streamed_and_the_run_says_so(
    train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    exact = train(outputs="exact")
    assert exact.manifest["measurement"]["how"] == "exact"
    assert set(exact.manifest["measurement"]["intervals"]) == set(exact.metrics)
    said = capsys.readouterr().out
    assert "measured: exact metrics; intervals: 95%, 1000 bootstrap resamples" in said
    assert "red alone" not in said
    streamed = train("hardware.metrics_memory_mb=0", "resamples=0", outputs="streamed")
    assert streamed.path.name == exact.path.name
    assert "pixel metrics in one pass, each with its largest error" in capsys.readouterr().out
    measurement = streamed.manifest["measurement"]
    assert (measurement["how"], measurement["intervals"]) == ("streaming", {})
    for name, bound in measurement["bounds"].items():
        assert abs(streamed.metrics[name] - exact.metrics[name]) <= bound, name
    assert set(streamed.metrics) - set(measurement["bounds"]) == {"image_auroc", "image_ap", "image_f1_max"}


@pytest.mark.parametrize("logger", ["csv", "tensorboard", "mlflow"])
def test_a_logger_writes_into_the_run_folder(train: Train, trained: Train, logger: str, tmp_path: Path) -> None:
    if not importlib.util.find_spec(logger):
        pytest.skip(f"{logger} is not installed")
    folder = train(f"logger={logger}")
    written = [path for path in (folder.path / "logs").rglob("*") if path.is_file()]
    assert written
    assert contents(folder) == FILES | {"logs"}
    assert {path.name for path in tmp_path.iterdir()} == {"notes", "outputs"}  # and nowhere else
    assert folder.path.name == trained(outputs="other").path.name  # a logger is not science
