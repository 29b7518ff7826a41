"""Teachers of patch descriptors: a small network learns to describe image patches as a large ImageNet network does.

Uninformed Students (Bergmann et al., CVPR 2020), section 3.1: the loss is lambda_k L_k + lambda_m L_m + lambda_c L_c,

    L_k = |D(T(p)) - P(p)|^2                                      knowledge: P is the ImageNet network, D a `decoder`
    L_m = max(0, delta + |T(p) - T(p+)|^2 - min(|T(p) - T(p-)|^2, |T(p+) - T(p-)|^2))       metric: delta is the margin
    L_c = sum over i != j of c_ij, the correlation of dimensions i and j of T(p) over the batch        compactness

As printed, L_c is a sum of signed correlations, which falls to -d and then says nothing; `compactness` takes squares or
magnitudes.  P(p) is the ImageNet network's deepest feature map, averaged over its positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from anomaly_bench.config.ranges import BatchSize, Count, ImageSize, NotNegative, Positive
from anomaly_bench.config.schema import Checked
from anomaly_bench.errors import UserError
from anomaly_bench.loading.resize import resize_bilinear
from anomaly_bench.nets.backbones import Backbone
from anomaly_bench.nets.patch_descriptors import DIMENSIONS, SLOPE, PatchDescriptor

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}  # compared in lower case
ZOOM = (4, 16)  # an image is zoomed to a square of 4 p to 16 p pixels
NOISE = 0.1  # standard deviation in p+, of values in [0, 1]
GREY = 0.1  # share of triplets without colour
HELD = 2000  # decoded images that stay in memory

Triplet = tuple[Tensor, Tensor, Tensor]  # p, p+, p-: [3, p, p] or [B, 3, p, p]


class DistillationConfig(Checked):
    """The block `method.teacher`: where a teacher comes from, and the numbers of its distillation."""

    file: str | None  # a teacher's file, a folder with one for each patch size, or `random`; None: the shipped ones
    images: str | None  # a folder of natural images, to distil from where no file is given
    layer: Annotated[int, Field(ge=1, le=4)]  # of the ImageNet network
    target_size: Annotated[ImageSize, Field(ge=16)] | None  # pixels of a patch for the ImageNet network; None: as it is
    losses: tuple[NotNegative, NotNegative, NotNegative]  # lambda_k, lambda_m, lambda_c
    margin: Positive = 1.0  # delta, for methods whose yaml has none
    compactness: Literal["square", "abs", "signed"]
    steps: Count
    batch_size: Annotated[BatchSize, Field(ge=2)]
    lr: Positive
    weight_decay: NotNegative
    decoder_layers: Annotated[int, Field(ge=1, le=64)] = 1  # of D, for methods whose yaml does not say


def natural_images(folder: Path) -> list[Path]:
    """Return all image files below a folder, sorted.  Raises UserError where there are fewer than two."""
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    if len(files) < 2:
        what = f"{len(files)} images in {folder}; a folder of natural images is needed"
        raise UserError("method.teacher.images", what, "method.teacher.images=DIR, or null: the shipped teachers")
    return files


class Triplets(Dataset[Triplet]):
    """Random patches of natural images in [0, 1]: p, p+ (shifted a little, noisy) and p- (of another image).

    An image is zoomed to a square whose side is drawn from 4 p to 16 p pixels, and p x p pixels of it are taken.  All
    is drawn from torch's random state, whatever the index.  length: triplets in an epoch.
    """

    def __init__(self, files: Sequence[Path], patch_size: int, length: int) -> None:
        self.files, self.patch_size, self.length = list(files), patch_size, length
        self._read = lru_cache(HELD)(read)

    def __reduce__(self) -> tuple[type[Triplets], tuple[list[Path], int, int]]:  # a training process reads for itself
        return Triplets, (self.files, self.patch_size, self.length)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Triplet:
        p = self.patch_size
        rng = np.random.default_rng(int(torch.randint(2**62, ())))
        first, other = rng.choice(len(self.files), 2, replace=False)
        side, far = rng.integers(ZOOM[0] * p, ZOOM[1] * p + 1, 2)  # pixels
        x, y = rng.integers(0, side - p + 1, 2)
        reach = (p - 1) // 4
        near = np.clip(np.array([x, y]) + rng.integers(-reach, reach + 1, 2), 0, side - p)
        image = self._read(self.files[first])
        triplet = [zoomed_crop(image, side, p, x, y), zoomed_crop(image, side, p, *near)]
        triplet.append(zoomed_crop(self._read(self.files[other]), far, p, *rng.integers(0, far - p + 1, 2)))
        triplet[1] = triplet[1] + rng.normal(0, NOISE, triplet[1].shape).astype(np.float32)
        if rng.random() < GREY:
            triplet = [np.repeat(t.mean(axis=0, keepdims=True), 3, axis=0) for t in triplet]
        a, b, c = (torch.from_numpy(t) for t in triplet)
        return a, b, c


def read(file: Path) -> Image.Image:
    """Return an image as RGB.  Raises UserError naming a file that cannot be read."""
    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except Exception as error:  # Pillow's decoders raise nearly anything on a damaged file
        raise UserError(str(file), f"cannot be read as an image: {error}") from error


def zoomed_crop(image: Image.Image, side: int, p: int, x: int, y: int) -> np.ndarray:
    """Return the p x p pixels at (x, y) of the image zoomed to side x side: float32 [3, p, p] in [0, 1]."""
    w, h = image.width / side, image.height / side
    box = (x * w, y * h, (x + p) * w, (y + p) * h)
    return np.asarray(resize_bilinear(image, p, p, box), np.float32).transpose(2, 0, 1) / 255


class Distillation(LightningModule):
    """Trains `teacher` to describe patches as `backbone` does; batches are triplets [B, 3, p, p] in [0, 1]."""

    def __init__(self, teacher: PatchDescriptor, backbone: Backbone, config: DistillationConfig) -> None:
        super().__init__()
        self.teacher, self.backbone, self.config = teacher, backbone, config
        self.decoder = decoder(config.decoder_layers, backbone.channels[-1])  # D

    def training_step(self, batch: Triplet, batch_idx: int) -> Tensor:
        losses = self.losses(batch)
        self.log_dict(losses)
        return torch.stack([w * losses[name] for w, name in zip(self.config.losses, losses, strict=True) if w]).sum()

    def losses(self, batch: Triplet) -> dict[str, Tensor]:
        """Return the three losses before they are weighted; 0 for one whose weight is 0."""
        t = self.describe(batch[0])  # [B, d]
        lambda_k, lambda_m, lambda_c = self.config.losses
        losses = dict.fromkeys(("knowledge", "metric", "compactness"), t.new_zeros(()))
        if lambda_k:
            losses["knowledge"] = knowledge(self.decoder(t), self.target(batch[0]))
        if lambda_m:
            losses["metric"] = metric(t, self.describe(batch[1]), self.describe(batch[2]), self.config.margin)
        if lambda_c:
            losses["compactness"] = compactness(t, self.config.compactness)
        return losses

    def describe(self, patches: Tensor) -> Tensor:
        """Return T's descriptors [B, d] of patches [B, 3, p, p] in [0, 1]."""
        descriptors: Tensor = self.teacher((patches - self.backbone.mean) / self.backbone.std)
        return descriptors

    def target(self, patches: Tensor) -> Tensor:
        """Return P [B, C] of patches [B, 3, p, p] in [0, 1]."""
        if self.config.target_size:
            patches = F.interpolate(patches, size=self.config.target_size, mode="bilinear", align_corners=False)
        return self.backbone(patches)[-1].mean((2, 3))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        trainable = [*self.teacher.parameters(), *(p for p in self.decoder.parameters() if p.requires_grad)]
        return torch.optim.Adam(trainable, lr=self.config.lr, weight_decay=self.config.weight_decay)


