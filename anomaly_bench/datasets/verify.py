"""Check a known data set on the disk: counts, masks, sizes.  Imports no torch."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from omegaconf import OmegaConf
from PIL import Image
from rich.console import Console

from anomaly_bench.config import conf_dir
from anomaly_bench.console import new_table, print_lines
from anomaly_bench.datasets import one_class
from anomaly_bench.datasets.folder import own_categories
from anomaly_bench.datasets.known import KnownDataset
from anomaly_bench.datasets.layout import MaskFiles
from anomaly_bench.errors import UserError
from anomaly_bench.loading.decode import read_image, read_mask

# Folder (a category, or a part of the set) -> images of each split and kind, as conf/download/<name>.yaml has them.
# Kinds of defects that it does not name are counted as `defective`.
Counts = Mapping[str, Mapping[str, int]]
STYLES = {"ok": "", "missing": "dim", "incomplete": "yellow", "damaged": "red"}


@dataclass(frozen=True)
class Row:
    """One category of a data set."""

    category: str
    expected: Mapping[str, int]
    found: Mapping[str, int]  # all 0 where there is no such folder
    problems: list[str]  # one line for each image that is not in order

    @property
    def status(self) -> str:
        """ok, missing, incomplete, or damaged: a file cannot be used, or there are more than there should be."""
        if self.problems or any(self.found[key] > count for key, count in self.expected.items()):
            return "damaged"
        if self.found == self.expected:
            return "ok"
        return "incomplete" if any(self.found.values()) else "missing"


def known_dataset(name: str) -> type[KnownDataset]:
    """Return the class that conf/dataset/<name> names."""
    folder = conf_dir() / "dataset"
    file = next(iter(sorted((folder / name).glob("*.yaml"))), folder / f"{name}.yaml")
    values: Any = OmegaConf.load(file)
    module, _, target = values["_target_"].rpartition(".")
    found: type[KnownDataset] = getattr(importlib.import_module(module), target)
    return found


def inspect(name: str, root: Path, counts: Counts, check: bool, decode: bool) -> list[Row]:
    """Compare `root` with the known counts, category by category.

    check: also that every defective image has a mask of its size.  decode: also that every file can be read.
    """
    dataset, rows = known_dataset(name), []
    for category, expected in counts.items():
        base = root / category
        found, problems = dict.fromkeys(expected, 0), []
        for keys, image, mask in dataset.inspect(base, decode) if base.is_dir() else ():
            key = next((key for key in keys if key in expected), None)
            if key is not None:
                found[key] += 1
            if check and (key or not keys) and (text := _problem(image, mask, decode)):
                problems.append(text)
        rows.append(Row(category, dict(expected), found, problems))
    return rows


def inspect_arrays(name: str, folder: Path, counts: Counts) -> list[Row]:
    """Do the same for a one-class set, whose files are read as a whole: a damaged one is the first row's problem."""
    problems: list[str] = []
    found = {split: _labels(name, folder, split, problems) for split in get_args(one_class.Split)}
    rows = []
    for i, (category, expected) in enumerate(counts.items()):
        each = {split: labels.count(i) for split, labels in found.items()}
        rows.append(Row(category, dict(expected), each, [] if i else problems))
    return rows


def inspect_own(root: str | None, decode: bool) -> list[Row]:
    """Return the categories of a folder of the user's own, where nothing tells how many images there should be.

    Raises UserError where the folder holds no images that a run could use.
    """
    rows = []
    for name, dataset in own_categories(root):
        found, problems = dict.fromkeys(("train", "validation", "good", "defective"), 0), []
        try:
            train, test, validation = dataset.records("train"), dataset.records("test"), dataset.validation_records()
            for split, records in (("train", train), ("validation", validation), ("", test)):
                for record in records:
                    found[split or ("defective" if record.label else "good")] += 1
                    problems += [text] if (text := _problem(record.image, record.mask, decode)) else []  # type: ignore[arg-type]
        except UserError as error:
            problems.append(str(error))
        rows.append(Row(name, dict(found), found, problems))
    return rows


