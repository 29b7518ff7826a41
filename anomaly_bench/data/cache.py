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

from anomaly_bench.data.decode import read_image, read_mask, resize_image, resize_mask
from anomaly_bench.data.kept import keep, open_kept, progress
from anomaly_bench.errors import UserError
from anomaly_bench.records import Record

VERSION = 2  # of everything that changes a pixel: reading, resizing
AT_ONCE = 64  # images held in memory while they wait to be written


def cache_key(records: list[Record], size: int) -> str:
    """SHA-256 of what the pixels depend on: file names, sizes, times (the content of arrays), side, format version."""
    rows = [(_identity(record.image), _identity(record.mask)) for record in records]
    return hashlib.sha256(json.dumps([VERSION, size, rows]).encode()).hexdigest()


def cached_rows(records: list[Record], size: int, cache_dir: Path, key: str, checked: bool = True) -> np.memmap:
    """uint8 [N, S * S * 3 or 4] on disk, read-only; built when missing, damaged or not ours.

    checked: False where this process or its parent has checked the file already.  Raises UserError for an image or mask
    that cannot be used, and when `cache_dir` cannot be written.
    """
    path = cache_dir / f"{key[:32]}.pixels"
    if not checked and (kept := open_kept(path, key, checked=False)):
        return kept.rows
    about = {"images": len(records), "size": size, "first": records[0].path}
    return keep(path, key, lambda: (about, _rows(records, size))).rows


def has_masks(records: list[Record]) -> bool:
    """Whether the rows of these records hold masks."""
    return any(record.mask is not None for record in records)


class Masks(Sequence[np.ndarray]):
    """The masks in cached rows, bool [S, S], each read from the cache when it is asked for: none stays in memory."""

    def __init__(self, rows: np.memmap, size: int) -> None:
        self._rows, self._size = rows, size

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        pixels, row = self._size**2, range(len(self))[index]
        start = self._rows.offset + row * self._rows.shape[1] + 3 * pixels
        try:  # what is read through a map counts as this process's memory
            mask = np.fromfile(str(self._rows.filename), np.bool_, pixels, offset=start)
        except FileNotFoundError:  # removed during the run; the map still has it
            mask = self._rows[row, 3 * pixels :].view(np.bool_)
        return mask.reshape(self._size, self._size)


def _identity(source: Path | np.ndarray | None) -> list[str | int] | None:
    if source is None:
        return None
    if isinstance(source, np.ndarray):
        digest = hashlib.sha256(np.ascontiguousarray(source).tobytes()).hexdigest()
        return [digest, str(source.dtype), *source.shape]
    try:
        stat = source.stat()
    except OSError as error:
        raise UserError(str(source), f"cannot be read: {error.strerror}") from error
    return [str(source.absolute()), stat.st_size, stat.st_mtime_ns]


def _rows(records: list[Record], size: int) -> Iterator[bytes]:
    make = partial(_row, size=size, masks=has_masks(records))
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        parts = (pool.map(make, records[start : start + AT_ONCE]) for start in range(0, len(records), AT_ONCE))
        yield from progress((row for part in parts for row in part), f"decoding to {size} x {size}", len(records))


def _row(record: Record, size: int, masks: bool) -> bytes:
    image = read_image(record.image)  # [H, W, 3]
    row = resize_image(image, size).tobytes()
    if not masks:
        return row
    if record.mask is None:
        return row + bytes(size * size)
    height, width = image.shape[:2]
    return row + resize_mask(read_mask(record.mask, (height, width)), size).tobytes()
