"""The teachers in the package: whole, small, as their cards say, and better than a random network."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import torch

import anomaly_bench
from anomaly_bench.nets.backbones import Backbone
from anomaly_bench.nets.distillation_config import DistillationConfig
from anomaly_bench.nets.natural_patches import Triplets, natural_images
from anomaly_bench.nets.patch_descriptors import PatchDescriptor
from tests.nets.small_teachers import BLOCK, teachers

TEACHERS = sorted((Path(anomaly_bench.__file__).parent / "nets" / "teachers").glob("p*.safetensors"))
IMAGES = Path(os.environ.get("ANOMALY_BENCH_DATA", "nowhere")) / "imagenet_sample"


def size_of(file: Path) -> int:
    return int(file.stem.removeprefix("p"))


def shipped(file: Path) -> PatchDescriptor:
    net = PatchDescriptor(size_of(file))
    assert teachers().load(net) == hashlib.sha256(file.read_bytes()).hexdigest()
    return net


def test_there_are_teachers_and_they_are_small() -> None:
    assert {size_of(file) for file in TEACHERS} >= {17, 33}
    assert sum(file.stat().st_size for file in TEACHERS) <= 14_000_000


@pytest.mark.parametrize("file", TEACHERS, ids=lambda file: file.stem)
def test_the_card_belongs_to_the_file(file: Path) -> None:
    card = file.with_suffix(".md").read_text(encoding="utf-8")
    assert f"`{hashlib.sha256(file.read_bytes()).hexdigest()}`" in card
    for word in ("held-out", "command: `python scripts/distil_teachers.py", "date: ", "| linear probe, R2 |"):
        assert word in card


@pytest.mark.parametrize("file", TEACHERS, ids=lambda file: file.stem)
def test_descriptors_are_finite_and_differ(file: Path) -> None:
    net, p = shipped(file), size_of(file)
    torch.manual_seed(0)
    with torch.no_grad():
        described = net(torch.randn(16, 3, p, p))
    assert torch.isfinite(described).all()
    assert (described.std(0) > 0).all()


@pytest.mark.realdata
@pytest.mark.skipif(
    not IMAGES.is_dir() or not os.environ.get("ANOMALY_BENCH_WEIGHTS"),
    reason="needs $ANOMALY_BENCH_DATA/imagenet_sample and $ANOMALY_BENCH_WEIGHTS",
)
@pytest.mark.parametrize("file", TEACHERS, ids=lambda file: file.stem)
def test_a_teacher_knows_more_than_a_random_network(file: Path) -> None:
    """Of ResNet-18's features, on images that no distillation saw, a linear map of its descriptors explains more."""
    net, p = shipped(file), size_of(file)
    backbone = Backbone("resnet18", (3,))
    backbone.load(None)
    torch.manual_seed(0)
    triplets = Triplets(natural_images(IMAGES)[::10], p, 512, DistillationConfig(**BLOCK))
    patches = torch.stack([triplets[i][0] for i in range(512)])
    features = backbone(patches)[-1].mean((2, 3)).double()
    random = PatchDescriptor(p)
    inputs = (patches - backbone.mean) / backbone.std
    assert explained(net, inputs, features) > explained(random, inputs, features) + 0.1


@torch.no_grad()
def explained(net: PatchDescriptor, inputs: torch.Tensor, features: torch.Tensor) -> float:
    """R2 on the second half of a ridge regression fitted on the first."""
    x = torch.cat([net(part) for part in inputs.split(128)]).double()
    x = torch.cat([(x - x.mean(0)) / x.std(0), torch.ones(len(x), 1, dtype=x.dtype)], 1)
    half = len(x) // 2
    gram = x[:half].T @ x[:half] + 10 * torch.eye(x.shape[1], dtype=x.dtype)
    error = x[half:] @ torch.linalg.solve(gram, x[:half].T @ features[:half]) - features[half:]
    return float(1 - error.pow(2).sum() / (features[half:] - features[half:].mean(0)).pow(2).sum())
