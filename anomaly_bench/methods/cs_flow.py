"""CS-Flow: Fully Convolutional Cross-Scale-Flows for Image-based Defect Detection (Rudolph et al., WACV 2022).

A frozen ImageNet network describes an image at three sizes.  A normalising flow, trained on normal images, maps the
three feature maps y together to z of the same shape, so that z follows a standard normal distribution.  An image whose
z is large is unlikely, so anomalous.  arXiv 2110.02855; "code" is github.com/marco-rudolph/cs-flow at commit 88a13b8.

    loss = (|z|^2 / 2 - log|det dz/dy|) / number of entries of y, mean over images
    score of an image = mean of z^2 / 2 over all entries of z
    map = mean over channels of z^2 at the largest size

A block permutes channels, splits them into halves and changes each half by what a network, which looks at all three
sizes, makes of the other.  All as in the code; the paper's text was not at hand.

Deviation: the inverse is our own; the code's takes the shift for the first half from the wrong network, so that it
inverts nothing.  Neither training nor scores need it.
Deviation: timm's EfficientNet-B5 pads each convolution for the size it sees; the code's package, for 456 pixels.
Deviation: maps are measured at `image_size`; the code draws them and measures nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F

from anomaly_bench.config.ranges import BatchSize, Count, Decay, ImageSizeFrom32, NotNegative, Positive, Width
from anomaly_bench.contracts import FeatureBatch, FrozenFeatures, Method, NormalData, Scores, Stage, as_size
from anomaly_bench.errors import UserError
from anomaly_bench.nets.backbones import Backbone, weight_files
from anomaly_bench.nets.precision import in_float32
from anomaly_bench.nets.training_length import TrainingLength

SCALES = 3  # sizes of the image: all of it, a half, a quarter
SLOPE = 0.1  # of the leaky ReLU
SOFT = 0.636  # about 2 / pi: the soft clamp's atan then reaches the clamp itself
HARD_CLAMP = 1e6

Maps = list[Tensor]  # one for each size, the largest first: [B, C, h / 2^i, w / 2^i]


class CSFlow(Method):
    """A frozen backbone that describes the image at three sizes, and a `CrossScaleFlow` over its features.

    >>> from anomaly_bench.config import build, compose, validate
    >>> small = ["method.backbone=resnet18", "method.layer=layer1", "method.image_size=32", "method.hidden=8"]
    >>> method = build("method", validate(compose(["method=csflow", "dataset=mtd", *small])).method)
    >>> method.eval().score(torch.rand(2, 3, 32, 32)).map.shape
    torch.Size([2, 32, 32])
    """

    def __init__(
        self,
        backbone: str,
        weights: str | None,
        layer: str,
        image_size: ImageSizeFrom32,
        downscale: Literal["nearest", "antialias"],
        kernels: Annotated[tuple[Literal[1, 3, 5, 7], ...], Field(min_length=1)],
        hidden: Width,
        clamp: Positive,
        batch_size: BatchSize,
        epochs: Count | None,
        steps: Count | None,
        lr: Positive,
        betas: tuple[Decay, Decay],
        eps: Positive,
        weight_decay: NotNegative,
        gradient_clip: Positive,
        map_scales: Literal["largest", "product"],
        feature_dtype: Literal["float32", "float16"],
    ) -> None:
        super().__init__()
        self.weights, self.layer, self.image_size, self.downscale = weights, layer, image_size, downscale
        self.batch_size, self.length, self.gradient_clip = batch_size, TrainingLength(epochs, steps), gradient_clip
        self.adam = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        self.map_scales, self.feature_dtype = map_scales, feature_dtype
        self.backbone = Backbone(backbone, layers=(layer,))
        (channels,), (reduction,) = self.backbone.channels, self.backbone.reductions
        if channels % 2:
            raise UserError("method.layer", f"'{layer}' has {channels} channels; a flow needs an even number")
        self.size_step = reduction * 2 ** (SCALES - 1)
        if any(side % self.size_step for side in as_size(image_size)):
            what = f"{image_size} given; its quarter must be a multiple of {reduction} pixels for '{layer}'"
            raise UserError("method.image_size", what, f"a multiple of {self.size_step}")
        self.flow = CrossScaleFlow(channels, hidden, kernels, clamp)

    def stages(self, data: NormalData) -> Iterator[Stage]:
        self.backbone.load(self.weights)
        key = f"{self.backbone.name} {self.layer} sha256 {self.backbone.sha256} {SCALES} sizes {self.downscale}"
        frozen = FrozenFeatures(self.features, key, self.feature_dtype, self.device)
        loader = data.features("train", frozen, self.batch_size, shuffle=True)
        trainer = {**self.length.limits(loader, self.batch_size), "gradient_clip_val": self.gradient_clip}
        yield Stage("flow", Likelihood(self.flow, self.adam), loader, trainer)

    def features(self, images: Tensor) -> Maps:
        """Return y, the features of images [B, 3, H, W] in [0, 1] at each size."""
        return [self.backbone(self._downscaled(images, 2**i))[0] for i in range(SCALES)]

    def _downscaled(self, images: Tensor, factor: int) -> Tensor:
        if self.downscale == "nearest" or factor == 1:
            return images[:, :, ::factor, ::factor]
        size = [side // factor for side in images.shape[2:]]
        return F.interpolate(images, size, mode="bilinear", antialias=True)

    def score(self, images: Tensor) -> Scores:
        z, _ = self.flow(self.features(images))
        squares = [m.pow(2) for m in z]
        scores = torch.cat([m.flatten(1) for m in squares], 1).mean(1) / 2  # [B]
        maps = [m.mean(1, keepdim=True) for m in (squares if self.map_scales == "product" else squares[:1])]
        maps = [F.interpolate(m, images.shape[2:], mode="bilinear", align_corners=False) for m in maps]  # [B, 1, H, W]
        return Scores(image=scores, map=torch.cat(maps, 1).prod(1))

    @classmethod
    def weight_files(cls, values: Mapping[str, Any], fetch: bool) -> dict[str, list[Path]]:
        return {"weights": weight_files(values["backbone"], values["weights"], fetch)}

    def provenance(self) -> dict[str, str]:
        return {"backbone": self.backbone.name, "backbone_sha256": self.backbone.sha256}


class Likelihood(LightningModule):
    """Trains a flow to give features the largest likelihood.  adam: the optimiser's arguments."""

    def __init__(self, flow: CrossScaleFlow, adam: dict[str, Any]) -> None:
        super().__init__()
        self.flow, self.adam = flow, adam

    def training_step(self, batch: FeatureBatch, batch_idx: int) -> Tensor:
        loss = negative_log_likelihood(*self.flow(batch["features"]))
        self.log("loss", loss, batch_size=len(batch["path"]))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        fused = self.trainer.precision != "16-mixed"  # which would unscale gradients after they were clipped
        return torch.optim.Adam(self.flow.parameters(), **self.adam, fused=fused)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm as Lightning does, which refuses a fused optimiser in bfloat16, where nothing is scaled."""
        if gradient_clip_val:
            nn.utils.clip_grad_norm_(self.flow.parameters(), gradient_clip_val)


def negative_log_likelihood(z: Maps, log_det: Tensor) -> Tensor:
    """Return the loss of z and log_det [B], a mean over images and entries of y, without the constant log(2 pi) / 2."""
    squares = torch.cat([m.flatten(1) for m in z], 1).pow(2).sum(1)  # [B]
    entries = sum(m[0].numel() for m in z)
    return (squares / 2 - log_det).mean() / entries


class CrossScaleFlow(nn.Module):
    """The normalising flow: a block for each of `kernels`.

    channels: of each map.  hidden: channels inside the blocks' networks.  clamp: the log-scale's largest magnitude.
    """

    def __init__(self, channels: int, hidden: int, kernels: Sequence[int], clamp: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(channels, hidden, kernel, clamp, seed) for seed, kernel in enumerate(kernels))

    def forward(self, y: Maps) -> tuple[Maps, Tensor]:
        """Return z, of the same shapes as y, and log|det dz/dy| of each image [B]."""
        log_det = torch.zeros((), device=y[0].device)
        for block in self.blocks:
            y, block_log_det = block(y)
            log_det = log_det + block_log_det  # [B]
        return y, log_det

    def inverse(self, z: Maps) -> Maps:
        """Return the y that `forward` maps to z."""
        for block in reversed(self.blocks):
            z = block.inverse(z)  # type: ignore[operator]
        return z


class Block(nn.Module):
    """Permutes the channels of each map in a fixed order, then couples their halves.  seed: of the permutations."""

    permutations: Tensor  # [3, C]

    def __init__(self, channels: int, hidden: int, kernel: int, clamp: float, seed: int) -> None:
        super().__init__()
        random = np.random.RandomState(seed)  # the code's generator, so the code's permutations
        permutations = np.stack([random.permutation(channels) for _ in range(SCALES)])
        self.register_buffer("permutations", torch.from_numpy(permutations))
        self.clamp = clamp
        self.first = CrossScaleNet(channels, hidden, kernel)  # reads the second half
        self.second = CrossScaleNet(channels, hidden, kernel)  # reads the new first half

    def forward(self, y: Maps) -> tuple[Maps, Tensor]:
        """Return maps of the same shapes, and the log-determinant of each image [B]."""
        y = [m[:, order] for m, order in zip(y, self.permutations, strict=True)]
        a, b = halves(y)
        a, log_a = affine(a, self.first(b), self.clamp)
        b, log_b = affine(b, self.second(a), self.clamp)
        joined = [torch.cat(pair, 1) for pair in zip(a, b, strict=True)]
        return [m.clamp(-HARD_CLAMP, HARD_CLAMP) for m in joined], log_a + log_b

    def inverse(self, z: Maps) -> Maps:
        """Return the y that `forward` maps to z."""
        a, b = halves(z)
        b = undo(b, self.second(a), self.clamp)
        a = undo(a, self.first(b), self.clamp)
        joined = [torch.cat(pair, 1) for pair in zip(a, b, strict=True)]
        return [m[:, order.argsort()] for m, order in zip(joined, self.permutations, strict=True)]


class CrossScaleNet(nn.Module):
    """The inner network of a coupling: from half of the channels of all maps, log-scales and shifts for the other half.

    Each map passes two convolutions; hidden channels of the neighbouring maps, resized, are added to the result.
    """

    def __init__(self, channels: int, hidden: int, kernel: int) -> None:
        super().__init__()

        def convs(number: int, inputs: int, outputs: int, stride: int = 1) -> nn.ModuleList:
            return nn.ModuleList(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2) for _ in range(number))

        self.inner = convs(SCALES, channels // 2, hidden)
        self.outer = convs(SCALES, hidden, channels)
        self.down = convs(SCALES - 1, hidden, channels, stride=2)  # map i -> i + 1
        self.up = convs(SCALES - 1, hidden, channels)  # map i + 1 -> i
        self.gamma = nn.Parameter(torch.zeros(SCALES))  # 0: an untrained flow is a permutation

    def forward(self, half: Maps) -> Maps:
        """Return, for maps [B, C / 2, ...], maps [B, C, ...]: the log-scales before the clamp, then the shifts."""
        h = [F.leaky_relu(inner(x), SLOPE) for inner, x in zip(self.inner, half, strict=True)]
        r = [outer(x) for outer, x in zip(self.outer, h, strict=True)]
        for i, (down, up) in enumerate(zip(self.down, self.up, strict=True)):
            r[i + 1] = r[i + 1] + down(h[i])
            r[i] = r[i] + up(F.interpolate(h[i + 1], scale_factor=2, mode="bilinear", align_corners=False))
        return [gamma * x for gamma, x in zip(self.gamma, r, strict=True)]


def halves(maps: Maps) -> tuple[Maps, Maps]:
    """Return the first and the second half of the channels of each map."""
    pairs = [m.chunk(2, 1) for m in maps]
    return [a for a, _ in pairs], [b for _, b in pairs]


def log_scale(raw: Tensor, clamp: float) -> Tensor:
    """Return the log-scale, softly clamped to +-clamp (3: to +-2.997)."""
    return clamp * SOFT * torch.atan(raw / clamp)


@in_float32
def affine(x: Maps, coefficients: Maps, clamp: float) -> tuple[Maps, Tensor]:
    """Return exp(s) x + t for the log-scales s and shifts t in `coefficients`, and the sum of s in each image [B]."""
    out, total = [], torch.zeros((), device=x[0].device)
    for m, (raw, t) in zip(x, (c.chunk(2, 1) for c in coefficients), strict=True):
        s = log_scale(raw, clamp)
        out.append(s.exp() * m + t)
        total = total + s.flatten(1).sum(1)
    return out, total


def undo(x: Maps, coefficients: Maps, clamp: float) -> Maps:
    """Return the x that `affine` maps to the given maps."""
    pairs = (c.chunk(2, 1) for c in coefficients)
    return [(m - t) * (-log_scale(raw, clamp)).exp() for m, (raw, t) in zip(x, pairs, strict=True)]
