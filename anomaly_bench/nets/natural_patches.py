"""Random patches and crops of natural images, on which a teacher of patch descriptors is trained."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from anomaly_bench.errors import UserError
from anomaly_bench.loading.resize import resize_bilinear
from anomaly_bench.nets.distillation_config import DistillationConfig

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}  # compared in lower case
HELD = 2000  # decoded images that stay in memory

Triplet = tuple[Tensor, Tensor, Tensor]  # p, p+, p-: [3, p, p] or [B, 3, p, p]


def natural_images(folder: Path) -> list[Path]:
    """Return all image files below a folder, sorted.  Raises UserError where there are fewer than two."""
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    if len(files) < 2:
        what = f"{len(files)} images in {folder}; a folder of natural images is needed"
        raise UserError("method.teacher.images", what, "method.teacher.images=DIR, or null: the shipped teachers")
    return files


class Triplets(Dataset[Triplet]):
    """Random patches of natural images in [0, 1]: p, p+ (shifted a little, noisy) and p- (of another image).

    An image is zoomed to a square whose side is drawn from 4 p to 16 p pixels (`zoom`), and p x p pixels of it are
    taken.  All is drawn from torch's random state, whatever the index.  length: triplets in an epoch.
    """

    def __init__(self, files: Sequence[Path], patch_size: int, length: int, config: DistillationConfig) -> None:
        self.files, self.patch_size, self.length, self.config = list(files), patch_size, length, config
        self._read = lru_cache(HELD)(read)

    def __reduce__(self) -> tuple[type[Any], tuple[Any, ...]]:  # a training process reads for itself
        return type(self), (self.files, self.patch_size, self.length, self.config)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Triplet:
        p = self.patch_size
        rng = np.random.default_rng(int(torch.randint(2**62, ())))
        first, other = rng.choice(len(self.files), 2, replace=False)
        side, far = self._sides(rng, 2)
        x, y = rng.integers(0, side - p + 1, 2)
        reach = int((p - 1) * self.config.shift)
        near = np.clip(np.array([x, y]) + rng.integers(-reach, reach + 1, 2), 0, side - p)
        image = self._read(self.files[first])
        triplet = [zoomed_crop(image, side, p, x, y), zoomed_crop(image, side, p, *near)]
        triplet.append(zoomed_crop(self._read(self.files[other]), far, p, *rng.integers(0, far - p + 1, 2)))
        triplet[1] = triplet[1] + rng.normal(0, self.config.noise, triplet[1].shape).astype(np.float32)
        if rng.random() < self.config.grey:
            triplet = [np.repeat(t.mean(axis=0, keepdims=True), 3, axis=0) for t in triplet]
        a, b, c = (torch.from_numpy(t) for t in triplet)
        return a, b, c

    def _sides(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Return the sides, in pixels, of `count` zoomed images."""
        least, most = (round(factor * self.patch_size) for factor in self.config.zoom)
        return rng.integers(least, most + 1, count)


class Crops(Triplets):
    """Random crops of natural images in [0, 1], [3, S, S] with S = `crop_size`, zoomed as `Triplets` zooms them.

    An image that would be smaller than the crop is zoomed to the crop's size.
    """

    def __getitem__(self, index: int) -> Tensor:  # type: ignore[override]
        size = self.config.crop_size or self.patch_size
        rng = np.random.default_rng(int(torch.randint(2**62, ())))
        side = max(size, int(self._sides(rng, 1)[0]))
        image = self._read(self.files[rng.integers(len(self.files))])
        crop = zoomed_crop(image, side, size, *rng.integers(0, side - size + 1, 2))
        if rng.random() < self.config.grey:
            crop = np.repeat(crop.mean(axis=0, keepdims=True), 3, axis=0)
        return torch.from_numpy(crop)


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
