"""The order of the images of one of our runs, for training loops that draw an order of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch.utils.data import Dataset


class InOrder(Dataset[Any]):
    """A torch dataset that gives `samples` in the order of our `sampler`, epoch after epoch, whatever the index."""

    def __init__(self, samples: Sequence[Any], sampler: Any) -> None:
        self.samples, self.indices = samples, indices(sampler)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        return self.samples[next(self.indices)]


def indices(sampler: Any) -> Iterator[int]:
    epoch = 0
    while True:
        sampler.set_epoch(epoch)
        yield from sampler
        epoch += 1
