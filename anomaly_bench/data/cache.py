"""Decoded and resized images on disk, so that no file is decoded twice: a memory-mapped file for each list and size.

Format: 128 bytes of header (what it is, and the key), then for each record S * S * 3 bytes of RGB and, where any record
has a mask, S * S bytes of mask.  The files can be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from anomaly_bench.data.decode import read_image, read_mask, resize_image, resize_mask
from anomaly_bench.errors import UserError
from anomaly_bench.records import Record

VERSION = 1  # of the format and of everything that changes a pixel: reading, resizing
HEADER_BYTES = 128
AT_ONCE = 64  # images held in memory while they wait to be written


def cache_key(records: list[Record], size: int) -> str:
    """SHA-256 of what the pixels depend on: file names, sizes, times (the content of arrays), side, format version."""
    rows = [(_identity(record.image), _identity(record.mask)) for record in records]
    return hashlib.sha256(json.dumps([VERSION, size, rows]).encode()).hexdigest()


def cached_rows(records: list[Record], size: int, cache_dir: Path, key: str) -> np.memmap:
    """uint8 [N, S * S * 3 or 4] on disk, read-only; built when missing, damaged or not ours.

    Raises UserError for an image or mask that cannot be used, and when `cache_dir` cannot be written.
    """
    path = cache_dir / f"{key[:32]}.pixels"
    shape = (len(records), size * size * (4 if has_masks(records) else 3))
    rows = _open(path, key, shape)
    if rows is None:
        _build(path, key, records, size)
        rows = _open(path, key, shape)
    if rows is None:
        raise UserError("cache_dir", f"{path} was written and cannot be read back", "another folder: cache_dir=DIR")
    return rows


def has_masks(records: list[Record]) -> bool:
    """Whether the rows of these records hold masks."""
    return any(record.mask is not None for record in records)


class Masks(Sequence[np.ndarray]):
    """The masks in cached rows, bool [S, S], each read from the cache when it is asked for: none stays in memory."""

    def __init__(self, rows: np.memmap, size: int) -> None:
        self._file, self._start, self._shape, self._size = str(rows.filename), rows.offset, rows.shape, size

    def __len__(self) -> int:
        return self._shape[0]

    def __getitem__(self, index: Any) -> Any:
        pixels = self._size**2
        start = self._start + range(len(self))[index] * self._shape[1] + 3 * pixels
        return np.fromfile(self._file, np.bool_, pixels, offset=start).reshape(self._size, self._size)


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


def _header(key: str) -> bytes:
    return f"anomaly_bench pixels {VERSION}\n{key}\n".encode().ljust(HEADER_BYTES)


def _open(path: Path, key: str, shape: tuple[int, int]) -> np.memmap | None:
    """The rows, or None unless the file is whole and has our header."""
    try:
        with path.open("rb") as file:
            known = file.read(HEADER_BYTES) == _header(key)
            whole = os.fstat(file.fileno()).st_size == HEADER_BYTES + shape[0] * shape[1]
        return np.memmap(path, np.uint8, "r", HEADER_BYTES, shape) if known and whole else None
    except OSError:
        return None


def _build(path: Path, key: str, records: list[Record], size: int) -> None:
    part = path.with_suffix(f".{uuid.uuid4().hex}.part")  # its own name: another process may build the same
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("xb") as file:  # written, not mapped: a full disk is then an error and not a SIGBUS
                file.write(_header(key))
                for row in _rows(records, size):
                    file.write(row)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        what = f"cannot write decoded images to {path.parent}: {error.strerror}"
        raise UserError("cache_dir", what, "another folder: cache_dir=DIR") from error


def _rows(records: list[Record], size: int) -> Iterator[bytes]:
    console = Console(stderr=True)
    make = partial(_row, size=size, masks=has_masks(records))
    with (
        ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool,
        Progress(console=console, transient=True, disable=not console.is_terminal) as progress,
    ):
        task = progress.add_task(f"decoding to {size} x {size}", total=len(records))
        for start in range(0, len(records), AT_ONCE):
            for row in pool.map(make, records[start : start + AT_ONCE]):
                progress.advance(task)
                yield row


def _row(record: Record, size: int, masks: bool) -> bytes:
    image = read_image(record.image)  # [H, W, 3]
    row = resize_image(image, size).tobytes()
    if not masks:
        return row
    if record.mask is None:
        return row + bytes(size * size)
    height, width = image.shape[:2]
    return row + resize_mask(read_mask(record.mask, (height, width)), size).tobytes()
