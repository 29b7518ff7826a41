"""What CS-Flow's training asks for, minimises, changes and leaves alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_training import fit

from anomaly_bench.loading.loaders import NormalLoaders
from anomaly_bench.methods.cs_flow import CSFlow, Maps, negative_log_likelihood
from tests.methods.small_cs_flow import YAML, lively, method, normal_data
from tests.references import cs_flow as slow

quiet = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers.*", "ignore:.*in eval mode at the start.*", "ignore:.*treespec.*"
)


def train(csflow: CSFlow, data: NormalLoaders) -> torch.optim.Optimizer:
    """The one stage; what it was trained with."""
    (stage,) = csflow.stages(data)
    (optimiser,) = fit(stage).optimizers
    return optimiser


def test_stage(tmp_path: Path, weights: Path) -> None:
    csflow, data = method(weights=str(weights), epochs=7, feature_dtype="float16"), normal_data(tmp_path)
    (stage,) = csflow.stages(data)
    assert (stage.name, stage.trainer) == ("flow", {"max_epochs": 7, "gradient_clip_val": 1.0})
    split, frozen, *how = data.requests
    assert (split, how, frozen.dtype) == ("train", [3, True], "float16")
    assert [len(batch["path"]) for batch in stage.loader] == [3, 2]
    shapes = [m.shape for m in next(iter(stage.loader))["features"]]
    assert shapes == [(3, 256, 4, 4), (3, 256, 2, 2), (3, 256, 1, 1)]
    assert csflow.provenance() == {"backbone": "resnet18.tv_in1k", "backbone_sha256": csflow.backbone.sha256}
    assert len(csflow.backbone.sha256) == 64


def test_stored_features_are_named_by_all_that_they_depend_on(tmp_path: Path, weights: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_file({key: value + 1 for key, value in load_file(weights).items()}, other)
    keys = []
    changed: list[dict[str, Any]] = [
        {}, {"seed": 1, "hidden": 8, "lr": 1.0},  # the same
        {"layer": "layer2"}, {"downscale": "antialias"}, {"weights": str(other)},
    ]  # fmt: skip
    for changes in changed:
        csflow, data = method(**{"weights": str(weights), **changes}), normal_data(tmp_path)
        next(csflow.stages(data))
        keys.append(data.requests[1].key)
    assert keys[0] == keys[1]
    assert len(set(keys[1:])) == 4
    assert len(list(tmp_path.glob("*.features"))) == 4


@quiet
def test_optimiser(tmp_path: Path, weights: Path) -> None:
    csflow = method(weights=str(weights))
    optimiser = train(csflow, normal_data(tmp_path))
    assert type(optimiser) is torch.optim.Adam
    (group,) = optimiser.param_groups
    expected = {"lr": 2e-4, "betas": (0.9, 0.999), "eps": 1e-4, "weight_decay": 1e-5, "amsgrad": False}
    assert {key: tuple(group[key]) if key == "betas" else group[key] for key in expected} == expected
    assert {id(p) for p in group["params"]} == {id(p) for p in csflow.flow.parameters()}
    assert {id(p) for p in group["params"]} == {id(p) for p in csflow.parameters() if p.requires_grad}


@quiet
@pytest.mark.parametrize("clip", [0.01, 100.0])
def test_weights_are_those_of_a_second_writing(tmp_path: Path, weights: Path, clip: float) -> None:
    """Two epochs of two steps: gradients, clipping, decay (of all weights, gammas too) and Adam."""
    numbers: dict[str, Any] = {"lr": 0.01, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1}
    csflow = lively(method(weights=str(weights), epochs=2, gradient_clip=clip, **numbers), gamma=0.5)
    before = {key: value.clone() for key, value in csflow.flow.state_dict().items()}
    batches: list[Maps] = []
    csflow.flow.register_forward_pre_hook(lambda _, inputs: batches.append([m.double() for m in inputs[0]]))
    train(csflow, normal_data(tmp_path))
    assert [len(y[0]) for y in batches] == [3, 2, 3, 2]
    expected = slow.train(before, 2, 3.0, batches, clip, **numbers)
    for key, value in csflow.flow.state_dict().items():
        torch.testing.assert_close(value.double(), expected[key].double(), rtol=0, atol=1e-5)
        assert torch.equal(value, before[key]) == key.endswith("permutations")


@quiet
def test_training_lowers_the_loss_and_leaves_the_backbone_alone(tmp_path: Path, weights: Path) -> None:
    csflow = method(weights=str(weights), epochs=12, lr=0.01)
    csflow.backbone.load(str(weights))
    backbone = {key: value.clone() for key, value in csflow.backbone.state_dict().items()}
    data = normal_data(tmp_path)
    (x,) = (batch["image"] for batch in data.loader("train", 5))
    with torch.no_grad():
        y = csflow.features(x)
        before = float(negative_log_likelihood(*csflow.flow(y)))
    train(csflow, data)
    with torch.no_grad():
        assert float(negative_log_likelihood(*csflow.flow(y))) < before - 0.5
    csflow.train()
    assert not any(m.training for m in csflow.backbone.modules())
    assert all(p.grad is None and not p.requires_grad for p in csflow.backbone.parameters())
    assert all(torch.equal(value, backbone[key]) for key, value in csflow.backbone.state_dict().items())


def test_published_setting() -> None:
    assert (YAML["backbone"], YAML["layer"], YAML["image_size"]) == ("tf_efficientnet_b5.aa_in1k", "blocks.5", 768)
    assert (YAML["kernels"], YAML["hidden"], YAML["clamp"]) == ([3, 3, 3, 5], 1024, 3)
    assert (YAML["batch_size"], YAML["epochs"], YAML["gradient_clip"]) == (16, 240, 1)
    assert (YAML["lr"], YAML["betas"], YAML["eps"], YAML["weight_decay"]) == (2e-4, [0.9, 0.999], 1e-4, 1e-5)
    assert (YAML["downscale"], YAML["map_scales"], YAML["feature_dtype"]) == ("nearest", "largest", "float32")
