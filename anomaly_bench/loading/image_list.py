"""The images of a data set by content: what a run was trained and measured on, and what has changed since."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from anomaly_bench.checksums import checksums
from anomaly_bench.files import csv_text, sha256
from anomaly_bench.records import Mask, Record

SHOWN = 5  # files that a message names


class Entry(NamedTuple):
    """One image of a data set."""

    split: str  # train, test or validation
    path: str  # relative to the data root
    kind: str
    image: str  # SHA-256 of the file; of an array's bytes
    mask: str  # likewise, of several files as `mask_checksum` returns it; empty where there is none


def list_images(train: Sequence[Record], test: Sequence[Record], validation: Sequence[Record] = ()) -> list[Entry]:
    """Return an entry for each image, in the order of the records.  Raises UserError naming an unreadable file."""
    records = [*train, *test, *validation]
    files = {source for r in records for source in (r.image, *r.mask_files) if isinstance(source, Path)}
    digests = dict(zip(files, checksums(files), strict=True))

    def digest(source: Mask | None) -> str:
        if source is None:
            return ""
        if isinstance(source, tuple):
            return mask_checksum([digests[file] for file in source])
        return digests[source] if isinstance(source, Path) else array_checksum(source)

    splits = ["train"] * len(train) + ["test"] * len(test) + ["validation"] * len(validation)
    return [Entry(s, r.path, r.kind, digest(r.image), digest(r.mask)) for s, r in zip(splits, records, strict=True)]


def mask_checksum(digests: Sequence[str]) -> str:
    """Return one checksum for the files of a mask, from theirs in the order of the names: a single one stays."""
    return digests[0] if len(digests) == 1 else sha256(" ".join(digests))


def array_checksum(array: np.ndarray) -> str:
    """Return the SHA-256 of an array's bytes, type and shape."""
    head = f"{array.dtype} {array.shape} ".encode()
    return sha256(head + np.ascontiguousarray(array).tobytes())


def list_checksum(entries: Iterable[Entry]) -> str:
    """Return one SHA-256 for all entries, in any order; it depends on neither the root nor on times."""
    return sha256(list_text(sorted(entries)))


def list_text(entries: Iterable[Entry]) -> str:
    """Return the content of images.csv: split, path, kind and the checksums of image and mask."""
    return csv_text([Entry._fields, *entries])


def read_list(text: str) -> list[Entry]:
    """Return the entries of what `list_text` returned.  Raises ValueError for any other text."""
    fields, *rows = csv.reader(io.StringIO(text)) or [[]]
    if tuple(fields) != Entry._fields or any(len(row) != len(fields) for row in rows):
        raise ValueError("holds no list of images")
    return [Entry(*row) for row in rows]


def describe_changes(old: Iterable[Entry], new: Iterable[Entry]) -> str:
    """Return how many images differ and the first of them: `3 of 120 images differ: changed a/1.png (mask), ...`."""
    before, after = ({(e.split, e.path): e for e in entries} for entries in (old, new))
    keys, lines = sorted(before.keys() | after.keys()), []
    for key in keys:
        one, other = before.get(key), after.get(key)
        if one is None or other is None:
            lines.append(f"{'added' if one is None else 'gone'} {key[1]}")
        elif one != other:
            what = [name for name in ("kind", "image", "mask") if getattr(one, name) != getattr(other, name)]
            lines.append(f"changed {key[1]} ({' and '.join(what)})")
    more = f", and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    return f"{len(lines)} of {len(keys)} images differ: {', '.join(lines[:SHOWN])}{more}"
