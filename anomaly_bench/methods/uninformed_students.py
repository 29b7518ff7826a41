"""Uninformed Students (Bergmann, Fauser, Sattlegger, Steger, CVPR 2020, arXiv 1911.02357).

A teacher T describes every patch of an image.  It was distilled from an ImageNet network on natural images and never
sees the inspected objects.  M students of the same architecture learn to predict its descriptors on normal images.
Where their mean is wrong (regression error e) or they disagree (predictive variance v), the image is anomalous.

With mu, sigma the teacher's mean and deviation over the training images, y = (T - mu) / sigma and S the students' mean:

    loss of a student   mean over pixels of |S_i - y|^2                              section 3.2
    e = |S - y|^2,  v = mean over students of |S_i|^2 - |S|^2                        section 3.3
    score = (e - e_mu) / e_sigma + (v - v_mu) / v_sigma, mean over patch sizes   section 3.3; e_mu ... of normal images

No official code exists.  What the paper leaves open is marked `unknown` in the yaml.

Deviation: the shipped teachers were distilled from 900 images and ResNet-18's layer3; see anomaly_bench/nets/teachers.
Unknown: table 4 was seen; other numbers marked `paper` are second-hand, from extractions of its text by others.
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

from anomaly_bench.config.ranges import BatchSize, Count, ImageSizeFrom16, NotNegative, Positive
from anomaly_bench.contracts import Method, NormalBatch, NormalData, Scores, Stage
from anomaly_bench.errors import UserError
from anomaly_bench.nets.distillation_config import DistillationConfig
from anomaly_bench.nets.patch_descriptors import DIMENSIONS, PatchDescriptor, register_imagenet_statistics, upsample
from anomaly_bench.nets.precision import widened
from anomaly_bench.nets.teachers import Teachers, teacher_weight_files
from anomaly_bench.nets.training_length import TrainingLength

EPS = 1e-6  # least deviation of a descriptor's dimension or a score, so that a constant one can be divided by it


class UninformedStudents(Method):
    """One `PatchScale` for each patch size; all that scoring needs is in the state dict.

    >>> from anomaly_bench.config import build, compose, validate
    >>> small = ["method.image_size=64", "method.dense_stride=4"]
    >>> method = build("method", validate(compose(["method=us_fast", "dataset=mtd", *small])).method)
    >>> method.eval().score(torch.rand(2, 3, 64, 64)).map.shape
    torch.Size([2, 64, 64])
    """

    def __init__(
        self,
        image_size: ImageSizeFrom16,
        patch_sizes: Annotated[tuple[Literal[17, 33, 65], ...], Field(min_length=1)],
        dense: bool,
        dense_stride: Literal[1, 2, 4, 8],
        conv1_kernel_33: Literal[3, 5],
        conv3_channels_65: Literal[128, 256],
        students: Annotated[int, Field(ge=1, le=256)],
        batch_size: BatchSize,
        epochs: Count | None,
        steps: Count | None,
        lr: Positive,
        weight_decay: NotNegative,
        val_share: Annotated[float, Field(gt=0, lt=1)],
        backbone: str,
        weights: str | None,
        teacher: DistillationConfig,
    ) -> None:
        super().__init__()
        self.image_size, self.batch_size, self.val_share = image_size, batch_size, val_share
        self.size_step = 16 if dense else 0
        self.length = TrainingLength(epochs, steps)
        self.lr, self.weight_decay, self.teachers = lr, weight_decay, Teachers(teacher, backbone, weights)
        if not dense and tuple(patch_sizes) != (image_size,):
            what = f"{list(patch_sizes)} given for an image_size of {image_size}; dense=false makes an image one patch"
            raise UserError("method.patch_sizes", what, "such as method.image_size=33 method.patch_sizes=[33]")
        if len(set(patch_sizes)) < len(patch_sizes):
            raise UserError("method.patch_sizes", f"{list(patch_sizes)} given, allowed: each size once")
        self.scales = nn.ModuleList()
        for patch_size in patch_sizes:
            nets = [PatchDescriptor(patch_size, conv1_kernel_33, conv3_channels_65) for _ in range(students + 1)]
            stride = max(s for s in nets[0].strides if s <= dense_stride) if dense else None
            self.scales.append(PatchScale(nets[0], nets[1:], stride))
        self.loaded: dict[str, str] = {}

    def stages(self, data: NormalData) -> Iterator[Stage]:
        for scale in self._scales():
            self.loaded[f"teacher_p{scale.patch_size}_sha256"] = yield from self.teachers.stages(scale.teacher)
            scale.requires_grad_(False)
        for scale in self._scales():
            scale.standardise(data.loader("train", 1))
            training = StudentTraining(scale, self.lr, self.weight_decay)
            loader = data.loader("train", self.batch_size, shuffle=True)
            limits = self.length.limits(loader, self.batch_size)
            yield Stage(f"students_p{scale.patch_size}", training, loader, limits)
        for scale in self._scales():
            scale.calibrate(data.loader("val", 1))

    def score(self, images: Tensor) -> Scores:
        maps = {f"p{scale.patch_size}": scale.score(images) for scale in self._scales()}  # [B, H, W] or [B, 1, 1]
        mean = self._scores(torch.stack(list(maps.values())).mean(0))
        components = {name: self._scores(scale_map) for name, scale_map in maps.items()}
        return mean._replace(components=components) if len(components) > 1 else mean

    @classmethod
    def weight_files(cls, values: Mapping[str, Any], fetch: bool) -> dict[str, list[Path]]:
        return teacher_weight_files(values, values["patch_sizes"], fetch)

    def provenance(self) -> dict[str, str]:
        return dict(self.loaded)

    def _scales(self) -> list[PatchScale]:
        return list(self.scales)  # type: ignore[arg-type]

    def _scores(self, maps: Tensor) -> Scores:
        """Return the scores of maps [B, H, W], or of [B, 1, 1] where an image is one patch and has no map."""
        return Scores(image=maps.flatten(1).amax(1), map=maps if self._scales()[0].stride else None)


class PatchScale(nn.Module):
    """The teacher and the students of one patch size, and the statistics that make their outputs comparable.

    stride: pixels between two dense descriptors; None: an image is one patch.
    """

    mean: Tensor
    std: Tensor
    mu: Tensor
    sigma: Tensor
    calibration: Tensor

    def __init__(self, teacher: PatchDescriptor, students: list[PatchDescriptor], stride: int | None) -> None:
        super().__init__()
        self.teacher, self.students, self.stride = teacher, nn.ModuleList(students), stride
        self.patch_size = teacher.patch_size
        register_imagenet_statistics(self)
        self.register_buffer("mu", torch.zeros(DIMENSIONS, 1, 1))
        self.register_buffer("sigma", torch.ones(DIMENSIONS, 1, 1))
        self.register_buffer("calibration", torch.tensor([[0.0, 1.0], [0.0, 1.0]]))  # e_mu, e_sigma; v_mu, v_sigma

    def describe(self, net: nn.Module, images: Tensor) -> Tensor:
        """Return a network's descriptors of images [B, 3, H, W] in [0, 1]: [B, d, h, w], h = w = 1 for one patch."""
        images = (images - self.mean) / self.std
        if self.stride is None:
            described: Tensor = net(images)[:, :, None, None]
        else:
            described = net.dense(images, self.stride)  # type: ignore[operator]
        return widened(described)

    @torch.no_grad()
    def target(self, images: Tensor) -> Tensor:
        """Return y [B, d, h, w]: the teacher's descriptors, standardised by the training images' mu and sigma."""
        return (self.describe(self.teacher, images) - self.mu) / self.sigma  # [B, d, h, w]

    def losses(self, images: Tensor) -> Tensor:
        """Return each student's loss [M]: |S_i - y|^2, summed over d, averaged over pixels and images."""
        y = self.target(images)
        return torch.stack([(self.describe(s, images) - y).pow(2).sum(1).mean() for s in self.students])

    def errors(self, images: Tensor) -> Tensor:
        """Return e and v of images [B, 3, H, W]: [B, 2, h, w]."""
        y = self.target(images)
        predictions = torch.stack([self.describe(s, images) for s in self.students])  # [M, B, d, h, w]
        mean = predictions.mean(0)
        e = (mean - y).pow(2).sum(1)
        v = (predictions - mean).pow(2).sum(2).mean(0)  # the paper's difference of squares, without cancellation
        return torch.stack([e, v], 1)

    def score(self, images: Tensor) -> Tensor:
        """Return the anomaly maps [B, H, W] of images [B, 3, H, W]; [B, 1, 1] where an image is one patch."""
        mean, std = self.calibration[:, :1, None], self.calibration[:, 1:, None]  # [2, 1, 1]
        errors = (self.errors(images) - mean) / std  # [B, 2, h, w]
        maps = errors[:, : 1 if len(self.students) == 1 else 2].sum(1, keepdim=True)  # [B, 1, h, w]
        height, width = images.shape[-2:]
        return (maps if self.stride is None else upsample(maps, self.stride, (height, width)))[:, 0]

    @torch.no_grad()
    def standardise(self, loader: DataLoader[NormalBatch]) -> None:
        """Set mu and sigma from all training images and pixels."""
        described = (self.describe(self.teacher, batch["image"].to(self.mu.device)) for batch in loader)
        mean, std = moments(described, dim=1)
        self.mu.copy_(mean.view(-1, 1, 1))
        self.sigma.copy_(std.view(-1, 1, 1).clamp_min(EPS))

    @torch.no_grad()
    def calibrate(self, loader: DataLoader[NormalBatch]) -> None:
        """Set e_mu, e_sigma, v_mu and v_sigma from all normal validation images and pixels."""
        mean, std = moments((self.errors(batch["image"].to(self.mu.device)) for batch in loader), dim=1)
        self.calibration.copy_(torch.stack([mean, std.clamp_min(EPS)], 1))


