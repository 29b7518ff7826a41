"""Reverse Distillation from One-Class Embedding (Deng & Li, CVPR 2022, arXiv 2201.10703).

A frozen ImageNet encoder (teacher) is distilled backwards: its three feature maps are fused into a small code (the
one-class embedding), from which a decoder (student) has to rebuild them.  Where it fails, the image is anomalous.

Eq. 1: cosine map of each level; eq. 2: the loss; eq. 3: the summed, upsampled maps.
"code" is github.com/hq-deng/RD4AD at commit 6554076, the source of the published numbers.

Deviation: the loss takes one cosine over each flattened map, as the code does; the paper writes a mean over positions
(`flatten_loss: false`), which users found unstable.
Deviation: no 1x1 convolution (4096 -> 2048) after the bottleneck; the code builds and optimises it but never uses it.
Deviation: the teacher runs without gradients and ends after layer3; the code computes and discards layer4 and the
teacher's gradients.  Same updates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from anomaly_bench.config.ranges import BatchSize, Count, Decay, Positive
from anomaly_bench.contracts import (
    FeatureBatch,
    FrozenFeatures,
    Method,
    NormalBatch,
    NormalData,
    Scores,
    Stage,
    as_size,
)
from anomaly_bench.errors import UserError, nearest
from anomaly_bench.nets.backbones import Backbone, timm_name, weight_files
from anomaly_bench.nets.gaussian import gaussian
from anomaly_bench.nets.precision import in_float32
from anomaly_bench.nets.training_length import TrainingLength

# blocks of layer1..4, bottleneck blocks?, inner width factor
RESNETS = {
    "resnet18": ((2, 2, 2, 2), False, 1),
    "resnet34": ((3, 4, 6, 3), False, 1),
    "resnet50": ((3, 4, 6, 3), True, 1),
    "wide_resnet50_2": ((3, 4, 6, 3), True, 2),
}


def known_resnet(backbone: str) -> str:
    """Return the name with its weights tag.  Raises ValueError for a network not in RESNETS and a tag not in timm."""
    architecture = backbone.split(".")[0]
    if architecture not in RESNETS:
        raise ValueError(f"{', '.join(RESNETS)}; {nearest(architecture, RESNETS)}".strip("; "))
    try:
        return timm_name(backbone)
    except UserError as error:
        raise ValueError(error.what.rpartition("its tags: ")[2]) from error


Multiple = Annotated[int, Field(ge=32, le=8192, multiple_of=32)]  # pixels of a side


class ReverseDistillation(Method):
    """Teacher E, bottleneck (MFF and OCE) and student decoder D, whose features differ from E's where it is anomalous.

    >>> from anomaly_bench.config import build, compose, validate
    >>> small = ["method.backbone=resnet18", "method.image_size=64"]
    >>> method = build("method", validate(compose(["method=rd", "dataset=mtd", *small])).method)
    >>> method.eval().score(torch.rand(2, 3, 64, 64)).map.shape
    torch.Size([2, 64, 64])
    """

    def __init__(
        self,
        backbone: Annotated[str, AfterValidator(known_resnet)],
        weights: str | None,
        image_size: Multiple | tuple[Multiple, Multiple],
        batch_size: BatchSize,
        epochs: Count | None,
        steps: Count | None,
        lr: Positive,
        betas: tuple[Decay, Decay],
        flatten_loss: bool,
        sigma: Annotated[Positive, Field(le=1024)],
        feature_dtype: Literal["float32", "float16"] | None,
    ) -> None:
        super().__init__()
        self.weights, self.image_size, self.batch_size = weights, image_size, batch_size
        self.size_step = 32
        self.length = TrainingLength(epochs, steps)
        self.feature_dtype = feature_dtype
        self.lr, self.betas, self.flatten_loss, self.sigma = lr, (betas[0], betas[1]), flatten_loss, sigma
        blocks, bottleneck, width = RESNETS[backbone.split(".")[0]]
        self.teacher = Backbone(backbone, layers=(1, 2, 3))  # layer1, layer2, layer3
        self.bottleneck = OneClassEmbedding(blocks[3], bottleneck, width)
        self.decoder = Decoder(blocks[:3], bottleneck, width)
        initialise(self.bottleneck)
        initialise(self.decoder)

    def stages(self, data: NormalData) -> Iterator[Stage]:
        self.teacher.load(self.weights)
        loader: DataLoader[Any]
        if self.feature_dtype:
            key = f"{self.teacher.name} layers 1, 2, 3 sha256 {self.teacher.sha256}"
            frozen = FrozenFeatures(self.teacher, key, self.feature_dtype, self.device)
            loader = data.features("train", frozen, self.batch_size, shuffle=True)
        else:
            loader = data.loader("train", self.batch_size, shuffle=True)
        step = loader.batch_size
        if as_size(self.image_size) == (32, 32) and step and len(loader.dataset) % step == 1:  # type: ignore[arg-type]
            what = f"{step} leaves a last batch of one image, and batch norm with one value for a 1 x 1 code"
            raise UserError("method.batch_size", what, "another batch_size")
        yield Stage("distillation", self, loader, self.length.limits(loader, self.batch_size))

    def training_step(self, batch: NormalBatch | FeatureBatch, batch_idx: int) -> Tensor:
        f_e = batch["features"] if "features" in batch else self.teacher(batch["image"])
        f_d = self.decoder(self.bottleneck(f_e))
        loss = flattened_loss(f_e, f_d) if self.flatten_loss else positional_loss(f_e, f_d)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        trainable = [*self.bottleneck.parameters(), *self.decoder.parameters()]
        return torch.optim.Adam(trainable, lr=self.lr, betas=self.betas, fused=True)

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return the teacher's and the decoder's features of images [B, 3, H, W], fine to coarse."""
        f_e = self.teacher(images)  # [B, C, H/4, W/4], [B, 2C, H/8, W/8], [B, 4C, H/16, W/16]
        return f_e, self.decoder(self.bottleneck(f_e))

    def score(self, images: Tensor) -> Scores:
        f_e, f_d = self(images)
        maps = anomaly_map(f_e, f_d, images.shape[-2:])  # [B, H, W]
        smooth = gaussian(maps, self.sigma)  # [B, H, W]
        return Scores(image=smooth.flatten(1).amax(1), map=smooth)

    @classmethod
    def weight_files(cls, values: Mapping[str, Any], fetch: bool) -> dict[str, list[Path]]:
        return {"weights": weight_files(values["backbone"], values["weights"], fetch)}

    def provenance(self) -> dict[str, str]:
        return {"backbone": self.teacher.name, "backbone_sha256": self.teacher.sha256}


