"""Decoded and resized images on disk, so that no file is decoded twice: a file of rows for each list and size.

A row: S * S * 3 bytes of RGB and, where any record has a mask, S * S bytes of mask.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from anomaly_bench.checksums import checksum
from anomaly_bench.data.decode import read_image, read_mask, resize_image, resize_mask
from anomaly_bench.data.kept import Rows, keep, progress
from anomaly_bench.data.listing import array_digest
from anomaly_bench.errors import UserError
from anomaly_bench.files import sha256_of
from anomaly_bench.records import Record

VERSION = 3  # of everything that changes a pixel here: reading, resizing
AT_ONCE = 64  # images held in memory while they wait to be written


def cache_key(records: list[Record], size: int) -> str:
    """SHA-256 of what the pixels depend on: the images' and masks' content, side, format, and Pillow's version.

    Pillow 13 resizes in another order of passes than those before, so that a fifth of the values move by a grey level.
    """
    rows = [(_digest(record.image), _digest(record.mask)) for record in records]
    return hashlib.sha256(json.dumps([VERSION, PIL.__version__, size, rows]).encode()).hexdigest()


def cached_rows(records: list[Record], size: int, cache_dir: Path, key: str) -> Rows:
    """uint8 [N, S * S * 3 or 4] on disk, read-only; built when missing, damaged or not ours.

    Raises UserError for an image or mask that cannot be used, and when `cache_dir` cannot be written.
    """
    about = {"images": len(records), "size": size, "first": records[0].path}
    return keep(cache_dir / f"{key[:32]}.pixels", key, lambda: (about, _rows(records, size)))


def has_masks(records: list[Record]) -> bool:
    """Whether the rows of these records hold masks."""
    return any(record.mask is not None for record in records)


class Masks(Sequence[np.ndarray]):
    """The masks in cached rows, bool [S, S], each read from the cache when it is asked for: none stays in memory."""

    def __init__(self, rows: Rows, size: int) -> None:
        self._rows, self._size = rows, size

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        row = self._rows[range(len(self))[index]]
        return row[3 * self._size**2 :].view(np.bool_).reshape(self._size, self._size)


def _digest(source: Path | np.ndarray | None) -> str:
    if source is None:
        return ""
    return array_digest(source) if isinstance(source, np.ndarray) else checksum(source)


def _rows(records: list[Record], size: int) -> Iterator[bytes]:
    make = partial(_row, size=size, masks=has_masks(records))
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        parts = (pool.map(make, records[start : start + AT_ONCE]) for start in range(0, len(records), AT_ONCE))
        yield from progress((row for part in parts for row in part), f"decoding to {size} x {size}", len(records))


def _row(record: Record, size: int, masks: bool) -> bytes:
    expected = _digest(record.image), _digest(record.mask)
    image = read_image(record.image)  # [H, W, 3]
    row = resize_image(image, size).tobytes()
    mask = b""
    if masks:
        height, width = image.shape[:2]
        mask = bytes(size * size)
        if record.mask is not None:
            mask = resize_mask(read_mask(record.mask, (height, width)), size).tobytes()
    for source, digest in zip((record.image, record.mask), expected, strict=True):
        if isinstance(source, Path) and sha256_of(source) != digest:
            raise UserError(str(source), "was changed while it was read", "start the same command again")
    return row + mask
