"""The contracts of data sets, which need no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

Mask = Path | tuple[Path, ...] | np.ndarray  # a file; several files of one image, whose union is the mask; [H, W]
Size = tuple[int, int]  # height and width in pixels


def as_size(size: Size | int) -> Size:
    """Return height and width; a single number is the side of a square."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


@dataclass(frozen=True)
class Record:
    """One image of a data set, before it is read."""

    path: str  # relative to the data root, with forward slashes; "test/00042" for array data
    kind: str  # defect type, "good" when normal
    image: Path | np.ndarray  # a file, or uint8 or uint16 [H, W] or [H, W, 3]
    mask: Mask | None = None  # any value but 0 is anomalous; None when normal or without masks

    @property
    def label(self) -> int:
        """0: normal, 1: anomalous."""
        return int(self.kind != "good")

    @property
    def mask_files(self) -> tuple[Path, ...]:
        """The files of the mask; none for an array and without a mask."""
        if isinstance(self.mask, Path):
            return (self.mask,)
        return self.mask if isinstance(self.mask, tuple) else ()


class Dataset(ABC):
    """Lists a data set's images.  A subclass knows a folder layout or a file format, and nothing about methods."""

    @abstractmethod
    def records(self, split: Literal["train", "test"]) -> list[Record]:
        """Return the images of a split in a fixed order; `train` has normal images only.

        Raises UserError naming the folder or file that is missing or wrong.
        """

    def validation_records(self) -> list[Record]:
        """Return the normal images that the data set itself keeps apart from training and test; mostly none.

        A threshold is calibrated on them.  Raises UserError as `records`.
        """
        return []
