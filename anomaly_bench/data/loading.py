"""From records to batches: validation split, fingerprint of a file list, decoded images, the loaders of a training."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler
from torch.utils.data import Dataset as TorchDataset

from anomaly_bench.contracts import NormalBatch, Record, Sample
from anomaly_bench.data.cache import Masks, cache_key, cached_rows, has_masks
from anomaly_bench.data.decode import read_image, read_mask, resize_image, resize_mask
from anomaly_bench.data.files import cut, data_root, fingerprint
from anomaly_bench.errors import UserError

__all__ = [
    "EpochSampler",
    "ImageSet",
    "NormalLoaders",
    "data_root",
    "fingerprint",
    "read_image",
    "read_mask",
    "resize_image",
    "resize_mask",
    "split_val",
]


def split_val(records: list[Record], share: float, seed: int) -> tuple[list[Record], list[Record]]:
    """(train, val): a share of the normal images drawn by the seed, both in their old order.

    share: 0 (no val) to below 1; above 0 at least one image is drawn.  Raises UserError when none is left to train on.
    """
    if not 0 <= share < 1:
        raise UserError("val_share", f"is {share}; at least 0 and below 1 is allowed")
    count = max(1, round(share * len(records))) if share else 0
    train, val = cut(records, count, seed)
    if not train:
        raise UserError("val_share", f"a share of {share} leaves none of the {len(records)} normal images to train on")
    return train, val


class ImageSet(TorchDataset[Sample]):
    """Records as samples of `size` x `size` pixels, decoded once into `cache_dir`.

    Raises UserError naming the file that cannot be used, or `cache_dir` when it cannot be written.
    Warns when defective images come with an empty mask: they stay anomalous for the image metrics.
    """

    def __init__(self, records: list[Record], size: int, cache_dir: Path) -> None:
        self.records, self.size, self.cache_dir = records, size, Path(cache_dir)
        self._key = cache_key(records, size)
        self._rows: np.memmap | None = None
        self._masked = has_masks(records)
        if records:
            self._warn_of_empty_masks(self._open())  # built here and not in each worker

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        record, row = self.records[index], self._open()[index]
        side, pixels = self.size, self.size * self.size
        image = torch.from_numpy(
            row[: 3 * pixels].reshape(side, side, 3).transpose(2, 0, 1).astype(np.float32, order="C") / 255
        )
        mask = torch.zeros(side, side, dtype=torch.bool)
        if self._masked:
            mask = torch.from_numpy(row[3 * pixels :].reshape(side, side) != 0)
        return Sample(image=image, mask=mask, label=record.label, kind=record.kind, path=record.path)

    @property
    def masks(self) -> Masks | None:
        """None where the data set has none."""
        return Masks(self._open(), self.size) if self._masked else None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_rows": None}  # a spawned worker maps the file itself

    def _open(self) -> np.memmap:
        if self._rows is None:
            self._rows = cached_rows(self.records, self.size, self.cache_dir, self._key)
        return self._rows

    def _warn_of_empty_masks(self, rows: np.ndarray) -> None:
        masked = [i for i, record in enumerate(self.records) if record.label and record.mask is not None]
        empty = [self.records[i].path for i in masked if not rows[i, 3 * self.size**2 :].any()]
        if empty:
            text = f"{len(empty)} of {len(masked)} defective images have an empty mask (first: {empty[0]}); "
            warnings.warn(text + "they count as anomalous images without an anomalous pixel", stacklevel=3)


class EpochSampler(RandomSampler):
    """A permutation that depends on (seed, epoch) alone, so that a resumed training sees the order it would have seen.

    Lightning calls `set_epoch`, and on several devices replaces any RandomSampler by a shuffling DistributedSampler.
    """

    def __init__(self, data_source: ImageSet, seed: int) -> None:
        super().__init__(data_source)
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        state = np.random.SeedSequence([self.seed, self.epoch]).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(state[0]) >> 1)
        return iter(torch.randperm(len(self.data_source), generator=generator).tolist())


class NormalLoaders:
    """The normal images as a method gets them (`contracts.NormalData`).  All are decoded at once: a file that
    cannot be used is named before any training.  Raises what `ImageSet` raises.

    train, val: records of normal images.  workers: processes for each loader.  seed: of the order of the epochs.
    devices: that share each training batch; it must be divisible by them.
    """

    def __init__(
        self,
        train: list[Record],
        val: list[Record],
        size: int,
        cache_dir: Path,
        workers: int,
        seed: int,
        devices: int = 1,
    ) -> None:
        self.sizes = {"train": len(train), "val": len(val)}
        self._images = {"train": ImageSet(train, size, cache_dir), "val": ImageSet(val, size, cache_dir)}
        self.workers, self.seed, self.devices = workers, seed, devices

    def loader(self, split: Literal["train", "val"], batch_size: int, shuffle: bool = False) -> DataLoader[NormalBatch]:
        """Batches of a split in the fixed order or shuffled anew each epoch; the last, smaller batch is kept.

        Raises UserError for an empty split or a batch that the devices cannot share evenly.
        """
        if batch_size % self.devices:
            raise UserError("method.batch_size", f"{batch_size} cannot be shared evenly by {self.devices} devices")
        if not self.sizes[split]:
            raise UserError("val_share", f"the method needs '{split}' images, and there are none")
        images = self._images[split]
        return DataLoader[Any](  # a batch is not a list of samples: the collate function drops labels and masks
            images,
            batch_size=batch_size // self.devices,
            sampler=EpochSampler(images, self.seed) if shuffle else None,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            collate_fn=_without_labels,
            pin_memory=torch.cuda.is_available(),
        )


def _without_labels(samples: list[Sample]) -> NormalBatch:
    images: list[Tensor] = [sample["image"] for sample in samples]
    return NormalBatch(image=torch.stack(images), path=[sample["path"] for sample in samples])
