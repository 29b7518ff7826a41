"""Student-Teacher Feature Pyramid Matching (Wang, Han, Ding, Huang, BMVC 2021, arXiv 2103.04257).

A student with the architecture of a frozen ImageNet network (teacher), at first random, learns to give the teacher's
features on normal images, at three levels of the pyramid.  Where they differ, the image is anomalous.

Eq. 1: half the squared distance of feature vectors of length 1; eqs. 2 and 3: its mean over positions, summed over
levels; eq. 5: the product of the upsampled maps.  The largest value of the map is the image's score.
"code" is github.com/gdwang08/STFPM at commit 2598a5e, the source of the published numbers for each category.

Deviation: the student ends after the third level; the code builds a fourth, which no loss reaches.  Same updates.
Deviation: the validation images are drawn by the run's seed; the code draws others with scikit-learn's seed 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import timm
import torch
from pydantic import Field
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from anomaly_bench.config.ranges import BatchSize, Count, Decay, ImageSizeFrom32, NotNegative, Positive
from anomaly_bench.contracts import Method, NormalBatch, NormalData, Scores, Stage
from anomaly_bench.nets.backbones import Backbone, weight_files
from anomaly_bench.nets.precision import in_float32
from anomaly_bench.nets.snapshot import Snapshot
from anomaly_bench.nets.training_length import TrainingLength

LAYERS = (1, 2, 3)  # timm's numbers; conv2_x, conv3_x and conv4_x of a ResNet

Features = list[Tensor]  # of the levels, fine to coarse: [B, C_l, h_l, w_l]


class STFPM(Method):
    """A frozen teacher, and a student of the same architecture that imitates it.

    >>> from anomaly_bench.config import build, compose, validate
    >>> method = build("method", validate(compose(["method=stfpm", "dataset=mtd", "method.image_size=64"])).method)
    >>> scores = method.eval().score(torch.rand(2, 3, 64, 64))
    >>> scores.map.shape, bool((scores.image == scores.map.amax((1, 2))).all())
    (torch.Size([2, 64, 64]), True)
    """

    def __init__(
        self,
        backbone: str,
        weights: str | None,
        image_size: ImageSizeFrom32,
        batch_size: BatchSize,
        epochs: Count | None,
        steps: Count | None,
        lr: Positive,
        momentum: Decay,
        weight_decay: NotNegative,
        loss_factor: Positive,
        val_share: Annotated[float, Field(ge=0, lt=1)],
        product_at: Literal["features", "image"],
    ) -> None:
        super().__init__()
        self.weights, self.image_size = weights, image_size
        self.batch_size, self.val_share = batch_size, val_share
        self.product_at, self.loss_factor, self.length = product_at, loss_factor, TrainingLength(epochs, steps)
        self.sgd = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        if val_share:
            self.result_state = "the epoch with the least error on normal images that were set aside"
        self.teacher = Backbone(backbone, LAYERS)
        self.student = new_student(self.teacher.name)

    def stages(self, data: NormalData) -> Iterator[Stage]:
        self.teacher.load(self.weights)
        loader = data.loader("train", self.batch_size, shuffle=True)
        validation = data.loader("val", self.batch_size) if self.val_share else None
        training = StudentTraining(self, self.sgd, self.loss_factor, validation)
        yield Stage("student", training, loader, self.length.limits(loader, self.batch_size))
        if validation:
            training.best.restore(self.student)

    def forward(self, images: Tensor) -> tuple[Features, Features]:
        """Return the teacher's and the student's features of images [B, 3, H, W] in [0, 1]."""
        return self.teacher(images), self.student((images - self.teacher.mean) / self.teacher.std)

    def score(self, images: Tensor) -> Scores:
        f_t, f_s = self(images)
        maps = anomaly_map(f_t, f_s, images.shape[-2:], self.product_at)  # [B, H, W]
        return Scores(image=maps.flatten(1).amax(1), map=maps)

    @classmethod
    def weight_files(cls, values: Mapping[str, Any], fetch: bool) -> dict[str, list[Path]]:
        return {"weights": weight_files(values["backbone"], values["weights"], fetch)}

    def provenance(self) -> dict[str, str]:
        return {"backbone": self.teacher.name, "backbone_sha256": self.teacher.sha256}


class StudentTraining(LightningModule):
    """Trains the student of `nets`.  sgd: the optimiser's arguments.

    validation: normal images that are not trained on; the student's state after the epoch with the least error on them
    is kept in `best`.  None: no state is kept.
    """

    least_error: Tensor

    def __init__(
        self, nets: STFPM, sgd: dict[str, Any], loss_factor: float, validation: DataLoader[NormalBatch] | None
    ) -> None:
        super().__init__()
        self.nets, self.sgd, self.loss_factor, self.validation = nets, sgd, loss_factor, validation
        if validation:
            self.best = Snapshot(nets.student)
            self.register_buffer("least_error", torch.tensor(math.inf))

    def training_step(self, batch: NormalBatch, batch_idx: int) -> Tensor:
        loss = self.loss_factor * pyramid_loss(*self.nets(batch["image"]))
        self.log("loss", loss, batch_size=len(batch["image"]))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.nets.student.parameters(), **self.sgd, fused=True)

    def on_train_batch_end(self, outputs: Any, batch: NormalBatch, batch_idx: int) -> None:
        """Compare the student with the best one after the last step of an epoch, before the epoch's checkpoint."""
        if self.validation and (batch_idx + 1 == self.trainer.num_training_batches or self.trainer.should_stop):
            error = self.error(self.validation)
            if error < self.least_error:
                self.least_error.fill_(error)
                self.best.take(self.nets.student)

    @torch.no_grad()
    def error(self, images: DataLoader[NormalBatch]) -> float:
        """Return the mean of the anomaly maps of images at the finest level's resolution, in eval mode, as the code."""
        self.eval()
        maps = []
        for batch in images:
            f_t, f_s = self.nets(batch["image"].to(self.device))
            maps.append(anomaly_map(f_t, f_s, f_t[0].shape[-2:], "features"))
        self.train()
        return float(torch.cat(maps).mean())


