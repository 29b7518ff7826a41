"""Glancing at the Patch (Wang, Wu, Cui and Shen, CVPR 2021, pp. 254-263).

A local network L describes a patch.  A global network G sees the image with the patch cut out and predicts the
description.  Where the two differ, or a classifier C that has learned to see small stains finds them unlike, the patch
is anomalous.

With Z_l = L(patch), Z_g = G(image without the patch), n numbers each, and C the probability of a clean patch:

    l_IAD = |Z_l - Z_g|^2 / n                                inconsistency; of clean patches, see `iad_patches`
    l_DAD = cross entropy of C(Z_l, Z_g) for clean patches and for stained ones         distortion
    l = l_IAD + lambda_t l_DAD
    score of a patch = lambda_s |Z_l - Z_g|^2 / n + (1 - lambda_s) (1 - C(Z_l, Z_g))

L is distilled from an ImageNet network on natural images, then tuned on patches of the normal images, then frozen.  No
official code exists, and the paper's text was not at hand: the numbers are those of a published re-implementation whose
author had the paper's supplement.  What no source settles is marked `unknown` in the yaml; two choices of ours there
differ from the re-implementation's: `iad_patches` (G learns from clean patches only) and `global_normalised`.

C knows only the stains that it was shown, a few pixels wide and, as in the re-implementation, dark.  It need not rank
other defects above normal patches: on the generated grass and gravel it is alone worse than chance, with a pixel AUROC
of 0.25 and 0.39 (docs/results.md).  With `stain_brightness=both` half of them are brighter than their patch's mean.

Deviation: the shipped L was distilled from 900 images and ResNet-18's layer3; see anomaly_bench/nets/teachers.
Deviation: C gives one number before a sigmoid in place of two before a softmax: the same functions.
Deviation: the largest value of a map is the image's score; the paper gives none.
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

from anomaly_bench.config.ranges import BatchSize, Count, ImageSize, NotNegative, Positive, Share, Width
from anomaly_bench.contracts import Method, NormalBatch, NormalData, Scores, Stage, as_size
from anomaly_bench.errors import UserError
from anomaly_bench.nets.backbones import Backbone
from anomaly_bench.nets.blocks import one_by_one
from anomaly_bench.nets.distillation import Distillation
from anomaly_bench.nets.distillation_config import DistillationConfig
from anomaly_bench.nets.fake_defects import StainBrightness, stain
from anomaly_bench.nets.partial_conv import GlobalNet
from anomaly_bench.nets.patch_descriptors import DIMENSIONS, SLOPE, PatchDescriptor, register_imagenet_statistics
from anomaly_bench.nets.precision import in_float32
from anomaly_bench.nets.teachers import EPOCH, Teachers, teacher_weight_files
from anomaly_bench.nets.training_length import TrainingLength
from anomaly_bench.nets.windows import (
    crop,
    hole_masks,
    interpolate_bilinear,
    interpolate_inverse_distance,
    random_corners,
    window_places,
)

EPS = 1e-6  # least deviation of a score, so that a constant one can be divided by it
HalfAxis = Annotated[float, Field(gt=0, le=0.5)]


class GlancingAtThePatch(Method):
    """L, G and C, and the calibration of both scores; all that scoring needs is in the state dict.

    >>> from anomaly_bench.config import build, compose, validate
    >>> small = ["method.image_size=243", "method.windows=3"]
    >>> method = build("method", validate(compose(["method=glf_fast", "dataset=mtd", *small])).method)
    >>> list(method.eval().score(torch.rand(1, 3, 243, 243)).components)
    ['iad', 'dad']
    """

    mean: Tensor
    std: Tensor
    calibration: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(
        self,
        image_size: ImageSize,
        patch_size: Literal[17, 33, 65],
        conv1_kernel_33: Literal[3, 5],
        conv3_channels_65: Literal[128, 256],
        local_activation: bool,
        unit_features: bool,
        backbone: str,
        weights: str | None,
        teacher: DistillationConfig,
        tune_steps: Annotated[int, Field(ge=0, le=10**8)],
        tune_decoder: Literal["new", "kept", "frozen"],
        tune_batch_size: Annotated[BatchSize, Field(ge=2)],
        tune_lr: Positive,
        steps: Count,
        batch_size: BatchSize,
        lr: Positive,
        dad_lr: Positive,
        dad_hidden: Width,
        dad_weight: NotNegative,
        dad_trains_global: bool,
        iad_patches: Literal["clean", "all"],
        global_normalised: bool,
        stain_axes: tuple[HalfAxis, HalfAxis],
        stain_irregularity: tuple[Share, Share],
        stain_grey: tuple[Share, Share],
        stain_brightness: StainBrightness,
        iad_share: Share,
        calibrate: bool,
        val_share: Annotated[float, Field(ge=0, lt=1)],
        windows: Annotated[int, Field(ge=2, le=8192)],
        interpolation: Literal["bilinear", "inverse_distance"],
    ) -> None:
        super().__init__()
        self.image_size, self.size_step = image_size, 0
        self.patch_size, self.batch_size, self.steps = patch_size, batch_size, steps
        self.iad_share, self.calibrate, self.val_share = iad_share, calibrate, val_share
        self.unit_features, self.interpolation = unit_features, interpolation
        self.iad_patches, self.global_normalised = iad_patches, global_normalised
        self.teachers, self.tune_decoder = Teachers(teacher, backbone, weights), tune_decoder if tune_steps else "new"
        self.tune_steps, self.tune_batch_size, self.tune_lr = tune_steps, tune_batch_size, tune_lr
        self.lr, self.dad_lr, self.dad_weight, self.dad_trains_global = lr, dad_lr, dad_weight, dad_trains_global
        self.stain_limits = {"axes": stain_axes, "irregularity": stain_irregularity, "grey": stain_grey}
        self.stain_brightness: StainBrightness = stain_brightness
        self._check()
        self.local = LocalNet(patch_size, conv1_kernel_33, conv3_channels_65, local_activation)
        self.global_net = GlobalNet(image_size)
        self.dad = DistortionHead(dad_hidden)
        register_imagenet_statistics(self)
        self.register_buffer("calibration", torch.tensor([[0.0, 1.0], [0.0, 1.0]]))  # mean, deviation: s_IAD; s_DAD
        self.places = [window_places(side, self.local.net, windows) for side in as_size(image_size)]
        for name, places in zip(("rows", "columns"), self.places, strict=True):
            self.register_buffer(name, torch.tensor(places), persistent=False)
        self.loaded: dict[str, str] = {}

    def _check(self) -> None:
        """Raise UserError for values that are allowed one by one and cannot work together."""
        teacher = self.teachers.config
        for name, (low, high) in self.stain_limits.items():
            if low > high:
                raise UserError(f"method.stain_{name}", f"[{low}, {high}] given, needed: the smaller number first")
        if self.calibrate != bool(self.val_share):
            reads, share = ("needs", 0.1) if self.calibrate else ("reads no", 0)
            what = f"{self.val_share:g} given, but calibrate={str(self.calibrate).lower()} {reads} images set aside"
            raise UserError("method.val_share", what, f"method.val_share={share}")
        if self.tune_steps and not (teacher.losses[0] or teacher.losses[2]):
            what = f"{list(teacher.losses)} given; the tuning needs the first or the third, it has no second"
            raise UserError("method.teacher.losses", what, "method.tune_steps=0 leaves the tuning out")
        if self.tune_decoder != "new" and not (teacher.file or teacher.images):
            what = f"{self.tune_decoder} given, but the shipped local networks' files hold no decoder"
            raise UserError("method.tune_decoder", what, "new, or method.teacher.images=FOLDER to distil one with it")

    def stages(self, data: NormalData) -> Iterator[Stage]:
        tuning = self._tuning() if self.tune_steps else None
        decoder = tuning.decoder if tuning and self.tune_decoder != "new" else None
        sha256 = yield from self.teachers.stages(self.local.net, decoder)
        self.loaded[f"local_p{self.patch_size}_sha256"] = sha256
        if tuning:
            tuning.decoder.requires_grad_(self.tune_decoder != "frozen")
            yield self._stage("tune", tuning, data, self.tune_steps, self.tune_batch_size)
        self.local.requires_grad_(False)
        yield self._stage("global", Consistency(self), data, self.steps, self.batch_size)
        if self.calibrate:
            self._calibrate(data)

    def _stage(self, name: str, module: LightningModule, data: NormalData, steps: int, batch_size: int) -> Stage:
        loader = data.loader("train", batch_size, shuffle=True, min_samples=min(EPOCH, steps) * batch_size)
        return Stage(name, module, loader, TrainingLength(None, steps).limits(loader, batch_size))

    def _tuning(self) -> Tuning:
        backbone = self.teachers.imagenet_network()
        self.loaded |= {"backbone": backbone.name, "backbone_sha256": backbone.sha256}
        return Tuning(self.local, backbone, self.teachers.config, self.tune_lr)

    @torch.no_grad()
    def _calibrate(self, data: NormalData) -> None:
        self.calibrate_on(torch.cat([self.window_scores(batch["image"]) for batch in data.loader("val", 1)]))

    def calibrate_on(self, both: Tensor) -> None:
        """Set the mean and deviation of both scores from those of B normal images' windows [B, 2, N]."""
        deviation, mean = torch.std_mean(both, (0, 2), correction=0)
        self.calibration.copy_(torch.stack([mean, deviation.clamp_min(EPS)], 1))

    def normalise(self, images: Tensor) -> Tensor:
        """Return images with ImageNet's mean and deviation."""
        return (images - self.mean) / self.std

    def window_scores(self, images: Tensor) -> Tensor:
        """Return s_IAD and s_DAD of the N windows of images [B, 3, H, W], row by row, uncalibrated: [B, 2, N]."""
        windows = len(self.rows) * len(self.columns)
        return self.score_pairs(*self.describe_windows(images)).unflatten(1, (-1, windows)).transpose(0, 1)

    def describe_windows(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return Z_l and Z_g of the N windows of images [B, 3, H, W] as they are compared: [B N, n] each.

        The windows come image by image, row by row.
        """
        images = images.to(self.mean.device)
        normalised = self.normalise(images)
        tops, lefts = (p.flatten() for p in torch.meshgrid(self.rows, self.columns, indexing="ij"))
        seen = normalised if self.global_normalised else images
        z_g = self.global_net.windows(seen, tops, lefts, self.patch_size).flatten(0, 1)  # [B N, n]
        z_l = self.local.at(normalised, tops, lefts)  # [B N, n]
        return compared(z_l, self.unit_features), compared(z_g, self.unit_features)

    def score_pairs(self, z_l: Tensor, z_g: Tensor) -> Tensor:
        """Return s_IAD and s_DAD of Z_l and Z_g [N, n]: [2, N]."""
        return torch.stack([inconsistency(z_l, z_g), 1 - self.dad(z_l, z_g).sigmoid()])

    def score(self, images: Tensor) -> Scores:
        each = [self.window_scores(some) for some in one_by_one(images)]
        return self.to_maps(torch.cat(each))

    def to_maps(self, both: Tensor) -> Scores:
        """Return the calibrated, mixed and interpolated scores of B images from their windows' [B, 2, N]."""
        both = (both - self.calibration[:, :1]) / self.calibration[:, 1:]
        iad, dad = both.unbind(1)
        mixed = self.iad_share * iad + (1 - self.iad_share) * dad  # [B, N]
        half = (self.patch_size - 1) // 2
        centres = self.rows + half, self.columns + half
        interpolate = interpolate_bilinear if self.interpolation == "bilinear" else interpolate_inverse_distance
        maps = interpolate(torch.stack([mixed, iad, dad], 1), centres, as_size(self.image_size))  # [B, 3, H, W]
        scores, iad_scores, dad_scores = (Scores(image=m.flatten(1).amax(1), map=m) for m in maps.unbind(1))
        return scores._replace(components={"iad": iad_scores, "dad": dad_scores})

    @classmethod
    def weight_files(cls, values: Mapping[str, Any], fetch: bool) -> dict[str, list[Path]]:
        return teacher_weight_files(values, [values["patch_size"]], fetch, is_tuned=bool(values["tune_steps"]))

    def provenance(self) -> dict[str, str]:
        return dict(self.loaded)


class LocalNet(nn.Module):
    """L describes patches.  activation: a leaky ReLU after its last convolution.

    The distillation from natural images leaves that one out: its files serve Uninformed Students too.
    """

    def __init__(self, patch_size: int, conv1_kernel_33: int, conv3_channels_65: int, activation: bool) -> None:
        super().__init__()
        self.net, self.activation = PatchDescriptor(patch_size, conv1_kernel_33, conv3_channels_65), activation

    def forward(self, patches: Tensor) -> Tensor:
        """Return Z_l [B, n] of patches [B, 3, p, p], normalised."""
        return self.activated(self.net(patches))

    def at(self, images: Tensor, tops: Tensor, lefts: Tensor) -> Tensor:
        """Return Z_l [B N, n] of images' windows; corners [N] are multiples of the network's largest stride."""
        stride, half = self.net.strides[-1], (self.net.patch_size - 1) // 2
        dense = self.net.dense(images, stride)  # [B, n, H / s, W / s]
        found = dense[:, :, (tops + half) // stride, (lefts + half) // stride]  # [B, n, N]
        return self.activated(found.transpose(1, 2).flatten(0, 1))

    def activated(self, z: Tensor) -> Tensor:
        """Return the numbers after the last activation, if there is one."""
        return F.leaky_relu(z, SLOPE) if self.activation else z


class DistortionHead(nn.Module):
    """C before its sigmoid, large for a clean patch.  Z_l and Z_g [B, n] -> logits [B]."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2 * DIMENSIONS, hidden), nn.LeakyReLU(0.01), nn.Linear(hidden, 1))

    @in_float32
    def forward(self, z_l: Tensor, z_g: Tensor) -> Tensor:
        """Return the logit [B] of a clean patch from Z_l and Z_g [B, n]."""
        logits: Tensor = self.layers(torch.cat([z_l, z_g], 1))[:, 0]
        return logits


class Tuning(Distillation):
    """Distils L further, on patches of the inspected objects: one from each image of a batch, so no metric loss."""

    def __init__(self, local: LocalNet, backbone: Backbone, teacher: DistillationConfig, lr: float) -> None:
        losses = (teacher.losses[0], 0.0, teacher.losses[2])
        super().__init__(local.net, backbone, teacher.model_copy(update={"losses": losses, "lr": lr}))
        self.activated = local.activated

    def describe(self, patches: Tensor) -> Tensor:
        """Return Z_l [B, n] of patches [B, 3, p, p] in [0, 1]."""
        return self.activated(super().describe(patches))

    def training_step(self, batch: NormalBatch, batch_idx: int) -> Tensor:  # type: ignore[override]
        p = self.teacher.patch_size
        patches = crop(batch["image"], *random_corners(batch["image"], p), p)
        return super().training_step((patches, patches, patches), batch_idx)


class Consistency(LightningModule):
    """Trains G and C on one window of each image of a batch; L is frozen."""

    mean: Tensor
    std: Tensor

    def __init__(self, method: GlancingAtThePatch) -> None:
        super().__init__()
        self.local, self.global_net, self.dad = method.local, method.global_net, method.dad
        register_imagenet_statistics(self, persistent=False)
        self.stain_limits, self.stain_brightness = method.stain_limits, method.stain_brightness
        self.unit_features, self.iad_patches = method.unit_features, method.iad_patches
        self.global_normalised = method.global_normalised
        self.lr, self.dad_lr = method.lr, method.dad_lr
        self.dad_weight, self.dad_trains_global = method.dad_weight, method.dad_trains_global

    def training_step(self, batch: NormalBatch, batch_idx: int) -> Tensor:
        images, p = batch["image"], self.local.net.patch_size
        tops, lefts = random_corners(images, p)
        stained, _ = stain(crop(images, tops, lefts, p), **self.stain_limits, brightness=self.stain_brightness)
        iad, dad = self.losses(images, tops, lefts, stained)
        self.log_dict({"iad": iad, "dad": dad}, on_step=False, on_epoch=True, batch_size=len(images))
        return iad + self.dad_weight * dad

    def losses(self, images: Tensor, tops: Tensor, lefts: Tensor, stained: Tensor) -> tuple[Tensor, Tensor]:
        """Return l_IAD and l_DAD of images [B, 3, H, W] and stained patches [B, 3, p, p] in [0, 1]; corners [B]."""
        p = stained.shape[-1]
        clean = crop(images, tops, lefts, p)
        with torch.no_grad():
            described = self.local((torch.cat([clean, stained]) - self.mean) / self.std)  # [2 B, n]
        z_l, z_stained = compared(described, self.unit_features).chunk(2)  # [B, n] each
        seen = (images - self.mean) / self.std if self.global_normalised else images
        z_g = compared(self.global_net(seen, hole_masks(images, tops, lefts, p)), self.unit_features)  # [B, n]
        z_dad = z_g if self.dad_trains_global else z_g.detach()
        logits = self.dad(torch.cat([z_l, z_stained]), torch.cat([z_dad, z_dad]))  # [2 B]
        is_clean = torch.cat([torch.ones_like(tops), torch.zeros_like(tops)]).to(logits.dtype)
        iad = inconsistency(z_l, z_g).mean()
        if self.iad_patches == "all":
            iad = (iad + inconsistency(z_stained, z_g).mean()) / 2
        return iad, F.binary_cross_entropy_with_logits(logits, is_clean)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        groups: list[dict[str, Any]] = [{"params": self.global_net.parameters()}]
        return torch.optim.Adam([*groups, {"params": self.dad.parameters(), "lr": self.dad_lr}], lr=self.lr, fused=True)


@in_float32
def compared(z: Tensor, unit: bool) -> Tensor:
    """Return Z as it is compared, [B, n].  unit: scaled to length 1."""
    return F.normalize(z, dim=1) if unit else z


def inconsistency(z_l: Tensor, z_g: Tensor) -> Tensor:
    """Return s_IAD [B] of Z_l and Z_g [B, n]."""
    return (z_l - z_g).pow(2).mean(1)
