"""Teachers that a test can afford to distil: from ResNet-18's layer2, two steps of three patches."""

from __future__ import annotations

from typing import Any

from anomaly_bench.nets.distillation_config import DistillationConfig
from anomaly_bench.nets.teachers import Teachers

BLOCK: dict[str, Any] = {
    "file": None, "images": None, "layer": 2, "target_size": None, "losses": (1.0, 0.0, 1.0), "margin": 1.0,
    "compactness": "square", "steps": 2, "batch_size": 3, "lr": 2e-4, "weight_decay": 1e-5, "decoder_layers": 1,
}  # fmt: skip


def teachers(weights: object = None, backbone: str = "resnet18", **changes: Any) -> Teachers:
    """weights: a file.  changes: of BLOCK; paths may be given as such."""
    given = {key: value if key not in ("file", "images") else value and str(value) for key, value in changes.items()}
    return Teachers(DistillationConfig(**{**BLOCK, **given}), backbone, weights and str(weights))  # type: ignore[arg-type]
