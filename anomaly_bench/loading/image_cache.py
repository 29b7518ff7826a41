"""Decoded and resized images on disk, so that no file is decoded twice: a file of rows for each list and size.

A row: H * W * 3 bytes of RGB, or numbers of two bytes where any record has 16 bits, and, where any record has a mask,
H * W bytes of marks (0 normal, 1 anomalous, 2 ignored).
"""

from __future__ import annotations

import json
import math
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
from anomaly_bench.loading.decode import ANOMALOUS, IGNORED, read_marks, read_mask, to_8_bits
from anomaly_bench.loading.frame import Frame
from anomaly_bench.loading.image_files import has_16_bits
from anomaly_bench.loading.image_list import list_images, mask_checksum
from anomaly_bench.loading.resize import RESIZE_RULE
from anomaly_bench.loading.row_file import RowFile, get_or_create
from anomaly_bench.records import Record, Size

VERSION = 5  # of how images and masks are read; RESIZE_RULE is that of resizing
AT_ONCE = 64  # images held in memory while they wait to be written


def cached_rows(records: list[Record], frame: Frame | Size | int, cache_dir: Path) -> RowFile:
    """Return the row of each record, uint8 [length], stored on disk; made when missing or damaged.

    Their key holds all that the pixels depend on: the images' and masks' content, frame, what is ignored, format, and
    the rule of resizing.  Pillow's version is not in it: those from 10.1 to 13.0 decode all formats to the same pixels
    (docs/metrics.md).  Raises UserError for an image or mask that cannot be used, and when `cache_dir` cannot be
    written.
    """
    frame = Frame.of(frame)
    digests = [(entry.image, entry.mask) for entry in list_images([], records)]
    key = sha256(json.dumps([VERSION, RESIZE_RULE, frame.key, digests, *_ignored_key(records, frame)]))
    about = {"images": len(records), "size": frame.key, "first": records[0].path}
    return get_or_create(cache_dir / f"{key[:32]}.pixels", key, lambda: (about, _rows(records, digests, frame)))


def has_masks(records: list[Record]) -> bool:
    """Return whether the rows of these records hold masks."""
    return any(record.mask is not None for record in records)


def image_of(row: np.ndarray, size: Size) -> np.ndarray:
    """Return the image in a row, uint8 or uint16 [H, W, 3]."""
    values = 3 * math.prod(size)
    return (row[:values] if len(row) < 2 * values else row[: 2 * values].view("<u2")).reshape(*size, 3)


def mask_of(row: np.ndarray, size: Size, mark: int = ANOMALOUS) -> np.ndarray:
    """Return the pixels with a mark in a row that has a mask, bool [H, W]."""
    found: np.ndarray = row[-math.prod(size) :].reshape(size) == mark
    return found


def at_source(record: Record, frame: Frame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return an image as its file has it, uint8 [h, w, 3]; what is anomalous and what is ignored in it, bool [h, w].

    Raises UserError naming a file that cannot be used.
    """
    image, ignore = to_8_bits(frame.read(record.image)), frame.ignore
    shape, value = image.shape[:2], ignore.value if ignore else None
    marks = np.zeros(shape, np.uint8) if record.mask is None else read_marks(record.mask, shape, ignore_value=value)
    marks = ignore.mark(marks) if ignore else marks
    return image, marks == ANOMALOUS, marks == IGNORED


class CachedMasks(Sequence[np.ndarray]):
    """The pixels with a mark in cached rows, bool [H, W]; an access reads one image's, so that none stays in memory."""

    def __init__(self, rows: RowFile, size: Size, mark: int = ANOMALOUS) -> None:
        self._rows, self._size, self._mark = rows, size, mark

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        return mask_of(self._rows[range(len(self))[index]], self._size, self._mark)


def ignored_pixels(rows: RowFile, records: list[Record], frame: Frame) -> Sequence[np.ndarray] | None:
    """Return what is ignored in each of the cached images, bool [H, W]; None where nothing can be."""
    if frame.ignore and has_masks(records):
        return CachedMasks(rows, frame.size, IGNORED)
    return None if frame.ignored_region is None else [frame.ignored_region] * len(records)


def _ignored_key(records: list[Record], frame: Frame) -> list[Any]:
    """Return what rows of these records depend on in `frame.ignore`: nothing, where a value is in no mask of theirs."""
    if frame.ignore is None:
        return []
    known = {"region": frame.ignore.checksum, "value": frame.ignore.value if has_masks(records) else None}
    return [known] if any(known.values()) else []


def _rows(records: list[Record], digests: list[tuple[str, str]], frame: Frame) -> Iterator[bytes]:
    deep = any(has_16_bits(record.image) for record in records)
    make = partial(_row, frame=frame, masks=has_masks(records), deep=deep)
    jobs = list(zip(records, digests, strict=True))
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        batches = (pool.map(make, jobs[start : start + AT_ONCE]) for start in range(0, len(jobs), AT_ONCE))
        yield from track(chain.from_iterable(batches), f"decoding to {frame}", len(jobs))


def _row(job: tuple[Record, tuple[str, str]], frame: Frame, masks: bool, deep: bool) -> bytes:
    record, (image_checksum, checksum_of_mask) = job
    source = [record.image] if isinstance(record.image, Path) else []
    image = frame.read(record.image, *_contents(source, image_checksum))  # [H, W, 3]
    seen = frame.image(image, str(record.image if source else record.path))
    if deep and seen.dtype == np.uint8:
        seen = seen.astype("<u2") * 257  # 255 becomes 65535
    row = seen.tobytes()
    if not masks:
        return row
    if record.mask is None:
        region = frame.ignored_region
        return row + (bytes(math.prod(frame.size)) if region is None else (region * np.uint8(IGNORED)).tobytes())
    source_of_mask = record.mask, image.shape[:2], _contents(record.mask_files, checksum_of_mask)
    if frame.ignore is None:
        return row + frame.mask(read_mask(*source_of_mask)).tobytes()
    return row + frame.marks(read_marks(*source_of_mask, frame.ignore.value)).tobytes()


def _contents(files: Sequence[Path], checksum: str) -> list[bytes]:
    """Return the bytes of the files of an image or a mask, which must have the checksum that the key was made of."""
    contents = [_content(file) for file in files]
    if files and mask_checksum([sha256(content) for content in contents]) != checksum:
        hint = "start the same command again; if it stays so: bench data cache clear checksums"
        raise UserError(" or ".join(map(str, files)), "was changed while it was read", hint)
    return contents


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise unreadable(file, error) from error
