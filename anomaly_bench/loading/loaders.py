"""From records to the batches of a training: the validation split, and loaders of images or of features."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sized
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler

from anomaly_bench.contracts import FeatureBatch, FrozenFeatures, NormalBatch, Record, Size
from anomaly_bench.errors import UserError
from anomaly_bench.loading.device_loader import StoredRows, device_loader
from anomaly_bench.loading.feature_cache import FeatureSet
from anomaly_bench.loading.frame import Frame
from anomaly_bench.loading.image_dataset import ImageSet
from anomaly_bench.loading.image_files import hold_out
from anomaly_bench.loading.image_statistics import ranges
from anomaly_bench.loading.tiles import TileSet, Tiling

CPU = torch.device("cpu")


def split_val(records: list[Record], share: float, seed: int) -> tuple[list[Record], list[Record]]:
    """Return (train, val): a share of the normal images drawn by the seed, both in their old order.

    share: 0 (no val) to below 1; above 0 at least one image is drawn.  Raises UserError when none is left to train on.
    """
    if not 0 <= share < 1:
        raise UserError("val_share", f"is {share}; at least 0 and below 1 is allowed")
    count = max(1, round(share * len(records))) if share else 0
    train, val = hold_out(records, count, seed)
    if not train:
        raise UserError("val_share", f"a share of {share} leaves none of the {len(records)} normal images to train on")
    return train, val


def hold_out_calibration(
    records: list[Record], share: float, fold: str | None, seed: int
) -> tuple[list[Record], list[Record]]:
    """Return (train, calibration): a share of the normal images drawn by the seed, or a fold k/K of them.

    Raises UserError when one of the two is empty.
    """
    where, given = ("calibration_fold", fold) if fold else ("calibration_share", share)
    if fold:
        k, folds = map(int, fold.split("/"))
        parts = np.array_split(np.random.default_rng(seed).permutation(len(records)), folds)
        drawn = set(parts[k - 1].tolist())
        train, calibration = ([r for i, r in enumerate(records) if (i in drawn) is each] for each in (False, True))
    else:
        train, calibration = hold_out(records, max(1, round(share * len(records))) if share else 0, seed)
    if not train or (fold and not calibration):
        left = "to train on" if not train else "to calibrate on"
        raise UserError(where, f"{given} leaves none of the {len(records)} normal images {left}")
    return train, calibration


class EpochSampler(RandomSampler):
    """A permutation that depends on (seed, epoch) alone, so that a resumed training sees the order it would have seen.

    rounds: of the same images that the data source holds; one is over before the next begins.  Lightning calls
    `set_epoch`, and on several devices replaces any RandomSampler by a shuffling DistributedSampler.
    """

    def __init__(self, data_source: Sized, seed: int, rounds: int = 1) -> None:
        super().__init__(data_source)
        self.seed, self.epoch, self.rounds = seed, 0, rounds

    def set_epoch(self, epoch: int) -> None:
        """Let the next permutation be that of this epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        state = np.random.SeedSequence([self.seed, self.epoch]).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(state[0]) >> 1)
        count = len(self.data_source) // self.rounds
        orders = [torch.randperm(count, generator=generator) + count * i for i in range(self.rounds)]
        return iter(torch.cat(orders).tolist())


class NormalLoaders:
    """The normal images as a method gets them (`contracts.NormalData`).  All are decoded at once: a file that
    cannot be used is named before any training.  Raises what `ImageSet` raises.

    train, val: records of normal images.  frame: as of `ImageSet`.  workers: processes for each loader.  seed: of the
    order of the epochs.  devices: that share each training batch; it must be divisible by them.  tiling: the method
    sees tiles of the images.  device: to which batches come; `cuda` is each process's own GPU.
    """

    def __init__(
        self,
        train: list[Record],
        val: list[Record],
        frame: Frame | Size | int,
        cache_dir: Path,
        workers: int,
        seed: int,
        devices: int = 1,
        tiling: Tiling | None = None,
        device: torch.device = CPU,
    ) -> None:
        self._images = {"train": ImageSet(train, frame, cache_dir), "val": ImageSet(val, frame, cache_dir)}
        self._seen = {name: TileSet(images, tiling) if tiling else images for name, images in self._images.items()}
        self.sizes = {name: len(seen) for name, seen in self._seen.items()}
        self.workers, self.seed, self.devices, self.device = workers, seed, devices, device

    def loader(
        self, split: Literal["train", "val"], batch_size: int, shuffle: bool = False, min_samples: int = 1
    ) -> DataLoader[NormalBatch]:
        """Return batches of a split in the fixed order or shuffled anew each epoch; the last, smaller batch is kept.

        min_samples: an epoch goes through all images as often as it takes to give this many.  Raises UserError for an
        empty split or a batch that the devices cannot share evenly.
        """
        self._check(split, batch_size)
        return self._loader(self._seen[split], batch_size, shuffle, math.ceil(min_samples / self.sizes[split]))

    def features(
        self, split: Literal["train", "val"], frozen: FrozenFeatures, batch_size: int, shuffle: bool = False
    ) -> DataLoader[FeatureBatch]:
        """Return the same with the features of a frozen network in place of the images; raises as `FeatureSet`."""
        self._check(split, batch_size)  # before anything is computed
        return self._loader(FeatureSet(self._seen[split], frozen, self.workers), batch_size, shuffle)

    def examples(self, count: int) -> Tensor:
        """Return training images [N, 3, H, W], `count` at most, evenly spaced in their order."""
        images = self._seen["train"]
        chosen = np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int)
        return torch.stack([images[int(i)]["image"] for i in chosen])

    def statistics(self) -> dict[str, tuple[float, float]]:
        """Return the ranges of shape, brightness and sharpness of the training images."""
        return ranges(self._images["train"].statistics())

    def _loader(self, rows: StoredRows, batch_size: int, shuffle: bool, rounds: int = 1) -> DataLoader[Any]:
        """rounds: not left to the sampler, which Lightning replaces on several devices."""
        sampler = EpochSampler(range(rounds * len(rows)), self.seed, rounds) if shuffle else None
        return device_loader(rows, batch_size // self.devices, self.device, self.workers, rounds, sampler)

    def _check(self, split: str, batch_size: int) -> None:
        if batch_size % self.devices:
            raise UserError("method.batch_size", f"{batch_size} cannot be shared evenly by {self.devices} devices")
        if not self.sizes[split]:
            raise UserError("val_share", f"the method needs '{split}' images, and there are none")