def show(name: str, root: Path, rows: list[Row]) -> None:
    """Print a table and, below it, the first problems."""
    here = [row for row in rows if row.status != "missing"]
    what = "classes" if "test" in rows[0].expected else "folders"
    print_lines(f"{name} in {root}: {len(here)} of {len(rows)} {what} are here")
    columns = list(rows[0].expected)
    headings = [column.replace("_", " ") for column in columns]  # so that they wrap in a narrow terminal
    table = new_table(("", *headings, ""), "l" + "r" * len(columns) + "l", no_wrap=("",))
    for row in rows:
        table.add_row(row.category, *(_cell(row, column) for column in columns), row.status, style=STYLES[row.status])
    if rows == here:
        table.add_section()
        table.add_row("sum", *(str(sum(row.found.get(column, 0) for row in rows)) for column in columns), "")
    Console(markup=False).print(table, highlight=False)
    for row in rows:
        more = [f"... and {len(row.problems) - 3} more in {row.category}"] if len(row.problems) > 3 else []
        print_lines(*row.problems[:3], *more)
    print_lines(verdict(name, rows))


def verdict(name: str, rows: list[Row]) -> str:
    """Return `<name>: complete`, `partial` or `damaged`, with how many images of how many, and where they lack."""
    found, expected = sum(sum(row.found.values()) for row in rows), sum(sum(row.expected.values()) for row in rows)
    damaged = [f"{row.category} ({_reason(row)})" for row in rows if row.status == "damaged"]
    incomplete = [f"{row.category} ({_of(row)})" for row in rows if row.status == "incomplete"]
    missing = [row.category for row in rows if row.status == "missing"]
    parts = {"damaged": damaged, "incomplete": incomplete, "missing": missing}
    state = "damaged" if damaged else "partial" if incomplete or missing else "complete"
    details = [f"{what}: {', '.join(names)}" for what, names in parts.items() if names]
    images = f"{found} of {expected} images" if state != "complete" else f"{found} images"
    return "; ".join([f"{name}: {state}, {images}", *details])


def _of(row: Row) -> str:
    return f"{sum(row.found.values())} of {sum(row.expected.values())} images"


def _reason(row: Row) -> str:
    if count := len(row.problems):
        return f"{count} cannot be used"
    return f"more than expected: {_of(row)}"


def _cell(row: Row, column: str) -> str:
    found, expected = row.found.get(column, 0), row.expected.get(column, 0)
    lacking = row.status in ("incomplete", "damaged") and found != expected
    return f"{found} of {expected}" if lacking else str(found or "-")


def _labels(name: str, folder: Path, split: one_class.Split, problems: list[str]) -> list[int]:
    """Return the labels of a split, or [] where its files cannot be used: `problems` then gets the reason."""
    try:
        return one_class.read_split(name, folder, split)[1].tolist()
    except UserError as error:
        problems.append(str(error))
        return []


def _problem(image: Path, mask: MaskFiles | UserError | None, decode: bool) -> str:
    """Return what is wrong with an image and its mask, or an empty string.  Without `decode` only headers are read."""
    if isinstance(mask, UserError):
        return str(mask)
    masks = (mask,) if isinstance(mask, Path) else mask or ()
    try:
        if decode:
            pixels = read_image(image)
            if masks:
                read_mask(masks, (pixels.shape[0], pixels.shape[1]))
            return ""
        for file in masks:
            with Image.open(image) as a, Image.open(file) as b:
                if a.size != b.size:
                    return f"{file}: the mask has {b.width} x {b.height} pixels, its image {a.width} x {a.height}"
    except Exception as error:  # Pillow raises nearly anything on a damaged file
        return str(error) if isinstance(error, UserError) else f"{image} or its mask cannot be read: {error}"
    return ""
