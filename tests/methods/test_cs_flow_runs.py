"""CS-Flow as a user runs it: combinations that cannot work, features that are computed once, a killed run."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from anomaly_bench import config
from anomaly_bench.commands.main import main
from anomaly_bench.contracts import FeatureBatch, Method
from anomaly_bench.errors import UserError
from anomaly_bench.loading.image_dataset import ImageSet
from anomaly_bench.methods.cs_flow import Likelihood
from anomaly_bench.nets.backbones import Backbone
from anomaly_bench.runs.folder import RunFolder, find
from anomaly_bench.runs.learning import EXAMPLES
from tests.forks import Forks
from tests.small_runs import TOYS, curve, environment, equal, make_images

RESNET = ["method.backbone=resnet18", "method.layer=layer3", "method.hidden=8"]


def built(*overrides: str) -> Method:
    settings = config.validate(config.compose(["method=csflow", "dataset=mtd", *overrides]))
    method: Method = config.build("method", settings.method)
    return method


# Configurations


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            ["method.image_size=96"],
            "method.image_size: 96 given; its quarter must be a multiple of 16 pixels for 'layer3' (a multiple of 64)",
        ),
        (["method.layer=layr3"], "method.layer: 'layr3' is no module of resnet18.tv_in1k (did you mean 'layer3'?)"),
        (["method.layer=blocks.5"], "method.layer: 'blocks.5' is no module of resnet18.tv_in1k"),
        (
            ["method.backbone=rexnet_100.nav_in1k", "method.layer=features.1"],
            "method.layer: 'features.1' has 27 channels; a flow needs an even number",
        ),
        (["method.layer=fc"], "method.layer: 'fc' of resnet18.tv_in1k gives no feature map"),
        (["method.kernels=[3,4]"], "method.kernels: 4 given, allowed: 1, 3, 5 or 7"),
        (["method.map_scales=all"], "method.map_scales: 'all' given, allowed: 'largest' or 'product'"),
    ],
)
def test_combinations_that_cannot_work(overrides: list[str], line: str) -> None:
    with pytest.raises(UserError) as refused:
        built(*RESNET, *overrides)
    assert str(refused.value) == line


def test_a_finer_layer_takes_smaller_images() -> None:
    assert built(*RESNET, "method.image_size=96", "method.layer=layer2").image_size == 96


# Whole runs


def overrides(root: Path, weights: Path, *more: str) -> list[str]:
    return [
        "method=csflow", *RESNET, f"method.weights={weights}", "method.image_size=64", "method.kernels=[3,1]",
        "method.epochs=2", "method.batch_size=5", "dataset=folder", f"dataset.root={root}", "hardware=cpu",
        "hardware.threads=1", "checkpoint_seconds=0", "save_heatmaps=false", "resamples=0", *more,
    ]  # fmt: skip


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happens, in order: `look` for each image that the backbone is shown, `step 0` for a step of epoch 0."""
    seen: list[str] = []
    forward, step = Backbone.forward, Likelihood.training_step

    def look(self: Backbone, images: Tensor) -> list[Tensor]:
        seen.extend("look" for image in images if image.any())  # the constructor's probe is black
        return forward(self, images)

    def learn(self: Likelihood, batch: FeatureBatch, batch_idx: int) -> Tensor:
        seen.append(f"step {self.current_epoch}")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Backbone, "forward", look)
    monkeypatch.setattr(Likelihood, "training_step", learn)
    return seen


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with a cache of its own."""
    monkeypatch.setenv("ANOMALY_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    return tmp_path


def finished(seed: int, outputs: str = "outputs") -> RunFolder:
    (folder,) = (folder for folder in find(outputs) if folder.manifest["seed"] == seed)
    assert folder.status == "done"
    return folder


def test_the_backbone_sees_each_image_once(place: Path, weights: Path, events: list[str]) -> None:
    given = overrides(make_images(place / "widgets"), weights)
    train, test, steps = 12, 10, ["step 0"] * 3 + ["step 1"] * 3
    assert main(["train", *given]) == 0
    first = ["look"] * 3 * (train + 1)  # one image more tells the shapes
    scoring = ["look"] * 3 * (2 * 2 * EXAMPLES + test)  # the loss has barely moved, so a few are scored twice before
    assert events == first + steps + scoring
    events.clear()
    assert main(["train", *given, "seed=1", "method.hidden=4"]) == 0
    assert events == steps + scoring
    events.clear()
    assert main(["train", *given, "seed=2", "method.downscale=antialias"]) == 0
    assert events == first + steps + scoring
    assert finished(0).scores != finished(1).scores != finished(2).scores


def test_a_finished_run_is_the_model(place: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = overrides(make_images(place / "widgets"), weights)
    assert main(["train", *given]) == 0
    folder = finished(0)
    monkeypatch.setenv("ANOMALY_BENCH_WEIGHTS", str(place / "nowhere"))
    settings = config.validate(config.compose([*given, "method.weights=null"]))
    torch.manual_seed(7)
    fresh: Method = config.build("method", settings.method)
    state = load_file(folder.path / "weights.safetensors")
    assert state["flow.blocks.1.permutations"].shape == (3, 256)
    fresh.load_state_dict(state)
    records = config.build("dataset", settings.dataset).records("test")
    images = ImageSet(records, 64, place / "cache")
    with torch.inference_mode():
        scores = fresh.eval().score(torch.stack([images[i]["image"] for i in range(10)]))
    assert folder.maps is not None
    assert scores.map is not None
    assert [row.path for row in folder.scores] == [record.path for record in records]
    np.testing.assert_allclose(scores.image, [row.score for row in folder.scores], rtol=1e-5)
    np.testing.assert_allclose(scores.map, folder.maps, rtol=1e-4, atol=1e-5)


def test_a_killed_run_goes_on(place: Path, weights: Path, events: list[str], forks: Forks) -> None:
    given = overrides(make_images(place / "widgets"), weights)
    child = forks.run([TOYS / "die_in_training.py", "cs_flow", "Likelihood", *given], place, environment())
    assert child.returncode < 0, child.stderr
    (killed,) = find("outputs")
    assert killed.status == "running"
    assert curve(killed) == [("flow", 0)]
    assert main(["train", *given]) == 0
    assert set(events[:3]) == {"step 1"}  # the features are still there
    assert main(["train", *given, "output_dir=whole"]) == 0
    whole = finished(0, "whole")
    assert "flow: resumes from" in (killed.path / "log.txt").read_text()
    assert killed.status == "done"
    assert curve(killed) == curve(whole) == [("flow", 0), ("flow", 1)]
    assert equal(killed, whole)
    one, other = (load_file(folder.path / "weights.safetensors") for folder in (killed, whole))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
