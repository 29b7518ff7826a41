"""Reverse Distillation on ResNet-18 at 32 px: small enough to train within a test."""

from __future__ import annotations

from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.utils.data import DataLoader

from anomaly_bench.config import compose
from anomaly_bench.contracts import NormalBatch
from anomaly_bench.methods.reverse_distillation import ReverseDistillation

YAML: dict[str, Any] = OmegaConf.to_container(compose(["method=rd", "dataset=mtd"]).method)  # type: ignore[assignment]
CONFIG = {key: value for key, value in YAML.items() if key not in ("_target_", "name")}
SMALL = {"backbone": "resnet18", "image_size": 32, "batch_size": 4}


def method(seed: int = 0, **changes: Any) -> ReverseDistillation:
    torch.manual_seed(seed)
    return ReverseDistillation(**{**CONFIG, **SMALL, **changes})


def shaken(seed: int = 0, **changes: Any) -> ReverseDistillation:
    """With batch norms unlike those of a new network, so that each of their four tensors counts."""
    rd = method(seed, **changes)
    for norm in (m for m in rd.modules() if isinstance(m, nn.BatchNorm2d)):
        for values, low, high in (
            (norm.weight, 0.5, 1.5),
            (norm.bias, -0.5, 0.5),
            (norm.running_mean, -0.5, 0.5),
            (norm.running_var, 0.5, 2.0),
        ):
            nn.init.uniform_(values, low, high)  # type: ignore[arg-type]
    return rd


def images(count: int, size: int = 32, seed: int = 1) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def features(seed: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Non-negative, as after a ReLU, about half of them zero; three levels for images of 32 x 24."""
    g = torch.Generator().manual_seed(seed)
    shapes = [(3, 5, 8, 6), (3, 7, 4, 3), (3, 9, 2, 2)]
    return [torch.randn(s, generator=g, dtype=dtype).relu() + 1e-3 for s in shapes]


class Normal:
    """The normal images, and what was asked of them."""

    def __init__(self, batches: list[Tensor]) -> None:
        self.batches = batches
        self.requests: list[tuple[str, int, bool]] = []

    def loader(self, split: str, batch_size: int, shuffle: bool = False) -> DataLoader[NormalBatch]:
        self.requests.append((split, batch_size, shuffle))
        rows: Any = [{"image": b, "path": [str(i) for i in range(len(b))]} for b in self.batches]
        return DataLoader(rows, batch_size=None)
