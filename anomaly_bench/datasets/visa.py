"""VisA, Visual Anomaly (Zou et al., ECCV 2022; CC BY 4.0): twelve objects; the one-class split of its authors.

The values of a mask number the kinds of defects; any value but 0 is anomalous.  All defective images are of one kind,
`anomaly`: which of them shows which defect is not in the split.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from anomaly_bench.datasets.known import Inspected, KnownDataset
from anomaly_bench.errors import UserError, none_of
from anomaly_bench.loading.image_files import data_root, is_file
from anomaly_bench.records import Record

Category = Literal[
    "candle", "capsules", "cashew", "chewinggum", "fryum", "macaroni1", "macaroni2", "pcb1", "pcb2", "pcb3", "pcb4",
    "pipe_fryum",
]  # fmt: skip
SPLIT = "split_csv/1cls.csv"
FIELDS = ["object", "split", "label", "image", "mask"]
ALLOWED = {"split": ("train", "test"), "label": ("normal", "anomaly")}


class Row(NamedTuple):
    """A line of the split file."""

    where: str  # file and line
    split: str
    label: str
    image: str  # below the root
    mask: str  # likewise; empty for a normal image


class VisA(KnownDataset):
    """`root`/split_csv/1cls.csv, which names for each object `root`/<object>/Data/Images/{Normal, Anomaly}/<id>.JPG and
    Data/Masks/Anomaly/<id>.png."""

    def __init__(self, category: Category, root: str | None) -> None:
        self.category, self.root = category, root

    def records(self, split: Literal["train", "test"]) -> list[Record]:
        root = data_root(self.root, "visa", self.category)
        records = []
        for row in _rows(root, self.category):
            if row.split == split:
                image, mask = _file(root, row, row.image), _file(root, row, row.mask) if row.mask else None
                records.append(Record(row.image, "anomaly" if mask else "good", image, mask))
        return records

    @classmethod
    def inspect(cls, base: Path, decode: bool) -> Iterator[Inspected]:
        try:
            for row in _rows(base.parent, base.name):
                image, mask = base.parent / row.image, base.parent / row.mask if row.mask else None
                if is_file(image):
                    lacking = UserError(str(image), f"has no mask {mask}") if mask and not is_file(mask) else None
                    key = "train" if row.split == "train" else "defective" if mask else "good"
                    yield (key,), image, lacking or mask
        except UserError as error:
            yield (), base, error


def _rows(root: Path, category: str) -> list[Row]:
    """Return the lines of the split file for an object, at least one.  Raises UserError naming what is wrong in it."""
    file = root / SPLIT
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            reader = csv.reader(lines)
            header = next(reader, [])
            rows = [(f"{file}:{reader.line_num}", row) for row in reader]
    except (OSError, ValueError, csv.Error) as error:
        hint = "it is in the archive; also at https://github.com/amazon-science/spot-diff"
        raise UserError(str(file), f"cannot be read: {error}", hint) from error
    if header != FIELDS:
        raise UserError(str(file), f"begins with '{','.join(header)}'; '{','.join(FIELDS)}' is needed")
    found = [_row(where, row) for where, row in rows if row[:1] == [category]]
    if not found:
        raise none_of(str(file), category, {row[0] for _, row in rows if row})
    return found


def _row(where: str, values: list[str]) -> Row:
    """Return a line of the split file.  Raises UserError for a mistake in it."""
    if len(values) != len(FIELDS):
        raise UserError(where, f"has {len(values)} values; {len(FIELDS)} are needed: {', '.join(FIELDS)}")
    row = Row(where, *values[1:])
    for field, allowed in ALLOWED.items():
        if (value := getattr(row, field)) not in allowed:
            raise none_of(f"{where}: {field}", value, allowed)
    for path in (row.image, row.mask):
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise UserError(where, f"'{path}' does not lie below the data set's folder")
    if (row.label == "anomaly") != bool(row.mask):
        raise UserError(where, f"an image of label {row.label} has {'a mask' if row.mask else 'no mask'}")
    if (row.split, row.label) == ("train", "anomaly"):
        raise UserError(where, f"{row.image} is anomalous, and only normal images are trained on", f"is it {SPLIT}?")
    return row


def _file(root: Path, row: Row, path: str) -> Path:
    if is_file(root / path):
        return root / path
    raise UserError(row.where, f"names {path}, which is not there", "bench data verify visa counts what is there")
