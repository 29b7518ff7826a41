"""CS-Flow on ResNet-18 at 64 px, its maps of 4, 2 and 1 pixels, and flows of a few channels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from anomaly_bench.config import compose
from anomaly_bench.contracts import FrozenFeatures, Record
from anomaly_bench.loading.loaders import NormalLoaders
from anomaly_bench.methods.cs_flow import Block, CrossScaleFlow, CrossScaleNet, CSFlow, Maps

YAML: dict[str, Any] = OmegaConf.to_container(compose(["method=csflow", "dataset=mtd"]).method)  # type: ignore[assignment]
CONFIG = {key: value for key, value in YAML.items() if key not in ("_target_", "name")}
SMALL = {"backbone": "resnet18", "layer": "layer3", "image_size": 64, "hidden": 4, "kernels": [3, 1], "batch_size": 3}


def method(seed: int = 0, **changes: Any) -> CSFlow:
    torch.manual_seed(seed)
    return CSFlow(**{**CONFIG, **SMALL, "epochs": 1, **changes})


def small_flow(channels: int = 4, kernels: tuple[int, ...] = (3, 1, 5), gamma: float = 0.0) -> CrossScaleFlow:
    """In float64; gamma: the deviation of the gammas, 0: a new flow's."""
    torch.manual_seed(0)
    flow = CrossScaleFlow(channels, 5, kernels, 3.0).double()
    return lively(flow, gamma) if gamma else flow


def lively(module: Any, gamma: float = 2.0, seed: int = 0) -> Any:
    """With gammas unlike 0, so that all of a flow counts."""
    torch.manual_seed(seed)
    for net in (m for m in module.modules() if isinstance(m, CrossScaleNet)):
        nn.init.normal_(net.gamma, std=gamma)
    return module


def blocks(flow: CrossScaleFlow) -> list[Block]:
    return list(flow.blocks)  # type: ignore[arg-type]


def maps(count: int = 2, channels: int = 4, size: tuple[int, int] = (4, 4), seed: int = 1) -> Maps:
    """Random numbers in float64, the largest map of `size`."""
    g = torch.Generator().manual_seed(seed)
    shapes = [(count, channels, size[0] // 2**i, size[1] // 2**i) for i in range(3)]
    return [torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes]


def images(count: int, size: int = 64, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class RecordingLoaders(NormalLoaders):
    """The runner's own loaders; remembers what features it was asked for."""

    requests: tuple[str, FrozenFeatures, int, bool]

    def features(self, split: Any, frozen: FrozenFeatures, batch_size: int, shuffle: bool = False) -> Any:
        self.requests = (split, frozen, batch_size, shuffle)
        return super().features(split, frozen, batch_size, shuffle)


def normal_data(folder: Path) -> RecordingLoaders:
    """Five noisy images."""
    pixels = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    records = [Record(f"train/{i:05}", "good", image) for i, image in enumerate(pixels)]
    return RecordingLoaders(records, [], 64, folder, workers=0, seed=0)