@in_float32
def cosine_map(f_e: Tensor, f_d: Tensor) -> Tensor:
    """Eq. 1: return 1 - cosine over channels of maps [B, C, H, W]: [B, H, W]; 0 = same, at most 1 after a ReLU."""
    return 1 - F.cosine_similarity(f_e, f_d, dim=1)


def positional_loss(f_e: list[Tensor], f_d: list[Tensor]) -> Tensor:
    """Eq. 2 as the paper writes it: return the mean cosine map over positions and images, summed over levels."""
    return torch.stack([cosine_map(e, d).mean() for e, d in zip(f_e, f_d, strict=True)]).sum()


@in_float32
def flattened_loss(f_e: list[Tensor], f_d: list[Tensor]) -> Tensor:
    """Eq. 2 as in the code: return one cosine for each flattened map, averaged over images, summed over levels."""
    levels = zip(f_e, f_d, strict=True)
    return torch.stack([(1 - F.cosine_similarity(e.flatten(1), d.flatten(1))).mean() for e, d in levels]).sum()


def anomaly_map(f_e: list[Tensor], f_d: list[Tensor], size: torch.Size) -> Tensor:
    """Eq. 3: return the cosine maps, upsampled and added: [B, H, W], in [0, 3] for three levels after a ReLU."""
    maps = [cosine_map(e, d)[:, None] for e, d in zip(f_e, f_d, strict=True)]  # [B, 1, H/r, W/r]
    up = [F.interpolate(m, size=size, mode="bilinear", align_corners=True) for m in maps]  # [B, 1, H, W]
    return torch.cat(up, 1).sum(1)