def decoder(layers: int, features: int) -> nn.Module:
    """Return D: [B, d] -> [B, features], linear layers with leaky ReLUs between them; the paper has one layer."""
    wide = (nn.Sequential(nn.LeakyReLU(SLOPE), nn.Linear(features, features)) for _ in range(layers - 1))
    first = nn.Linear(DIMENSIONS, features)
    return nn.Sequential(first, *wide) if layers > 1 else first


def knowledge(decoded: Tensor, target: Tensor) -> Tensor:
    """Return L_k: the squared distance of vectors [B, C], averaged over the batch."""
    return (decoded - target).pow(2).sum(1).mean()


def metric(t: Tensor, positive: Tensor, negative: Tensor, margin: float) -> Tensor:
    """Return L_m of descriptors [B, d], averaged over the batch; of p and p+, the one nearer to p- counts."""
    near = (t - positive).pow(2).sum(1)
    far = torch.minimum((t - negative).pow(2).sum(1), (positive - negative).pow(2).sum(1))
    return F.relu(margin + near - far).mean()


def compactness(t: Tensor, kind: Literal["square", "abs", "signed"]) -> Tensor:
    """Return L_c of descriptors [B, d]: the correlations over the batch, summed over pairs of different dimensions."""
    centred = t - t.mean(0)
    unit = centred / centred.norm(dim=0).clamp_min(1e-8)  # a dimension without variance correlates with none
    correlation = unit.T @ unit  # [d, d]
    off = correlation - torch.diag(correlation.diag())
    return {"square": off.pow(2), "abs": off.abs(), "signed": off}[kind].sum()
