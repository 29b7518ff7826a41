"""SimpleNet (Liu, Zhou, Xu, Wang, CVPR 2023, arXiv 2303.15140).

A frozen ImageNet network describes each patch of an image.  A linear layer (adaptor) maps the features q of normal
images, Gaussian noise is added to them, and a small network (discriminator) D learns to tell both apart.  A patch to
which D gives a small value is anomalous.

    loss   mean of max(0, margin - D(q)) + mean of max(0, margin + D(q + noise))
    map    -D(q) of each patch, enlarged and smoothed; the largest -D(q), not smoothed, is the image's score

"code" is github.com/DonaldRR/SimpleNet at commit 351a2b8 with its run.sh, which all numbers follow.

The code measures the test images after every fourth epoch and reports the best image AUROC that it saw (of equal ones
the best pixel AUROC): the epoch is chosen on test images.  Here the last step is the result.  What that choice would
have reported, `track_test=40` shows beside it as `oracle`.

Deviation: the whole image is resized to `image_size`; the code resizes to 329 px and cuts the central 288 px out.
Deviation: the backbone's features are computed once and kept on disk; the code computes them in each step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F

from anomaly_bench.config.ranges import BatchSize, Count, ImageSizeFrom32, NotNegative, Positive, Width
from anomaly_bench.contracts import FeatureBatch, FrozenFeatures, Method, NormalData, Scores, Stage
from anomaly_bench.nets.backbones import Backbone, weight_files
from anomaly_bench.nets.gaussian import gaussian
from anomaly_bench.nets.patch_averages import PatchAverages
from anomaly_bench.nets.precision import in_float32
from anomaly_bench.nets.training_length import TrainingLength

LAYERS = (2, 3)  # timm's numbers; layer2 and layer3 of a ResNet
SLOPE = 0.2  # of the leaky ReLU


class SimpleNet(Method):
    """A frozen backbone, and a `Head` that gives each of its patches a value.

    >>> from anomaly_bench.config import build, compose, validate
    >>> small = ["method.image_size=64", "method.hidden=8"]
    >>> method = build("method", validate(compose(["method=simplenet_fast", "dataset=mtd", *small])).method)
    >>> method.eval().score(torch.rand(2, 3, 64, 64)).map.shape
    torch.Size([2, 64, 64])
    """

    def __init__(
        self,
        backbone: str,
        weights: str | None,
        image_size: ImageSizeFrom32,
        patch_size: Literal[1, 3, 5, 7, 9],
        layer_dimensions: Width,
        dimensions: Width,
        hidden: Width,
        noise: Positive,
        margin: Positive,
        batch_size: BatchSize,
        epochs: Count | None,
        steps: Count | None,
        adaptor_lr: Positive,
        adaptor_weight_decay: NotNegative,
        lr: Positive,
        weight_decay: NotNegative,
        sigma: Annotated[Positive, Field(le=1024)],
        feature_dtype: Literal["float32", "float16"],
    ) -> None:
        super().__init__()
        self.weights, self.image_size, self.batch_size, self.sigma = weights, image_size, batch_size, sigma
        self.length = TrainingLength(epochs, steps)
        self.feature_dtype, self.noise, self.margin = feature_dtype, noise, margin
        self.adaptor_args = {"lr": adaptor_lr, "weight_decay": adaptor_weight_decay}
        self.discriminator_args = {"lr": lr, "weight_decay": weight_decay}
        self.backbone = Backbone(backbone, LAYERS)
        self.averages = PatchAverages(self.backbone.channels, patch_size, layer_dimensions, dimensions)
        self.head = Head(dimensions, hidden)

    def stages(self, data: NormalData) -> Iterator[Stage]:
        self.backbone.load(self.weights)
        key = f"{self.backbone.name} layers 2, 3 sha256 {self.backbone.sha256}"
        frozen = FrozenFeatures(self.backbone, key, self.feature_dtype, self.device)
        loader = data.features("train", frozen, self.batch_size, shuffle=True)
        yield Stage("discriminator", Training(self), loader, self.length.limits(loader, self.batch_size))

    def patches(self, features: list[Tensor]) -> Tensor:
        """Return the features of each patch of the finer layer [B, h, w, D] from those of both layers."""
        return self.averages(features).movedim(1, 3).contiguous()

    def score(self, images: Tensor) -> Scores:
        patches = self.patches(self.backbone(images))
        values = -self.head(patches.flatten(0, 2)).view(patches.shape[:3])  # [B, h, w]
        up = F.interpolate(values[:, None], images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]  # [B, H, W]
        return Scores(image=values.flatten(1).amax(1), map=gaussian(up, self.sigma))

    @classmethod
    def weight_files(cls, values: Mapping[str, Any], fetch: bool) -> dict[str, list[Path]]:
        return {"weights": weight_files(values["backbone"], values["weights"], fetch)}

    def provenance(self) -> dict[str, str]:
        return {"backbone": self.backbone.name, "backbone_sha256": self.backbone.sha256}


class Head(nn.Module):
    """The adaptor, a linear layer, and the discriminator, which has one hidden layer."""

    def __init__(self, dimensions: int, hidden: int) -> None:
        super().__init__()
        self.adaptor = nn.Linear(dimensions, dimensions)
        self.discriminator = nn.Sequential(
            nn.Linear(dimensions, hidden), nn.BatchNorm1d(hidden), nn.LeakyReLU(SLOPE), nn.Linear(hidden, 1, bias=False)
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight)

    @in_float32
    def forward(self, features: Tensor) -> Tensor:
        """Return D of features [N, D]: [N], large where they are normal."""
        values: Tensor = self.discriminator(self.adaptor(features))
        return values[:, 0]

    def with_noise(self, features: Tensor, noise: float) -> tuple[Tensor, Tensor]:
        """Return D of the adapted features [N, D], and of the same with noise, both from one batch: [N] twice."""
        q = self.adaptor(features)
        values: Tensor = self.discriminator(torch.cat([q, q + noise * torch.randn_like(q)]))
        normal, anomalous = values[:, 0].chunk(2)
        return normal, anomalous


class Training(LightningModule):
    """Trains the head of `method`."""

    def __init__(self, method: SimpleNet) -> None:
        super().__init__()
        self.head = method.head
        self.patches, self.noise, self.margin = method.patches, method.noise, method.margin
        self.adaptor_args, self.discriminator_args = method.adaptor_args, method.discriminator_args

    def training_step(self, batch: FeatureBatch, batch_idx: int) -> Tensor:
        patches = self.patches(batch["features"]).flatten(0, 2)  # [B h w, D]
        loss = truncated_loss(*self.head.with_noise(patches, self.noise), self.margin)
        self.log("loss", loss, batch_size=len(batch["path"]))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        adaptor = {"params": self.head.adaptor.parameters(), "lr": self.adaptor_args["lr"]}
        discriminator = {"params": self.head.discriminator.parameters(), **self.discriminator_args}
        return torch.optim.Adam([adaptor, discriminator], fused=True)

    @torch.no_grad()
    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Shrink the adaptor as AdamW would; the discriminator's decay is Adam's, added to the gradient."""
        for parameter in self.head.adaptor.parameters():
            parameter.mul_(1 - self.adaptor_args["lr"] * self.adaptor_args["weight_decay"])


def truncated_loss(normal: Tensor, anomalous: Tensor, margin: float) -> Tensor:
    """Return the loss of D's values of normal features [N] and of those with noise [N]: 0 beyond the margin."""
    return (margin - normal).clamp_min(0).mean() + (margin + anomalous).clamp_min(0).mean()