class OneClassEmbedding(nn.Module):
    """MFF brings all levels to layer3's size and concatenates them; OCE is a residual stage like layer4 on top."""

    def __init__(self, blocks: int, bottleneck: bool, width: int) -> None:
        super().__init__()
        e = 4 if bottleneck else 1  # a block's output channels for each of its planes
        self.level1 = nn.Sequential(*conv_bn_relu(64 * e, 128 * e), *conv_bn_relu(128 * e, 256 * e))
        self.level2 = nn.Sequential(*conv_bn_relu(128 * e, 256 * e))
        self.oce = stage(3 * 256 * e, 512, blocks, "down", bottleneck, width)

    def forward(self, f: list[Tensor]) -> Tensor:
        """Return the code [B, 512 e, H/32, W/32] of the teacher's three features."""
        fused = torch.cat([self.level1(f[0]), self.level2(f[1]), f[2]], 1)  # [B, 768 e, H/16, W/16]
        code: Tensor = self.oce(fused)  # [B, 512 e, H/32, W/32]
        return code


class Decoder(nn.Module):
    """Rebuilds the teacher's features from the code in three stages that each double the resolution.

    The teacher's block counts are used in data-flow order, as in the code: the coarsest stage has as many blocks as the
    teacher's finest, so the decoder is not an exact mirror image.
    """

    def __init__(self, blocks: tuple[int, ...], bottleneck: bool, width: int) -> None:
        super().__init__()
        e = 4 if bottleneck else 1
        planes = (512, 256, 128, 64)
        steps = zip(planes, planes[1:], blocks, strict=False)
        self.stages = nn.ModuleList(stage(i * e, o, n, "up", bottleneck, width) for i, o, n in steps)

    def forward(self, code: Tensor) -> list[Tensor]:
        """Return the decoder's three features, fine to coarse."""
        features = []
        for up in self.stages:
            code = up(code)  # [B, 256 e, H/16, W/16], [B, 128 e, H/8, W/8], [B, 64 e, H/4, W/4]
            features.append(code)
        return features[::-1]


def stage(inputs: int, planes: int, blocks: int, resample: str, bottleneck: bool, width: int) -> nn.Sequential:
    """Return a ResNet stage whose first block halves ("down") or doubles ("up") the resolution."""
    outputs = planes * (4 if bottleneck else 1)
    first = Block(inputs, planes, resample, bottleneck, width)
    return nn.Sequential(first, *(Block(outputs, planes, "same", bottleneck, width) for _ in range(blocks - 1)))


class Block(nn.Module):
    """A residual block; "up" has transposed 2x2 convolutions of stride 2 for the 3x3 one and in the shortcut."""

    def __init__(self, inputs: int, planes: int, resample: str, bottleneck: bool, width: int) -> None:
        super().__init__()
        inner, outputs = planes * width, planes * (4 if bottleneck else 1)
        if bottleneck:
            layers = [
                *conv_bn_relu(inputs, inner, 1, "same"),
                *conv_bn_relu(inner, inner, 3, resample),
                *conv_bn(inner, outputs, 1, "same"),
            ]
        else:
            layers = [*conv_bn_relu(inputs, planes, 3, resample), *conv_bn(planes, outputs, 3, "same")]
        self.residual = nn.Sequential(*layers)
        same = resample == "same" and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Sequential(*conv_bn(inputs, outputs, 1, resample))

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the block [B, C', H', W']."""
        return F.relu(self.residual(x) + self.shortcut(x))


def conv_bn(inputs: int, outputs: int, kernel: int, resample: str) -> list[nn.Module]:
    """Return a convolution without bias, and a batch norm."""
    conv: nn.Module
    if resample == "up":
        conv = nn.ConvTranspose2d(inputs, outputs, 2, stride=2, bias=False)
    else:
        conv = nn.Conv2d(inputs, outputs, kernel, 2 if resample == "down" else 1, padding=kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


def conv_bn_relu(inputs: int, outputs: int, kernel: int = 3, resample: str = "down") -> list[nn.Module]:
    """Return the layers of `conv_bn` and a ReLU."""
    return [*conv_bn(inputs, outputs, kernel, resample), nn.ReLU(inplace=True)]


def initialise(module: nn.Module) -> None:
    """Initialise convolutions with Kaiming normal (fan out); transposed ones keep PyTorch's default, as in the code."""
    for m in module.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
