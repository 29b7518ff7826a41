"""Glancing at the Patch on the smallest image that its global network takes, with a few windows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from anomaly_bench.config import compose
from anomaly_bench.contracts import NormalBatch, Record
from anomaly_bench.loading.loaders import NormalLoaders
from anomaly_bench.methods.glancing_at_the_patch import Consistency, GlancingAtThePatch
from anomaly_bench.nets.distillation_config import DistillationConfig
from anomaly_bench.nets.partial_conv import image_sizes
from tests.references import glancing_at_the_patch as slow

YAML: dict[str, Any] = OmegaConf.to_container(compose(["method=glf", "dataset=mtd"]).method)  # type: ignore[assignment]
CONFIG = {key: value for key, value in YAML.items() if key not in ("_target_", "name")}
SIZE = image_sizes()[0]
SMALL = {"image_size": SIZE, "windows": 3, "tune_steps": 0, "steps": 2, "batch_size": 2}
MEAN, STD = ([[[v]] for v in values] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))  # of ImageNet


def method(seed: int = 0, teacher: dict[str, Any] | None = None, **changes: Any) -> GlancingAtThePatch:
    """teacher: what differs from the yaml's block."""
    torch.manual_seed(seed)
    block = DistillationConfig(**{**CONFIG["teacher"], **(teacher or {})})
    return GlancingAtThePatch(**{**CONFIG, **SMALL, **changes, "teacher": block})


def lively(glf: GlancingAtThePatch, seed: int = 0) -> GlancingAtThePatch:
    """With networks whose answers are of the size of 1, so that each of them counts."""
    torch.manual_seed(seed)
    for name, weight in glf.named_parameters():
        if name.endswith("weight"):
            nn.init.kaiming_normal_(weight)
        else:
            nn.init.normal_(weight, std=0.1)
    for last in (glf.local.net.convs[-1], glf.global_net.convs["pconv4"]):
        last.weight.data.mul_(0.2)  # type: ignore[operator]
    return glf.eval()


def consistency(glf: GlancingAtThePatch) -> Consistency:
    """What trains G and C, with L frozen as `stages` does it."""
    glf.local.requires_grad_(False)
    module = Consistency(glf).to(glf.dtype)
    module.log_dict = lambda *_, **__: None  # type: ignore[method-assign]
    return module


def images(count: int, size: int = SIZE, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def batch(count: int, dtype: torch.dtype = torch.float64) -> NormalBatch:
    return NormalBatch(image=images(count, dtype=dtype), path=[str(i) for i in range(count)])


def normalised(x: Tensor) -> Tensor:
    mean, std = (torch.tensor(values, dtype=torch.float32).to(x.dtype) for values in (MEAN, STD))
    return (x - mean) / std


def described(glf: GlancingAtThePatch, image: Tensor, top: int, left: int) -> tuple[Tensor, Tensor]:
    """Z_l and Z_g of one window, [n] each; a patch may stick out of the image: zeros."""
    p, x = glf.patch_size, normalised(image)
    patch, mask = x.new_zeros(1, 3, p, p), x.new_ones(1, 1, *image.shape[1:])
    inside = x[:, top : top + p, left : left + p]
    patch[0, :, : inside.shape[1], : inside.shape[2]] = inside
    mask[:, :, top : top + p, left : left + p] = 0
    with torch.no_grad():
        z_l, z_g = glf.local(patch)[0], glf.global_net((x if glf.global_normalised else image)[None], mask)[0]
    return scaled(z_l, glf.unit_features), scaled(z_g, glf.unit_features)


def scaled(z: Tensor, unit: bool) -> Tensor:
    """[n], to length 1 where that is asked for."""
    return z / float(sum(v * v for v in z.tolist())) ** 0.5 if unit else z


def head(glf: GlancingAtThePatch) -> list[list[Any]]:
    """The classifier's numbers, as the second writing takes them."""
    return [p.detach().double().tolist() for p in glf.dad.parameters()]


def expected_scores(glf: GlancingAtThePatch, image: Tensor) -> np.ndarray:
    """s_IAD and s_DAD, window by window: [2, N]."""
    pairs = [described(glf, image, top, left) for top in glf.places[0] for left in glf.places[1]]
    z_l, z_g = (torch.stack(z).double().tolist() for z in zip(*pairs, strict=True))
    return slow.scores(z_l, z_g, head(glf))


class RecordingLoaders(NormalLoaders):
    """The runner's own loaders; remembers what it was asked for."""

    requests: list[tuple[Any, ...]]

    def loader(self, *given: Any, **more: Any) -> Any:
        self.requests = [*getattr(self, "requests", []), (*given, more)]
        return super().loader(*given, **more)


def normal_data(folder: Path, train: int = 3, val: int = 2) -> RecordingLoaders:
    """Noisy images."""
    pixels = np.random.default_rng(0).integers(0, 256, (train + val, SIZE, SIZE, 3), dtype=np.uint8)
    records = [Record(f"train/{i:05}", "good", image) for i, image in enumerate(pixels)]
    return RecordingLoaders(records[:train], records[train:], SIZE, folder, workers=0, seed=0)