class StudentTraining(LightningModule):
    """Trains all students of a scale together, so that the teacher runs once in a step."""

    def __init__(self, scale: PatchScale, lr: float, weight_decay: float) -> None:
        super().__init__()
        self.scale, self.lr, self.weight_decay = scale, lr, weight_decay
        scale.students.requires_grad_(True)

    def training_step(self, batch: NormalBatch, batch_idx: int) -> Tensor:
        losses = self.scale.losses(batch["image"])
        B = len(batch["image"])
        self.log("loss_per_student", losses.mean(), on_step=False, on_epoch=True, batch_size=B)
        return losses.sum()  # a student's gradient is that of its loss alone

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(
            self.scale.students.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=True
        )


def moments(values: Iterator[Tensor], dim: int) -> tuple[Tensor, Tensor]:
    """Return mean and deviation [D] over all tensors and all their dimensions but `dim`, summed in float64."""
    count, mean, squares = 0, torch.zeros(()), torch.zeros(())
    for value in values:
        flat = value.transpose(0, dim).flatten(1).double()  # [D, n]
        n, flat_mean = flat.shape[1], flat.mean(1)
        shift = flat_mean - mean
        squares = squares + (flat - flat_mean[:, None]).pow(2).sum(1) + shift.pow(2) * (count * n / (count + n))
        mean, count = mean + shift * (n / (count + n)), count + n
    return mean.float(), (squares / count).sqrt().float()
