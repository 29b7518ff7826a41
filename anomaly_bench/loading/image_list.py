"""The images of a data set by content: what a run was trained and measured on, and what has changed since."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from anomaly_bench.checksums import checksums
from anomaly_bench.records import Record

SHOWN = 5  # files that a message names


class Entry(NamedTuple):
    """One image of a data set."""

    split: str  # train or test
    path: str  # relative to the data root
    kind: str
    image: str  # SHA-256 of the file; of an array's bytes
    mask: str  # likewise; empty where there is none


def listing(train: Sequence[Record], test: Sequence[Record]) -> list[Entry]:
    """An entry for each image, in the order of the records.  Raises UserError naming a file that cannot be read."""
    records = [*train, *test]
    files = {source for r in records for source in (r.image, r.mask) if isinstance(source, Path)}
    digests = dict(zip(files, checksums(files), strict=True))

    def digest(source: Path | np.ndarray | None) -> str:
        if source is None:
            return ""
        return digests[source] if isinstance(source, Path) else array_digest(source)

    splits = ["train"] * len(train) + ["test"] * len(test)
    return [Entry(s, r.path, r.kind, digest(r.image), digest(r.mask)) for s, r in zip(splits, records, strict=True)]


def array_digest(array: np.ndarray) -> str:
    """SHA-256 of an array's bytes, type and shape."""
    head = f"{array.dtype} {array.shape} ".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()


def digest_of(entries: Iterable[Entry]) -> str:
    """One SHA-256 for all entries, in any order; it depends on neither the root nor on times."""
    text = to_csv(sorted(entries))
    return hashlib.sha256(text.encode()).hexdigest()


def to_csv(entries: Iterable[Entry]) -> str:
    """images.csv: split, path, kind and the checksums of image and mask."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Entry._fields)
    writer.writerows(entries)
    return text.getvalue()


def from_csv(text: str) -> list[Entry]:
    """What `to_csv` wrote.  Raises ValueError for anything else."""
    fields, *rows = csv.reader(io.StringIO(text)) or [[]]
    if tuple(fields) != Entry._fields or any(len(row) != len(fields) for row in rows):
        raise ValueError("holds no list of images")
    return [Entry(*row) for row in rows]


def differences(old: Iterable[Entry], new: Iterable[Entry]) -> str:
    """How many images differ and the first of them: `3 of 120 differ: changed test/bad/1.png (mask), added ...`."""
    before, after = ({(e.split, e.path): e for e in entries} for entries in (old, new))
    lines = []
    for key in sorted(before.keys() | after.keys()):
        one, other = before.get(key), after.get(key)
        if one is None or other is None:
            lines.append(f"{'added' if one is None else 'gone'} {key[1]}")
        elif one != other:
            what = [name for name in ("kind", "image", "mask") if getattr(one, name) != getattr(other, name)]
            lines.append(f"changed {key[1]} ({' and '.join(what)})")
    more = f", and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    return f"{len(lines)} of {len(before.keys() | after.keys())} images differ: {', '.join(lines[:SHOWN])}{more}"
