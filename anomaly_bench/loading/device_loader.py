"""Loaders whose batches travel as they are stored, a quarter or half of the bytes, and become float32 on the device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from anomaly_bench.contracts import FeatureBatch, NormalBatch

Item = TypeVar("Item")


class StoredRows(Protocol):
    """Images or features as they lie in the cache."""

    def __len__(self) -> int: ...

    def stored(self, index: int) -> tuple[np.ndarray, str]:
        """Return the row of an image, and the image's path."""
        ...

    def batch(self, rows: Tensor, paths: list[str]) -> NormalBatch | FeatureBatch:
        """Return rows [B, ...] as a method gets them, on the device on which they are."""
        ...


class Rounds(TorchDataset[tuple[np.ndarray, str]]):
    """The stored rows, `rounds` times one after the other, and the device for which batches of them are meant."""

    def __init__(self, rows: StoredRows, device: torch.device, rounds: int = 1) -> None:
        self.rows, self.device, self.rounds = rows, device, rounds

    def __len__(self) -> int:
        return self.rounds * len(self.rows)

    def __getitem__(self, index: int) -> tuple[np.ndarray, str]:
        return self.rows.stored(range(len(self))[index] % len(self.rows))

    def batch(self, loaded: tuple[Tensor, list[str]]) -> NormalBatch | FeatureBatch:
        """Return what a loader has read as a batch on the device, for which the host does not wait."""
        rows, paths = loaded
        return self.rows.batch(rows.to(self.device, non_blocking=True), paths)


class DeviceLoader(DataLoader[Any]):
    """A loader over `Rounds` that yields batches on their device.

    It has no arguments of its own, so that Lightning can build it anew for several devices.
    """

    dataset: Rounds

    def __iter__(self) -> Iterator[NormalBatch | FeatureBatch]:  # type: ignore[override]
        return map(self.dataset.batch, super().__iter__())


def device_loader(
    rows: StoredRows,
    batch_size: int,
    device: torch.device,
    workers: int = 0,
    rounds: int = 1,
    sampler: Sampler[int] | None = None,
) -> DataLoader[Any]:
    """Return batches of stored rows on a device, in their order or a sampler's; the last, smaller one is kept.

    workers: processes that read ahead; for a GPU they read into pinned memory, from which a copy needs no waiting.
    rounds: how often an epoch goes through all rows.
    """
    return DeviceLoader(
        Rounds(rows, device, rounds),
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=_stacked,
        pin_memory=device.type == "cuda",
    )


def ahead(loader: Iterable[Item]) -> Iterator[Item]:
    """Yield batches; a thread gets the next one while the caller works on the one before."""
    batches = iter(loader)
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = pool.submit(next, batches, None)
            yield batch


def _stacked(rows: list[tuple[np.ndarray, str]]) -> tuple[Tensor, list[str]]:
    return torch.from_numpy(np.stack([row for row, _ in rows])), [path for _, path in rows]
