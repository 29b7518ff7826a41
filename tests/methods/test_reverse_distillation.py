"""Reverse Distillation's loss, map and score against loops, and what its training does and leaves alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from small_training import fit
from torch import Tensor

from anomaly_bench.methods.reverse_distillation import (
    ReverseDistillation,
    anomaly_map,
    flattened_loss,
    gaussian,
    positional_loss,
)
from tests.methods.small_rd import YAML, Normal, features, images, method, shaken
from tests.references import reverse_distillation as slow

REAL_WEIGHTS = Path(os.environ.get("ANOMALY_BENCH_WEIGHTS", ".")) / "resnet18.layer1-3.safetensors"
REAL_IMAGES = Path(os.environ.get("ANOMALY_BENCH_DATA", ".")) / "mvtec" / "screw" / "train" / "good"


@pytest.fixture(scope="module")
def other_teacher() -> dict[str, Tensor]:
    return shaken(seed=9).teacher.net.state_dict()


@pytest.fixture
def weights(other_teacher: dict[str, Tensor], tmp_path: Path) -> str:
    """A file with the teacher of another seed."""
    save_file(other_teacher, tmp_path / "resnet18.safetensors")
    return str(tmp_path / "resnet18.safetensors")


def train(rd: ReverseDistillation, batches: list[Tensor]) -> Normal:
    """All stages of the method, one step for each batch."""
    data = Normal(batches)
    for stage in rd.stages(data):
        fit(stage)
    return data


quiet = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers.*", "ignore:.*in eval mode at the start.*", "ignore:.*treespec.*"
)


# Loss, map and score


def test_losses_against_loops() -> None:
    f_e, f_d = features(1), features(2)
    e, d = [f.numpy() for f in f_e], [f.numpy() for f in f_d]
    assert float(flattened_loss(f_e, f_d)) == pytest.approx(slow.loss(e, d, flatten=True), abs=1e-9)
    assert float(positional_loss(f_e, f_d)) == pytest.approx(slow.loss(e, d, flatten=False), abs=1e-9)
    assert abs(float(flattened_loss(f_e, f_d)) - float(positional_loss(f_e, f_d))) > 1e-3


@pytest.mark.parametrize(("flatten", "function"), [(True, flattened_loss), (False, positional_loss)])
@pytest.mark.filterwarnings("ignore:.*self.trainer. reference is not registered")
def test_the_key_chooses_the_loss(flatten: bool, function: Any) -> None:
    rd = method(flatten_loss=flatten)
    x = images(2)
    loss = rd.training_step({"image": x, "path": []}, 0)
    assert float(loss.detach()) == pytest.approx(float(function(*rd(x)).detach()), abs=1e-6)


def test_equal_features_cost_nothing() -> None:
    f = features(1)
    scaled = [3 * x for x in f]  # the cosine does not see length
    for other in (f, scaled):
        assert abs(float(flattened_loss(f, other))) < 1e-12
        assert abs(float(positional_loss(f, other))) < 1e-12
        assert anomaly_map(f, other, torch.Size((32, 24))).abs().max() < 1e-12


def test_map_lies_between_0_and_3() -> None:
    size, f_e = torch.Size((32, 24)), features(1)
    assert anomaly_map(f_e, features(2), size).min() >= 0
    first, second = ([torch.zeros_like(f).index_fill_(1, torch.tensor(c), 1) for f in f_e] for c in (0, 1))
    torch.testing.assert_close(anomaly_map(first, second, size), torch.full((3, 32, 24), 3.0).double())


@pytest.mark.parametrize("sigma", [0.7, 4.0])
def test_maps_against_loops(sigma: float) -> None:
    f_e, f_d = features(1), features(2)
    fast = gaussian(anomaly_map(f_e, f_d, torch.Size((32, 24))), sigma)
    scores, maps = slow.scores([f.numpy() for f in f_e], [f.numpy() for f in f_d], 32, 24, sigma)
    np.testing.assert_allclose(fast.numpy(), maps, atol=1e-9, rtol=0)
    np.testing.assert_allclose(fast.flatten(1).amax(1).numpy(), scores, atol=1e-9, rtol=0)


def test_filter_wider_than_the_map() -> None:
    maps = torch.rand(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = np.stack([slow.gaussian_filter(m, sigma=4) for m in maps.numpy()])
    np.testing.assert_allclose(gaussian(maps, 4.0).numpy(), expected, atol=1e-12, rtol=0)


def test_score_against_loops() -> None:
    rd = shaken().eval()
    with torch.inference_mode():
        scores = rd.score(images(2))
        f_e, f_d = rd(images(2))
    expected, maps = slow.scores([f.numpy() for f in f_e], [f.numpy() for f in f_d], 32, 32, sigma=4)
    assert scores.map is not None
    assert scores.map.shape == (2, 32, 32)
    assert scores.map.dtype == scores.image.dtype == torch.float32
    np.testing.assert_allclose(scores.map.numpy(), maps, atol=1e-6, rtol=0)
    np.testing.assert_allclose(scores.image.numpy(), expected, atol=1e-6, rtol=0)


def test_score_does_not_depend_on_the_batch() -> None:
    rd, x = shaken().eval(), images(8)
    with torch.inference_mode():
        together = rd.score(x)
        alone = [rd.score(image[None]) for image in x]
    torch.testing.assert_close(together.image, torch.cat([s.image for s in alone]), rtol=0, atol=1e-5)
    torch.testing.assert_close(together.map, torch.cat([s.map for s in alone if s.map is not None]), rtol=0, atol=1e-5)


def test_loss_of_a_new_student() -> None:
    losses = []
    for seed in range(3):
        with torch.no_grad():
            losses.append(float(flattened_loss(*method(seed, image_size=64)(images(2, 64)))))
    assert np.mean(losses) == pytest.approx(1.7, abs=0.15)  # three independent levels; 0 would be a copy of the teacher


@pytest.mark.realdata
@pytest.mark.skipif(
    not REAL_WEIGHTS.is_file() or not REAL_IMAGES.is_dir(),
    reason="needs $ANOMALY_BENCH_WEIGHTS/resnet18.layer1-3.safetensors and $ANOMALY_BENCH_DATA/mvtec/screw",
)
def test_loss_of_a_new_student_of_a_real_teacher() -> None:
    files = sorted(REAL_IMAGES.glob("*.png"))[:4]
    pixels = [np.asarray(Image.open(f).convert("RGB").resize((128, 128))) for f in files]
    x = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) / 255
    rd = method()
    rd.teacher.load(str(REAL_WEIGHTS))
    with torch.no_grad():
        assert float(flattened_loss(*rd(x))) == pytest.approx(1.8, abs=0.2)


# Training


def test_optimiser() -> None:
    rd = method()
    optimiser = rd.configure_optimizers()
    assert type(optimiser) is torch.optim.Adam
    (group,) = optimiser.param_groups
    expected = {"lr": 0.005, "betas": (0.5, 0.999), "weight_decay": 0, "eps": 1e-8, "amsgrad": False, "maximize": False}
    assert {key: group[key] for key in expected} == expected
    assert (YAML["lr"], tuple(YAML["betas"])) == (expected["lr"], expected["betas"])
    held = {id(p) for p in group["params"]}
    assert len(held) == len(group["params"])
    assert held == {id(p) for p in [*rd.bottleneck.parameters(), *rd.decoder.parameters()]}
    assert held == {id(p) for p in rd.parameters() if p.requires_grad}


def test_published_setting() -> None:
    assert YAML["backbone"] == "wide_resnet50_2.tv_in1k"  # the three others of that name are other trainings
    assert (YAML["epochs"], YAML["batch_size"], YAML["image_size"]) == (200, 16, 256)
    assert (YAML["flatten_loss"], YAML["sigma"]) == (True, 4.0)


@quiet
def test_stages_and_teacher(weights: str, other_teacher: dict[str, Tensor]) -> None:
    rd = method(weights=weights, epochs=2)
    trainable = {k: v.clone() for k, v in rd.state_dict().items() if not k.startswith("teacher.")}
    data = train(rd, [images(4), images(3, seed=2)])
    assert data.requests == [("train", 4, True)]
    assert rd.provenance()["backbone"] == "resnet18.tv_in1k"
    assert all(torch.equal(v, other_teacher[k]) for k, v in rd.teacher.net.state_dict().items())  # and counters
    rd.train()
    assert not any(m.training for m in rd.teacher.modules())
    assert all(m.training for m in [*rd.bottleneck.modules(), *rd.decoder.modules()])
    assert all(p.grad is None and not p.requires_grad for p in rd.teacher.parameters())
    same = [k for k, v in rd.state_dict().items() if k in trainable and torch.equal(v, trainable[k])]
    assert same == []
    steps = [v for k, v in rd.state_dict().items() if k.startswith("bottle") and k.endswith("num_batches_tracked")]
    assert set(map(int, steps)) == {4}


@quiet
def test_training_lowers_the_loss(weights: str) -> None:
    rd, x = method(weights=weights, epochs=6), images(4)
    with torch.no_grad():
        rd.teacher.load(weights)
        before = float(flattened_loss(*rd(x)))
    train(rd, [x])
    with torch.no_grad():
        assert float(flattened_loss(*rd.train()(x))) < 0.5 * before


@quiet
def test_updates_are_those_of_the_authors(weights: str) -> None:
    """Their teacher is part of the graph and its gradients pile up; bottleneck and decoder must not notice."""
    ours, theirs = method(weights=weights, epochs=1), method(weights=weights)
    batches = [images(4), images(4, seed=2)]
    train(ours, batches)
    theirs.teacher.load(weights)
    theirs.teacher.requires_grad_(True)
    optimiser = theirs.configure_optimizers()
    for x in batches:
        f_e = theirs.teacher.net((x - theirs.teacher.mean) / theirs.teacher.std)
        optimiser.zero_grad()
        flattened_loss(f_e, theirs.decoder(theirs.bottleneck(f_e))).backward()
        optimiser.step()
    assert all(p.grad is not None for p in theirs.teacher.parameters())
    a, b = ours.state_dict(), theirs.state_dict()
    assert [k for k in a if not torch.equal(a[k], b[k])] == []


@quiet
def test_state_dict_is_the_model(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = method(weights=weights, epochs=1)
    train(first, [images(4)])
    Path(weights).unlink()
    monkeypatch.delenv("ANOMALY_BENCH_WEIGHTS", raising=False)
    second = method(seed=5, weights=None)
    second.load_state_dict(first.state_dict())
    with torch.inference_mode():
        a, b = first.eval().score(images(3)), second.eval().score(images(3))
    assert torch.equal(a.image, b.image)
    assert torch.equal(a.map, b.map)  # type: ignore[arg-type]
