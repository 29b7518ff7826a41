"""Records as tensors: image, mask, label, kind and path of each, decoded once."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from anomaly_bench.contracts import NormalBatch, Record, Sample, Size
from anomaly_bench.loading.frame import Frame
from anomaly_bench.loading.image_cache import CachedMasks, cached_rows, has_masks, ignored_pixels, image_of, mask_of
from anomaly_bench.loading.image_files import width_and_height
from anomaly_bench.loading.image_statistics import ImageStatistics, image_statistics, plain_statistics
from anomaly_bench.loading.row_file import RowFile


def to_tensor(image: np.ndarray) -> Tensor:
    """Return uint8 or uint16 [H, W, 3] as float32 [3, H, W] in [0, 1]."""
    return to_floats(torch.from_numpy(image[None].copy()))[0]


def to_floats(pixels: Tensor) -> Tensor:
    """Return uint8 or uint16 [B, H, W, 3] as float32 [B, 3, H, W] in [0, 1], the same to the bit on every device."""
    largest = torch.iinfo(pixels.dtype).max  # as a number it would be divided by on a CPU, its inverse used on a GPU
    white = torch.full((), largest, dtype=torch.float32, device=pixels.device)
    planes = pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    return planes.div_(white)


class ImageSet(TorchDataset[Sample]):
    """A torch dataset of records as samples of one size, decoded once into `cache_dir`.

    frame: size and how images come to it; a size alone means `squash`.  Raises UserError naming the file that cannot
    be used, or `cache_dir` when it cannot be written.
    Warns when defective images come with an empty mask: they stay anomalous for the image metrics.
    """

    def __init__(self, records: list[Record], frame: Frame | Size | int, cache_dir: Path) -> None:
        self.records, self.frame, self.cache_dir = records, Frame.of(frame), Path(cache_dir)
        self.size = self.frame.size
        self._masked = has_masks(records)
        self._rows: RowFile | list[np.ndarray] = cached_rows(records, self.frame, self.cache_dir) if records else []
        self._warn_of_empty_masks()

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        record, row = self.records[index], self._rows[index]
        image = to_tensor(image_of(row, self.size))
        mask = torch.zeros(self.size, dtype=torch.bool)
        if self._masked:
            mask = torch.from_numpy(mask_of(row, self.size))
        return Sample(image=image, mask=mask, label=record.label, kind=record.kind, path=record.path)

    def stored(self, index: int) -> tuple[np.ndarray, str]:
        """Return an image as it is in the cache, uint8 or uint16 [H, W, 3], and its path."""
        return image_of(self._rows[index], self.size), self.records[index].path

    def batch(self, rows: Tensor, paths: list[str]) -> NormalBatch:
        """Return stored images [B, H, W, 3] as a method gets them."""
        return NormalBatch(image=to_floats(rows), path=paths)

    def statistics(self) -> Iterator[ImageStatistics]:
        """Yield shape, brightness and sharpness of each image."""
        for index, record in enumerate(self.records):
            width, height = width_and_height(record.image) or (1, 1)
            yield image_statistics(self.picture(index), width, height)

    def plain_statistics(self) -> Iterator[tuple[float, ...]]:
        """Yield the `plain_statistics` of each image."""
        for index, record in enumerate(self.records):
            yield plain_statistics(self.picture(index), record.image)

    def picture(self, index: int) -> np.ndarray:
        """Return an image where its mask and its anomaly map have their pixels, uint8 [H, W, 3]."""
        return self.frame.picture(image_of(self._rows[index], self.size), self.shape(index))

    def shape(self, index: int) -> Size:
        """Return height and width of the image as it is on the disk."""
        width, height = width_and_height(self.records[index].image) or (1, 1)
        return height, width

    @property
    def key(self) -> str:
        """A checksum of all that the pixels depend on; empty without images."""
        return self._rows.header.key if isinstance(self._rows, RowFile) else ""

    @property
    def masks(self) -> CachedMasks | None:
        """The masks, bool [H, W] each; None where the data set has none."""
        return CachedMasks(self._rows, self.size) if self._masked and isinstance(self._rows, RowFile) else None

    @property
    def ignored(self) -> Sequence[np.ndarray] | None:
        """The pixels that no metric counts, bool [H, W] for each image; None where there are none."""
        return ignored_pixels(self._rows, self.records, self.frame) if isinstance(self._rows, RowFile) else None

    def _warn_of_empty_masks(self) -> None:
        masked = [i for i, record in enumerate(self.records) if record.label and record.mask is not None]
        empty = [self.records[i].path for i in masked if not mask_of(self._rows[i], self.size).any()]
        if empty:
            text = f"{len(empty)} of {len(masked)} defective images have an empty mask (first: {empty[0]}); "
            warnings.warn(text + "they count as anomalous images without an anomalous pixel", stacklevel=3)
