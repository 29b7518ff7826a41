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

from anomaly_bench.errors import UserError
from anomaly_bench.loading.decode import read_image, read_mask
from anomaly_bench.loading.image_list import listing
from anomaly_bench.loading.resize import resize_image, resize_mask
from anomaly_bench.loading.row_file import Rows, keep, progress
from anomaly_bench.records import Record

VERSION = 3  # of everything that changes a pixel here: reading, resizing
AT_ONCE = 64  # images held in memory while they wait to be written


def cached_rows(records: list[Record], size: int, cache_dir: Path) -> Rows:
    """uint8 [S * S * 3 or 4] of each record on disk; built when missing, damaged or not ours.

    Their key holds all that the pixels depend on: the images' and masks' content, side, format, and Pillow's version,
    because Pillow 13 resizes in another order of passes than those before, which moves a fifth of the values by a grey
    level.  Raises UserError for an image or mask that cannot be used, and when `cache_dir` cannot be written.
    """
    digests = [(entry.image, entry.mask) for entry in listing([], records)]
    key = hashlib.sha256(json.dumps([VERSION, PIL.__version__, size, digests]).encode()).hexdigest()
    about = {"images": len(records), "size": size, "first": records[0].path}
    return keep(cache_dir / f"{key[:32]}.pixels", key, lambda: (about, _rows(records, digests, size)))


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


def _rows(records: list[Record], digests: list[tuple[str, str]], size: int) -> Iterator[bytes]:
    make, jobs = partial(_row, size=size, masks=has_masks(records)), list(zip(records, digests, strict=True))
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        parts = (pool.map(make, jobs[start : start + AT_ONCE]) for start in range(0, len(jobs), AT_ONCE))
        yield from progress((row for part in parts for row in part), f"decoding to {size} x {size}", len(jobs))


def _row(job: tuple[Record, tuple[str, str]], size: int, masks: bool) -> bytes:
    record, (of_image, of_mask) = job
    image = read_image(record.image, _content(record.image, of_image))  # [H, W, 3]
    row = resize_image(image, size).tobytes()
    if not masks:
        return row
    if record.mask is None:
        return row + bytes(size * size)
    mask = read_mask(record.mask, image.shape[:2], _content(record.mask, of_mask))
    return row + resize_mask(mask, size).tobytes()


def _content(source: Path | np.ndarray, digest: str) -> bytes | None:
    """A file's bytes, which must be those that the key was made of; None for an array."""
    if isinstance(source, np.ndarray):
        return None
    try:
        content = source.read_bytes()
    except OSError as error:
        raise UserError(str(source), f"cannot be read: {error.strerror or error}") from error
    if hashlib.sha256(content).hexdigest() != digest:
        hint = "start the same command again; if it stays so: bench data cache clear checksums"
        raise UserError(str(source), "was changed while it was read", hint)
    return content
