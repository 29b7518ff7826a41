"""A finished run as a model: from its own folder alone, wherever that lies, and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from anomaly_bench.errors import UserError
from anomaly_bench.inference.load import load
from anomaly_bench.runs.calibration import read_rows
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.stored_run import CALIBRATION
from tests.forks import Forks
from tests.former_runs import with_former_keys
from tests.inference.conftest import CONF
from tests.inference.small_models import METHODS, PAPERS, images_of, predicted
from tests.small_runs import environment

AUDIT = Path(__file__).with_name("audit_predict.py")


def copied(folder: RunFolder, place: Path) -> RunFolder:
    shutil.copytree(folder.path, place)
    return RunFolder(place)


def reseal(folder: RunFolder, **changes: object) -> None:
    """Make the checksums those of the files as they are now."""
    manifest = folder.path / "manifest.json"
    content = {**json.loads(manifest.read_text()), **changes}
    for name in content["files"]:
        content["files"][name] = hashlib.sha256((folder.path / name).read_bytes()).hexdigest()
    manifest.write_text(json.dumps(content))


@pytest.mark.parametrize("methods", [PAPERS, pytest.param(METHODS, marks=pytest.mark.slow)], ids=len)
def test_no_other_file_is_opened_and_no_socket(
    methods: tuple[str, ...], finished: Callable[..., RunFolder], tmp_path: Path, forks: Forks
) -> None:
    jobs = []
    for method in methods:
        folder = copied(finished(method), tmp_path / "runs" / method)
        image = str(shutil.copy(images_of(folder)[0], tmp_path / f"{method}.png"))
        jobs.append([str(folder.path), image, folder.scores[0].score])
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/resnet18.tv_in1k.safetensors").write_bytes(b"nothing")
    places = {"ANOMALY_BENCH_CACHE": tmp_path / "cache", "ANOMALY_BENCH_WEIGHTS": tmp_path / "weights"}
    places |= {"HOME": tmp_path / "home", "HF_HOME": tmp_path / "home"}
    variables = environment(**{key: str(value) for key, value in places.items()})
    done = forks.run([AUDIT, json.dumps(jobs)], tmp_path, variables)
    assert done.returncode == 0, done.stderr[-1000:]
    found = json.loads(done.stdout.splitlines()[-1])
    images = {job[1] for job in jobs}
    others = {path for path in found["files"] if not path.startswith(f"{tmp_path}/runs/")} - images
    assert others == set()
    assert found["sockets"] == []
    assert images < set(found["files"])  # the hook hears what it should
    assert {Path(path).name for path in found["files"]} >= {"manifest.json", "config.yaml", CALIBRATION}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [*map(os.path.basename, images), "runs", "weights"]
    )


def test_a_run_of_an_earlier_version(finished: Callable[..., RunFolder], tmp_path: Path) -> None:
    folder = copied(finished("us"), tmp_path / "run")
    with_former_keys(folder)
    assert "teacher_steps: 50000" in (folder.path / "config.yaml").read_text()
    (tmp_path / "run/manifest.json").write_text(
        without(folder, "hardware", "thresholds", "training_images", "deciding_checksum")
    )
    (result,) = predicted(load(folder.path, "cpu"), images_of(folder)[0])
    assert result.score == pytest.approx(folder.scores[0].score, rel=1e-6)
    assert (result.p_value, result.label, result.unlike) == (None, None, "")


def without(folder: RunFolder, *keys: str) -> str:
    return json.dumps({key: value for key, value in folder.manifest.items() if key not in keys})


def test_the_calibration_scores_are_those_of_the_threshold(toy_run: RunFolder, tmp_path: Path) -> None:
    scores = [row.score for row in read_rows(toy_run, CALIBRATION)]
    folder = copied(toy_run, tmp_path / "run")
    only_pixel = {"pixel": toy_run.manifest["thresholds"]["pixel"]}
    folder.update(thresholds=only_pixel)
    model = load(folder.path, config_dir=CONF)
    assert model.calibration is not None
    assert model.calibration.tolist() == scores
    (result,) = model.predict(np.zeros((8, 8), np.uint8))
    assert result.p_value is not None
    assert (result.label, result.threshold) == (None, None)
    assert result.pixel_threshold == only_pixel["pixel"]["threshold"]


@pytest.mark.parametrize("key", ["thresholds", "training_images"])
def test_what_decides_is_not_believed_when_it_was_changed(toy_run: RunFolder, tmp_path: Path, key: str) -> None:
    folder = copied(toy_run, tmp_path / "run")
    manifest = json.loads((folder.path / "manifest.json").read_text())
    if key == "thresholds":
        manifest[key]["image"]["threshold"] += 1
    else:
        manifest[key]["mean_grey"][0] -= 1
    (folder.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"manifest.json: its thresholds, or the ranges .* were changed or damaged"):
        load(folder.path, config_dir=CONF)


def test_the_model_learns_no_more(toy_run: RunFolder) -> None:
    model = load(toy_run.path, "cpu", CONF)
    assert not model.method.training
    assert not any(parameter.requires_grad for parameter in model.method.parameters())
    assert (model.image_size, model.batch_size) == (16, 4)
    assert "toy trained on folder/widgets, seed 0; 16 x 16 pixels, batches of 4, cpu" in repr(model)


def damage(name: str) -> Callable[[Path], object]:
    def change(run: Path) -> object:
        return (run / name).write_bytes((run / name).read_bytes()[:-20])

    return change


@pytest.mark.parametrize(
    ("change", "where", "what"),
    [
        (shutil.rmtree, "run", "no run is here"),
        (lambda run: (run / "manifest.json").unlink(), "run", "no run is here"),
        (damage("manifest.json"), "manifest.json", "damaged"),
        (damage("config.yaml"), "config.yaml", "changed or damaged after the run was done"),
        (damage("weights.safetensors"), "weights.safetensors", "changed or damaged"),
        (damage(CALIBRATION), CALIBRATION, "changed or damaged"),
        (lambda run: (run / "weights.safetensors").unlink(), "weights.safetensors", "is missing"),
    ],
)
def test_a_run_that_is_none_or_damaged_is_named(
    toy_run: RunFolder, tmp_path: Path, change: Callable[[Path], object], where: str, what: str
) -> None:
    change(copied(toy_run, tmp_path / "run").path)
    with pytest.raises(UserError) as refused:
        load(tmp_path / "run", config_dir=CONF)
    assert Path(refused.value.where).name == where
    assert what in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_a_run_that_is_not_finished(toy_run: RunFolder, tmp_path: Path) -> None:
    reseal(copied(toy_run, tmp_path / "run"), status="running")
    with pytest.raises(UserError, match="not finished"):
        load(tmp_path / "run", config_dir=CONF)


def broken_weights(run: Path) -> None:
    (run / "weights.safetensors").write_bytes(b"\0" * 100)


def other_weights(run: Path) -> None:
    state = load_file(run / "weights.safetensors")
    save_file({**state, "template.mean": torch.zeros(3, 8, 8)}, run / "weights.safetensors")


def other_method(run: Path) -> None:
    cfg = OmegaConf.load(run / "config.yaml")
    cfg.method.lr = "quick"
    (run / "config.yaml").write_text(OmegaConf.to_yaml(cfg))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (broken_weights, "weights.safetensors: cannot be read"),
        (other_weights, "weights.safetensors: does not fit Toy"),
        (other_method, "method.lr: 'quick' given"),
        (lambda run: (run / "config.yaml").write_text("method: ["), "config.yaml: cannot be read as yaml"),
        (lambda run: (run / "config.yaml").write_text("seed: 1"), "holds no configuration of a run"),
    ],
)
def test_files_that_fit_their_checksums_and_cannot_be_used(
    toy_run: RunFolder, tmp_path: Path, change: Callable[[Path], object], what: str
) -> None:
    folder = copied(toy_run, tmp_path / "run")
    change(folder.path)
    reseal(folder)
    with pytest.raises(UserError) as refused:
        load(folder.path, config_dir=CONF)
    assert what in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cpu:x", ""])
def test_devices_that_are_not_there(toy_run: RunFolder, device: str) -> None:
    with pytest.raises(UserError, match=r"^device: .*\(auto, cpu or cuda\)$"):
        load(toy_run.path, device, CONF)


def test_a_method_of_your_own_needs_its_folder(toy_run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        load(toy_run.path, config_dir=tmp_path / "nowhere")
