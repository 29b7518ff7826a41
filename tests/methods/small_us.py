"""Uninformed Students on images so small that a test can afford its networks, which have one size only."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.utils.data import DataLoader

from anomaly_bench.config import compose
from anomaly_bench.contracts import NormalBatch
from anomaly_bench.methods.uninformed_students import PatchScale, UninformedStudents
from anomaly_bench.nets.distillation_config import DistillationConfig
from anomaly_bench.nets.patch_descriptors import PatchDescriptor

YAML: dict[str, Any] = OmegaConf.to_container(compose(["method=us", "dataset=mtd"]).method)  # type: ignore[assignment]
CONFIG = {key: value for key, value in YAML.items() if key not in ("_target_", "name")}
PATCH: dict[str, Any] = {"image_size": 17, "patch_sizes": [17], "dense": False}  # an image is one patch


def method(seed: int = 0, teacher_file: str | None = None, **changes: Any) -> UninformedStudents:
    """p = 17, two students, one epoch."""
    torch.manual_seed(seed)
    small = {"patch_sizes": [17], "students": 2, "epochs": 1}
    teacher = DistillationConfig(**{**CONFIG["teacher"], "file": teacher_file})
    return UninformedStudents(**{**CONFIG, **small, **changes, "teacher": teacher})


def lively(us: UninformedStudents, seed: int = 0) -> UninformedStudents:
    """In float64, with descriptors and statistics of the size of 1, so that each of them counts."""
    torch.manual_seed(seed)
    for scale in scales(us):
        for net in [scale.teacher, *scale.students]:
            for weight in (w for name, w in net.named_parameters() if name.endswith("weight")):
                nn.init.kaiming_normal_(weight)
        nn.init.normal_(scale.mu)
        nn.init.uniform_(scale.sigma, 0.5, 2)
        nn.init.uniform_(scale.calibration, 50, 150)
    return us.double().eval()


def scales(us: UninformedStudents) -> list[PatchScale]:
    return list(us.scales)  # type: ignore[arg-type]


def nets(us: UninformedStudents) -> list[PatchDescriptor]:
    """Teacher and students of each scale."""
    return [net for scale in scales(us) for net in (scale.teacher, *scale.students)]


def images(count: int, size: int = 17, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def described(net: Any, x: Tensor, stride: int | None) -> np.ndarray:
    """[B, d, h, w]; the ImageNet normalisation written out."""
    mean, std = (torch.tensor(v).view(3, 1, 1).to(x.dtype) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        x = (x - mean) / std
        return (net(x)[:, :, None, None] if stride is None else net.dense(x, stride)).double().numpy()


class Normal:
    """The normal images of both splits, and what was asked of them."""

    def __init__(self, **splits: list[Tensor]) -> None:
        self.splits = splits
        self.requests: list[tuple[str, int, bool]] = []

    def loader(self, split: str, batch_size: int, shuffle: bool = False) -> DataLoader[NormalBatch]:
        self.requests.append((split, batch_size, shuffle))
        rows: Any = [{"image": b, "path": [str(i) for i in range(len(b))]} for b in self.splits[split]]
        return DataLoader(rows, batch_size=None)
