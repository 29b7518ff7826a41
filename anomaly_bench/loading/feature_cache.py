"""Features of a frozen network on disk: a file of rows for each list of images, size and network.

A row: the feature maps of an image, one after the other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from anomaly_bench.console import track
from anomaly_bench.contracts import FeatureBatch, FrozenFeatures
from anomaly_bench.errors import UserError
from anomaly_bench.files import sha256
from anomaly_bench.loading.device_loader import device_loader
from anomaly_bench.loading.frame import Frame
from anomaly_bench.loading.image_dataset import ImageSet
from anomaly_bench.loading.row_file import get_or_create
from anomaly_bench.loading.tiles import TileSet

VERSION = 1  # of what a row holds
AT_ONCE = 8  # images that the network sees together, whatever the size of a training step


class FeatureSet(TorchDataset[tuple[list[Tensor], str]]):
    """A torch dataset of (features, path) of each image; features: [C, h, w] float32 of each layer or size.

    The constructor computes the features that are not on disk yet, or damaged there.  There must be at least one image.
    workers: processes that read images ahead meanwhile.  Raises UserError naming an image with a feature that cannot be
    stored, or `cache_dir` when it cannot be written.
    """

    def __init__(self, images: ImageSet | TileSet, frozen: FrozenFeatures, workers: int = 0) -> None:
        self.paths = [record.path for record in images.records]
        key = sha256(json.dumps([VERSION, images.key, frozen.key, frozen.dtype]))
        file = images.cache_dir / f"{key[:32]}.features"
        self._rows = get_or_create(file, key, lambda: _make(images, frozen, workers))
        self._shapes, self._dtype = [tuple(shape) for shape in self._rows.about["shapes"]], np.dtype(frozen.dtype)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[list[Tensor], str]:
        values, path = self.stored(index)
        return [maps[0] for maps in self.batch(torch.from_numpy(values[None].copy()), [path])["features"]], path

    def stored(self, index: int) -> tuple[np.ndarray, str]:
        """Return the features of an image as they are on disk, one after the other, and its path."""
        return self._rows[index].view(self._dtype), self.paths[index]

    def batch(self, rows: Tensor, paths: list[str]) -> FeatureBatch:
        """Return stored features [B, values of an image] as a method gets them."""
        maps = zip(rows.split([math.prod(shape) for shape in self._shapes], 1), self._shapes, strict=True)
        return FeatureBatch(features=[flat.float().contiguous().unflatten(1, s) for flat, s in maps], path=paths)


def _make(images: ImageSet | TileSet, frozen: FrozenFeatures, workers: int) -> tuple[dict[str, Any], Iterable[bytes]]:
    """Return a description of the features of these images, and their rows."""
    with torch.inference_mode():
        maps = frozen.compute(images[0]["image"][None].to(frozen.device))
    about: dict[str, Any] = {"images": len(images), "size": Frame(images.size).key, "first": images.records[0].path}
    about |= {"network": frozen.key, "dtype": frozen.dtype, "shapes": [list(m.shape[1:]) for m in maps]}
    return about, track(_rows(images, frozen, workers), f"features of {len(images)} images", len(images))


def _rows(images: ImageSet | TileSet, frozen: FrozenFeatures, workers: int) -> Iterator[bytes]:
    """Yield the features of each image.  Raises UserError for one that is not finite, or beyond the dtype's range."""
    for batch in device_loader(images, AT_ONCE, frozen.device, workers):
        with torch.inference_mode():
            maps = frozen.compute(batch["image"])
            flat = torch.cat([m.flatten(1) for m in maps], 1).float().cpu().numpy()  # [B, values of an image]
        with np.errstate(over="ignore"):  # an error below
            rows = flat.astype(frozen.dtype)
        for values, row, path in zip(flat, rows, batch["path"], strict=True):
            if not np.isfinite(values).all():
                raise UserError(path, "the network gives a feature that is not finite")
            if not np.isfinite(row).all():
                largest = np.finfo(row.dtype).max
                what = f"a feature of {abs(values).max():.3g} is beyond {row.dtype} ({largest:.0f})"
                raise UserError(path, what, "method.feature_dtype=float32")
            yield row.tobytes()
