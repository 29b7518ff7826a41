"""A training by the authors' code of Reverse Distillation, unchanged: its networks, loop and map.

checkout: of github.com/hq-deng/RD4AD (commit 6554076).  `compare_trainings.py` uses it.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, patch

import torch
from same_order import InOrder
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from anomaly_bench.methods.reverse_distillation import ReverseDistillation

UNUSED = ("cv2", "pandas", "matplotlib", "matplotlib.pyplot", "matplotlib.ticker")  # pictures, and their AUPRO


class Over(Exception):
    """Their loop, whose number of epochs is fixed, has seen as many images as it should."""


class Limited(Dataset[Any]):
    """Samples until `count` of them were given."""

    def __init__(self, samples: Any, count: int) -> None:
        self.samples, self.left = samples, count

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        if not self.left:
            raise Over
        self.left -= 1
        return self.samples[index]


def train(
    checkout: Path,
    method: ReverseDistillation,
    loader: DataLoader[Any],
    images: Tensor,
    labels: list[int],
    seed: int,
    ours: set[str],
) -> tuple[Tensor, Tensor]:
    """Train their networks on the images of `loader`.  Returns the scores [N] and maps [N, H, W] of images.

    ours: of `weights` (the initial ones, of `method`) and `order` (of `loader`), what is not their own.
    """
    if (method.lr, method.batch_size, method.betas) != (0.005, 16, (0.5, 0.999)):
        raise SystemExit("their code fixes lr, batch_size and betas")
    mean, std = method.teacher.mean[0], method.teacher.std[0]
    main, test = modules(checkout)
    main.setup_seed(seed)
    name = method.teacher.name.partition(".")[0]
    encoder, embedding = getattr(main, name)(pretrained=False)
    decoder = getattr(main, f"de_{name}")(pretrained=False)
    encoder.load_state_dict(method.teacher.net.state_dict(), strict=False)  # layer4 is computed and not used
    encoder.requires_grad_(False)  # the same updates in less time: docs/benchmarks/rd_step.md
    if "weights" in ours:
        copy_weights(method, embedding, decoder)
    given: Any = loader.dataset
    samples = [((given[i]["image"] - mean) / std, 0) for i in range(len(given))]
    in_order = InOrder(samples, loader.sampler) if "order" in ours else samples
    rows = Limited(in_order, method.length.epochs * len(samples))
    replaced = {
        "wide_resnet50_2": lambda pretrained: (encoder, embedding),
        "de_wide_resnet50_2": lambda pretrained: decoder,
        "ImageFolder": lambda **_: rows,
        "MVTecDataset": lambda **_: [],
        "evaluation": lambda *_: (0.0, 0.0, 0.0),
    }
    with patch.multiple(main, **replaced), patch.object(torch, "save"), contextlib.suppress(Over):
        main.train("")
    embedding.eval()
    decoder.eval()
    maps = [one_map(test, encoder, embedding, decoder, (image - mean) / std, method.sigma) for image in images]
    return torch.stack(maps).flatten(1).amax(1), torch.stack(maps)


def modules(checkout: Path) -> tuple[Any, Any]:
    """Return their main and test."""
    for name in UNUSED:
        sys.modules.setdefault(name, MagicMock())
    if str(checkout) not in sys.path:
        sys.path.insert(0, str(checkout))
    return importlib.import_module("main"), importlib.import_module("test")


@torch.no_grad()
def one_map(test: Any, encoder: Any, embedding: Any, decoder: Any, image: Tensor, sigma: float) -> Tensor:
    """Return the map of one normalised image as their `evaluation` makes it."""
    levels = encoder(image[None])
    found, _ = test.cal_anomaly_map(levels, decoder(embedding(levels)), image.shape[-1], amap_mode="a")
    return torch.from_numpy(gaussian_filter(found, sigma=sigma))


def pairs(method: ReverseDistillation, embedding: Any, decoder: Any) -> list[tuple[Tensor, Tensor]]:
    """Return parameters and buffers, ours and theirs: both sides define their layers in data-flow order."""
    e, d = embedding, decoder
    parts: list[tuple[nn.Module, list[nn.Module]]] = [
        (method.bottleneck.level1, [e.conv1, e.bn1, e.conv2, e.bn2]),
        (method.bottleneck.level2, [e.conv3, e.bn3]),
        (method.bottleneck.oce, [e.bn_layer]),
        (method.decoder, [d.layer1, d.layer2, d.layer3]),
    ]
    found: list[tuple[Tensor, Tensor]] = []
    for ours, theirs in parts:
        given = [tensor for source in theirs for tensor in source.state_dict().values()]
        found += zip(ours.state_dict().values(), given, strict=True)
    return found


@torch.no_grad()
def copy_weights(method: ReverseDistillation, embedding: Any, decoder: Any) -> None:
    """Give their networks the weights of ours."""
    for ours, theirs in pairs(method, embedding, decoder):
        theirs.copy_(ours)
