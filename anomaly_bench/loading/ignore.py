"""Pixels of images that no metric counts: those of one value in masks, and a region that all images share.

Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from anomaly_bench.errors import UserError
from anomaly_bench.loading.decode import IGNORED, read_mask, read_values
from anomaly_bench.loading.image_list import array_checksum

KEY = "dataset.ignore_mask"


@dataclass(frozen=True)
class Ignore:
    """What is ignored in the images of a data set; two are equal where they ignore the same pixels."""

    value: int | None = None  # of a pixel in a mask
    region: np.ndarray | None = field(default=None, compare=False)  # bool [h, w], the images' own size
    file: str = field(default="", compare=False)  # that it was read from, for messages
    checksum: str = ""  # of the region; empty without one

    @classmethod
    def of(cls, value: int | None, file: Path | None) -> Ignore | None:
        """Return what a pixel's value and the file of a region say; None where they are None.

        Raises UserError naming a file that cannot be read, that marks nothing or everything.
        """
        if file is None:
            return None if value is None else cls(value)
        region = read_mask(file, read_values(file).shape[:2])
        if region.all() or not region.any():
            raise UserError(KEY, f"{file} marks {'every' if region.any() else 'no'} pixel", "a mask of a part, or null")
        return cls(value, region, str(file), array_checksum(region))

    def refuse_size(self, shape: tuple[int, ...], image: str) -> None:
        """Raise UserError where there is a region of another size than an image of shape h, w, ...  image: its name."""
        if self.region is not None and self.region.shape != shape[:2]:
            sizes = [f"{s[1]} x {s[0]}" for s in (self.region.shape, shape)]
            hint = "one mask for images of one size"
            raise UserError(KEY, f"{self.file} has {sizes[0]} pixels, {image} {sizes[1]} (width x height)", hint)

    def fill(self, pixels: np.ndarray, colour: np.ndarray, image: str) -> np.ndarray:
        """Return an image [h, w, 3] with the region in a colour [3] of its type.  Raises UserError as `refuse_size`."""
        self.refuse_size(pixels.shape, image)
        return pixels if self.region is None else np.where(self.region[..., None], colour, pixels)

    def mark(self, marks: np.ndarray) -> np.ndarray:
        """Return marks uint8 [h, w], as `read_marks` returns them, with the region marked as ignored."""
        return marks if self.region is None else np.where(self.region, np.uint8(IGNORED), marks)
