"""Decoded and resized images on disk, so that no file is decoded twice: a file of rows for each list and size.

A row: S * S * 3 bytes of RGB and, where any record has a mask, S * S bytes of mask.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_bench.console import track
from anomaly_bench.errors import UserError
from anomaly_bench.files import sha256, unreadable
from anomaly_bench.loading.decode import read_image, read_mask
from anomaly_bench.loading.image_list import list_images
from anomaly_bench.loading.resize import RESIZE_RULE, resize_image, resize_mask
from anomaly_bench.loading.row_file import RowFile, get_or_create
from anomaly_bench.records import Record

VERSION = 3  # of how images and masks are read; RESIZE_RULE is that of resizing
AT_ONCE = 64  # images held in memory while they wait to be written


def cached_rows(records: list[Record], size: int, cache_dir: Path) -> RowFile:
    """Return uint8 [S * S * 3 or 4] of each record, stored on disk; made when missing or damaged.

    Their key holds all that the pixels depend on: the images' and masks' content, side, format, and the rule of
    resizing.  Pillow's version is not in it: those from 10.1 to 13.0 decode all formats to the same pixels
    (docs/metrics.md).  Raises UserError for an image or mask that cannot be used, and when `cache_dir` cannot be
    written.
    """
    digests = [(entry.image, entry.mask) for entry in list_images([], records)]
    key = sha256(json.dumps([VERSION, RESIZE_RULE, size, digests]))
    about = {"images": len(records), "size": size, "first": records[0].path}
    return get_or_create(cache_dir / f"{key[:32]}.pixels", key, lambda: (about, _rows(records, digests, size)))


def has_masks(records: list[Record]) -> bool:
    """Return whether the rows of these records hold masks."""
    return any(record.mask is not None for record in records)


def image_of(row: np.ndarray, size: int) -> np.ndarray:
    """Return the image in a row, uint8 [S, S, 3]."""
    return row[: 3 * size**2].reshape(size, size, 3)


def mask_of(row: np.ndarray, size: int) -> np.ndarray:
    """Return the mask in a row that has one, bool [S, S]."""
    return row[3 * size**2 :].view(np.bool_).reshape(size, size)


class CachedMasks(Sequence[np.ndarray]):
    """The masks in cached rows, bool [S, S]; an access reads one from disk, so that none stays in memory."""

    def __init__(self, rows: RowFile, size: int) -> None:
        self._rows, self._size = rows, size

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        return mask_of(self._rows[range(len(self))[index]], self._size)


def _rows(records: list[Record], digests: list[tuple[str, str]], size: int) -> Iterator[bytes]:
    make, jobs = partial(_row, size=size, masks=has_masks(records)), list(zip(records, digests, strict=True))
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        batches = (pool.map(make, jobs[start : start + AT_ONCE]) for start in range(0, len(jobs), AT_ONCE))
        yield from track(chain.from_iterable(batches), f"decoding to {size} x {size}", len(jobs))


def _row(job: tuple[Record, tuple[str, str]], size: int, masks: bool) -> bytes:
    record, (image_checksum, mask_checksum) = job
    image = read_image(record.image, _content(record.image, image_checksum))  # [H, W, 3]
    row = resize_image(image, size).tobytes()
    if not masks:
        return row
    if record.mask is None:
        return row + bytes(size * size)
    mask = read_mask(record.mask, image.shape[:2], _content(record.mask, mask_checksum))
    return row + resize_mask(mask, size).tobytes()


def _content(source: Path | np.ndarray, checksum: str) -> bytes | None:
    """Return a file's bytes, which must have the checksum that the key was made of; None for an array."""
    if isinstance(source, np.ndarray):
        return None
    try:
        content = source.read_bytes()
    except OSError as error:
        raise unreadable(source, error) from error
    if sha256(content) != checksum:
        hint = "start the same command again; if it stays so: bench data cache clear checksums"
        raise UserError(str(source), "was changed while it was read", hint)
    return content
