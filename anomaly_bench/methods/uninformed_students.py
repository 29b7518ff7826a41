"""Uninformed Students (Bergmann, Fauser, Sattlegger, Steger, CVPR 2020, arXiv 1911.02357).

A teacher T describes every patch of an image.  It was distilled from an ImageNet network on natural images and never
sees the inspected objects.  M students of the same architecture learn to predict its descriptors on good images.  Where
their mean is wrong (regression error e) or they disagree (predictive variance v), the image is anomalous.

With mu, sigma the teacher's mean and deviation over the training images, y = (T - mu) / sigma and S the students' mean:

    loss of a student   mean over pixels of |S_i - y|^2                              section 3.2
    e = |S - y|^2,  v = mean over students of |S_i|^2 - |S|^2                        section 3.3
    score = (e - e_mu) / e_sigma + (v - v_mu) / v_sigma, mean over patch sizes   section 3.3; e_mu ... of good images

No official code exists.  What the paper leaves open is marked `unknown` in the yaml.

Deviation: the shipped teachers were distilled from 900 images and ResNet-18's layer3; see anomaly_bench/nets/teachers.
Deviation: the largest value of a map is the image's score; the paper defines none for MVTec AD.
Deviation: with a single student v is 0 everywhere, and the score is e's alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from anomaly_bench.config.ranges import BatchSize, Count, ImageSize, NotNegative, Positive
from anomaly_bench.contracts import Method, NormalBatch, NormalData, Scores, Stage
from anomaly_bench.errors import UserError
from anomaly_bench.nets.backbones import weight_files
from anomaly_bench.nets.patch_descriptors import DIMENSIONS, PatchDescriptor, enlarge
from anomaly_bench.nets.teachers import Recipe, load_teacher, store_teacher, teacher_files, teacher_stage

LEAST_DEVIATION = 1e-6  # of a descriptor's dimension or a score that never changes


class UninformedStudents(Method):
    """One `Scale` for each patch size; all that scoring needs is in the state dict."""

    def __init__(
        self,
        image_size: Annotated[ImageSize, Field(ge=16)],
        patch_sizes: Annotated[tuple[Literal[17, 33, 65], ...], Field(min_length=1)],
        dense: bool,
        dense_stride: Literal[1, 2, 4, 8],
        conv1_kernel_33: Literal[3, 5],
        conv3_channels_65: Literal[128, 256],
        students: Annotated[int, Field(ge=1, le=256)],
        batch_size: BatchSize,
        epochs: Count,
        lr: Positive,
        weight_decay: NotNegative,
        val_share: Annotated[float, Field(gt=0, lt=1)],
        teacher: str | None,
        teacher_images: str | None,
        backbone: str,
        weights: str | None,
        teacher_layer: Annotated[int, Field(ge=1, le=4)],
        teacher_target_size: Annotated[ImageSize, Field(ge=16)] | None,
        teacher_losses: tuple[NotNegative, NotNegative, NotNegative],
        teacher_margin: Positive,
        teacher_compactness: Literal["square", "abs", "signed"],
        teacher_steps: Count,
        teacher_batch_size: Annotated[BatchSize, Field(ge=2)],
        teacher_lr: Positive,
        teacher_weight_decay: NotNegative,
    ) -> None:
        super().__init__()
        self.image_size, self.batch_size, self.epochs, self.val_share = image_size, batch_size, epochs, val_share
        self.lr, self.weight_decay, self.teacher, self.teacher_images = lr, weight_decay, teacher, teacher_images
        self.recipe = Recipe(
            backbone, weights, teacher_layer, teacher_target_size, teacher_losses, teacher_margin, teacher_compactness,
            teacher_steps, teacher_batch_size, teacher_lr, teacher_weight_decay,
        )  # fmt: skip
        if not dense and tuple(patch_sizes) != (image_size,):
            what = f"{list(patch_sizes)} given for an image_size of {image_size}; dense=false makes an image one patch"
            raise UserError("method.patch_sizes", what, "such as method.image_size=33 method.patch_sizes=[33]")
        if len(set(patch_sizes)) < len(patch_sizes):
            raise UserError("method.patch_sizes", f"{list(patch_sizes)} given, allowed: each size once")
        nets = [
            [PatchDescriptor(p, conv1_kernel_33, conv3_channels_65) for _ in range(students + 1)] for p in patch_sizes
        ]
        self.scales = nn.ModuleList(
            Scale(teacher, pupils, max(s for s in teacher.strides if s <= dense_stride) if dense else None)
            for teacher, *pupils in nets
        )
        self.teacher_sha256: dict[str, str] = {}

    def stages(self, data: NormalData) -> Iterator[Stage]:
        for scale in self._scales():
            p = scale.teacher.patch_size
            if (sha256 := load_teacher(scale.teacher, self.teacher, self.teacher_images, self.recipe)) is None:
                yield (stage := teacher_stage(scale.teacher, self.teacher_images, self.recipe))
                D = stage.module.decoder
                sha256 = store_teacher(scale.teacher, self.teacher_images, self.recipe, D)  # type: ignore[arg-type]
            self.teacher_sha256[f"teacher_p{p}_sha256"] = sha256
            scale.requires_grad_(False)
        for scale in self._scales():
            scale.standardise(data.loader("train", 1))
            lesson = Lesson(scale, self.lr, self.weight_decay)
            loader = data.loader("train", self.batch_size, shuffle=True)
            yield Stage(f"students_p{scale.teacher.patch_size}", lesson, loader, {"max_epochs": self.epochs})
        for scale in self._scales():
            scale.calibrate(data.loader("val", 1))

    def score(self, images: Tensor) -> Scores:
        each = {f"p{scale.teacher.patch_size}": scale.score(images) for scale in self._scales()}
        both = torch.stack(list(each.values())).mean(0)  # [B, H, W] or [B, 1, 1]
        scored, *parts = (
            Scores(image=scores.flatten(1).amax(1), map=scores if self._scales()[0].stride else None)
            for scores in (both, *each.values())
        )
        return scored._replace(components=dict(zip(each, parts, strict=True))) if len(parts) > 1 else scored

    @classmethod
    def weight_files(cls, values: Mapping[str, Any], fetch: bool) -> dict[str, list[Path]]:
        given, images = values["teacher"], values["teacher_images"]
        distilled = images and not given
        weights = weight_files(values["backbone"], values["weights"], fetch) if distilled else []
        return {"teacher": teacher_files(values["patch_sizes"], given, images), "weights": weights}

    def provenance(self) -> dict[str, str]:
        return dict(self.teacher_sha256)

    def _scales(self) -> list[Scale]:
        return list(self.scales)  # type: ignore[arg-type]


class Scale(nn.Module):
    """The teacher and the students of one patch size, and the numbers that make their answers comparable.

    stride: of the dense descriptors; None: an image is one patch.
    """

    mean: Tensor
    std: Tensor
    mu: Tensor
    sigma: Tensor
    calibration: Tensor

    def __init__(self, teacher: PatchDescriptor, students: list[PatchDescriptor], stride: int | None) -> None:
        super().__init__()
        self.teacher, self.students, self.stride = teacher, nn.ModuleList(students), stride
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1))  # of ImageNet
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1))
        self.register_buffer("mu", torch.zeros(DIMENSIONS, 1, 1))
        self.register_buffer("sigma", torch.ones(DIMENSIONS, 1, 1))
        self.register_buffer("calibration", torch.tensor([[0.0, 1.0], [0.0, 1.0]]))  # e_mu, e_sigma; v_mu, v_sigma

    def describe(self, net: nn.Module, images: Tensor) -> Tensor:
        """images [B, 3, H, W] in [0, 1] -> [B, d, h, w]; h = w = 1 where an image is one patch."""
        images = (images - self.mean) / self.std
        if self.stride is None:
            return net(images)[:, :, None, None]
        described: Tensor = net.dense(images, self.stride)  # type: ignore[operator]
        return described

    @torch.no_grad()
    def target(self, images: Tensor) -> Tensor:
        """y: the teacher's descriptors, each dimension with mean 0 and deviation 1 on the training images."""
        return (self.describe(self.teacher, images) - self.mu) / self.sigma  # [B, d, h, w]

    def losses(self, images: Tensor) -> Tensor:
        """[M]: of each student, the sum over d, the mean over pixels and images."""
        y = self.target(images)
        return torch.stack([(self.describe(s, images) - y).pow(2).sum(1).mean() for s in self.students])

    def errors(self, images: Tensor) -> Tensor:
        """e and v: [B, 3, H, W] -> [B, 2, h, w]."""
        y = self.target(images)
        answers = torch.stack([self.describe(s, images) for s in self.students])  # [M, B, d, h, w]
        mean = answers.mean(0)
        e = (mean - y).pow(2).sum(1)
        v = (answers - mean).pow(2).sum(2).mean(0)  # equal to the paper's difference of squares, without cancellation
        return torch.stack([e, v], 1)

    def score(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, H, W]; [B, 1, 1] where an image is one patch."""
        centre, spread = self.calibration[:, :1, None], self.calibration[:, 1:, None]  # [2, 1, 1]
        both = (self.errors(images) - centre) / spread
        maps = both[:, : 1 if len(self.students) == 1 else 2].sum(1, keepdim=True)  # [B, 1, h, w]
        height, width = images.shape[-2:]
        return (maps if self.stride is None else enlarge(maps, self.stride, (height, width)))[:, 0]

    @torch.no_grad()
    def standardise(self, loader: DataLoader[NormalBatch]) -> None:
        """mu and sigma: over all training images and pixels."""
        described = (self.describe(self.teacher, batch["image"].to(self.mu.device)) for batch in loader)
        mean, std = moments(described, dim=1)
        self.mu.copy_(mean.view(-1, 1, 1))
        self.sigma.copy_(std.view(-1, 1, 1).clamp_min(LEAST_DEVIATION))

    @torch.no_grad()
    def calibrate(self, loader: DataLoader[NormalBatch]) -> None:
        """e_mu, e_sigma, v_mu, v_sigma: over all normal validation images and pixels."""
        mean, std = moments((self.errors(batch["image"].to(self.mu.device)) for batch in loader), dim=1)
        self.calibration.copy_(torch.stack([mean, std.clamp_min(LEAST_DEVIATION)], 1))


class Lesson(LightningModule):
    """Trains all students of a scale in one pass, with one look at the teacher."""

    def __init__(self, scale: Scale, lr: float, weight_decay: float) -> None:
        super().__init__()
        self.scale, self.lr, self.weight_decay = scale, lr, weight_decay
        scale.students.requires_grad_(True)

    def training_step(self, batch: NormalBatch, batch_idx: int) -> Tensor:
        losses = self.scale.losses(batch["image"])
        B = len(batch["image"])
        self.log("loss_per_student", losses.mean(), prog_bar=True, on_step=False, on_epoch=True, batch_size=B)
        return losses.sum()  # every student has its own gradient

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.scale.students.parameters(), lr=self.lr, weight_decay=self.weight_decay)


def moments(values: Iterator[Tensor], dim: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation along all dimensions but `dim`, over all tensors together, summed in float64."""
    count, mean, squares = 0, torch.zeros(()), torch.zeros(())
    for value in values:
        flat = value.transpose(0, dim).flatten(1).double()  # [D, n]
        n, own = flat.shape[1], flat.mean(1)
        shift = own - mean
        squares = squares + (flat - own[:, None]).pow(2).sum(1) + shift.pow(2) * (count * n / (count + n))
        mean, count = mean + shift * (n / (count + n)), count + n
    return mean.float(), (squares / count).sqrt().float()
