"""SimpleNet on ResNet-18 at 32 px with few dimensions: small enough to train within a test."""

from __future__ import annotations

from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor
from torch.utils.data import DataLoader

from anomaly_bench.config import compose
from anomaly_bench.contracts import FeatureBatch
from anomaly_bench.methods.simplenet import SimpleNet

YAML: dict[str, Any] = OmegaConf.to_container(compose(["method=simplenet", "dataset=mtd"]).method)  # type: ignore[assignment]
CONFIG = {key: value for key, value in YAML.items() if key not in ("_target_", "name")}
SMALL = {
    "backbone": "resnet18", "weights": "random", "image_size": 32, "layer_dimensions": 24, "dimensions": 16,
    "hidden": 8, "batch_size": 4, "epochs": 3,
}  # fmt: skip


def method(seed: int = 0, **changes: Any) -> SimpleNet:
    torch.manual_seed(seed)
    return SimpleNet(**{**CONFIG, **SMALL, **changes})


class Normal:
    """The features of normal images."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def features(self, split: str, frozen: Any, batch_size: int, shuffle: bool = False) -> DataLoader[FeatureBatch]:
        assert (split, shuffle) == ("train", True)
        maps = frozen.compute(self.images)
        rows: Any = [{"features": [m[i] for m in maps], "path": str(i)} for i in range(len(self.images))]
        return DataLoader(rows, batch_size)