def new_student(backbone: str) -> nn.Module:
    """Return timm's network with random numbers, up to the last of the levels, without ImageNet weights.

    The batch norms start as identities, as torchvision's do and so the code's; timm would zero the last of each block.
    """
    student = timm.create_model(backbone, features_only=True, out_indices=LAYERS)
    for module in student.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    return student


@in_float32
def squared_distance(f_t: Tensor, f_s: Tensor) -> Tensor:
    """Eq. 1: return half the squared distance of unit feature vectors, of [B, C, H, W]: [B, H, W], in [0, 2]."""
    return (F.normalize(f_t, dim=1) - F.normalize(f_s, dim=1)).pow(2).sum(1) / 2


def pyramid_loss(f_t: Features, f_s: Features) -> Tensor:
    """Eqs. 2 and 3, all alpha 1: return the mean distance over positions and images, summed over levels."""
    return torch.stack([squared_distance(t, s).mean() for t, s in zip(f_t, f_s, strict=True)]).sum()


def anomaly_map(f_t: Features, f_s: Features, size: torch.Size, product_at: str) -> Tensor:
    """Eq. 5: return the product of the levels' distances at `size`: [B, H, W].

    product_at: `image` enlarges the maps and multiplies them, `features` multiplies at the finest level's resolution
    and enlarges the product.
    """
    maps = [squared_distance(t, s)[:, None] for t, s in zip(f_t, f_s, strict=True)]  # [B, 1, h_l, w_l]
    at = size if product_at == "image" else maps[0].shape[-2:]
    product = torch.cat([bilinear(m, at) for m in maps], 1).prod(1, keepdim=True)
    return bilinear(product, size)[:, 0]


def bilinear(maps: Tensor, size: torch.Size) -> Tensor:
    """Return maps [B, 1, h, w] at another size: [B, 1, H, W]."""
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)
