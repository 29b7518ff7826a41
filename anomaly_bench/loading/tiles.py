"""Overlapping tiles of images: where they lie, what a training sees of them, and how their maps become one."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from anomaly_bench.contracts import NormalBatch, Sample, Size
from anomaly_bench.files import sha256
from anomaly_bench.loading.image_dataset import ImageSet


@dataclass(frozen=True)
class Tiling:
    """Tiles of one size that cover an image from border to border, as evenly as whole pixels allow."""

    size: Size
    overlap: float  # share of a tile that the next one covers again, at least

    def corners(self, image: Size) -> list[tuple[int, int]]:
        """Return top and left of each tile of an image of H, W pixels, row by row; no side is smaller than a tile's."""
        tops, lefts = (_starts(*sides, self.overlap) for sides in zip(image, self.size, strict=True))
        return [(top, left) for top in tops for left in lefts]

    def cut(self, images: Tensor) -> Tensor:
        """Return the tiles of images [B, C, H, W]: [T, B, C, h, w]."""
        h, w = self.size
        corners = self.corners((images.shape[2], images.shape[3]))
        return torch.stack([images[:, :, top : top + h, left : left + w] for top, left in corners])

    def merge(self, maps: Tensor, image: Size) -> Tensor:
        """Return whole maps [B, H, W] of the tiles' maps [T, B, h, w].

        A pixel gets the mean over the tiles that it lies in, weighted by its distance from their borders: what a
        network says near the border of a tile, where it sees padding, counts least, and no seam is left.
        """
        rows, columns = (torch.arange(1, side + 1).to(maps) for side in self.size)
        weight = torch.minimum(rows, rows.flip(0))[:, None] * torch.minimum(columns, columns.flip(0))  # [h, w]
        total, weights = maps.new_zeros(maps.shape[1], *image), maps.new_zeros(image)
        for (top, left), each in zip(self.corners(image), maps, strict=True):
            place = (..., slice(top, top + self.size[0]), slice(left, left + self.size[1]))
            total[place] += each * weight
            weights[place] += weight
        return total / weights


def _starts(side: int, tile: int, overlap: float) -> list[int]:
    count = 1 if side == tile else 1 + math.ceil((side - tile) / max(1, math.floor(tile * (1 - overlap))))
    return [round(i * (side - tile) / max(1, count - 1)) for i in range(count)]


class TileSet(TorchDataset[Sample]):
    """The tiles of a set of images, image by image; a `path` says which image it is of, and which of its tiles."""

    def __init__(self, images: ImageSet, tiling: Tiling) -> None:
        self.images, self.size, self.cache_dir = images, tiling.size, images.cache_dir
        self._corners = tiling.corners(images.size)
        self.key = sha256(f"{images.key} {self._corners} {tiling.size}") if images.key else ""
        count = range(1, len(self._corners) + 1)
        self.records = [replace(record, path=f"{record.path} tile {i}") for record in images.records for i in count]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        image, rows, columns = self._place(index)
        sample = self.images[image]
        cut = Sample(**{**sample, "image": sample["image"][:, rows, columns], "mask": sample["mask"][rows, columns]})
        cut["path"] = self.records[index].path
        return cut

    def stored(self, index: int) -> tuple[np.ndarray, str]:
        """Return a tile as it is in the cache, uint8 or uint16 [h, w, 3], and its path."""
        image, rows, columns = self._place(index)
        return self.images.stored(image)[0][rows, columns], self.records[index].path

    def batch(self, rows: Tensor, paths: list[str]) -> NormalBatch:
        """Return stored tiles [B, h, w, 3] as a method gets them."""
        return self.images.batch(rows, paths)

    def _place(self, index: int) -> tuple[int, slice, slice]:
        """Return the number of a tile's image, and its rows and columns there."""
        image, tile = divmod(range(len(self))[index], len(self._corners))
        (top, left), (h, w) = self._corners[tile], self.size
        return image, slice(top, top + h), slice(left, left + w)
