"""What of a known data set is on the disk, and whether it is whole: counts, masks, sizes.  Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from PIL import Image
from rich.console import Console
from rich.table import Table

from anomaly_bench.datasets import one_class
from anomaly_bench.datasets.layout import Omitted, images_and_masks, with_masks
from anomaly_bench.datasets.mtd import tiles as tiles_in
from anomaly_bench.errors import UserError
from anomaly_bench.loading.decode import read_image, read_mask
from anomaly_bench.loading.image_files import subfolders

# category -> {"train": n, "good": n, "defective": n}, for MTD {"images": n}, for one-class sets {"train": n, "test": n}
Counts = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class Row:
    """One category of a data set."""

    category: str
    expected: Mapping[str, int]
    found: Mapping[str, int]  # all 0 where there is no such folder
    problems: list[str]  # one line for each image that is not in order

    @property
    def status(self) -> str:
        """ok, missing, or differs."""
        if not any(self.found.values()) and not self.problems:
            return "missing"
        return "ok" if self.found == self.expected and not self.problems else "differs"


def inspect(root: Path, counts: Counts, check: bool, decode: bool) -> list[Row]:
    """Compare `root` with the known counts.

    check: also that every defective image has a mask of its size.  decode: also that every file can be read.
    """
    rows = []
    for category, expected in counts.items():
        tiles = "images" in expected  # the layout of MTD: masks beside the images
        images = list(_tiles(root / category) if tiles else _layout(root / category))
        part = {"images": "tile"} if tiles else {"train": "train", "good": "good", "defective": "defective"}
        found = {key: sum(kind == name for name, *_ in images) for key, kind in part.items()}
        problems = [text for _, image, mask in images if (text := _problem(image, mask, decode))] if check else []
        rows.append(Row(category, dict(expected), found, problems))
    return rows


def inspect_arrays(name: str, folder: Path, counts: Counts) -> list[Row]:
    """As `inspect` for a one-class set, whose files are read as a whole: a damaged one is the first row's problem."""
    problems: list[str] = []
    found = {split: _labels(name, folder, split, problems) for split in get_args(one_class.Split)}
    rows = []
    for i, (category, expected) in enumerate(counts.items()):
        each = {split: labels.count(i) for split, labels in found.items()}
        rows.append(Row(category, dict(expected), each, [] if i else problems))
    return rows


def show(name: str, root: Path, rows: list[Row]) -> None:
    """Print a table and, below it, the first problems."""
    console = Console()
    here = [row for row in rows if row.status != "missing"]
    what = "classes" if "test" in rows[0].expected else "folders"
    summary = f"{name} in {root}: {len(here)} of {len(rows)} {what} are here"
    console.print(summary, markup=False, highlight=False, soft_wrap=True)
    table = Table()
    columns = list(rows[0].expected)
    for column in ("", *columns):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    table.add_column("")
    for row in rows:
        cells = [_cell(row, column) for column in columns]
        table.add_row(row.category, *cells, row.status, style={"ok": "", "missing": "dim"}.get(row.status, "red"))
    if rows == here:
        table.add_section()
        table.add_row("sum", *(str(sum(row.found[column] for row in rows)) for column in columns), "")
    console.print(table, highlight=False)
    for row in rows:
        for problem in row.problems[:3]:
            console.print(problem, markup=False, highlight=False, soft_wrap=True)
        if len(row.problems) > 3:
            console.print(f"... and {len(row.problems) - 3} more in {row.category}", highlight=False)


def _cell(row: Row, column: str) -> str:
    found, expected = row.found[column], row.expected[column]
    return f"{found} of {expected}" if row.status == "differs" and found != expected else str(found or "-")


def _layout(base: Path) -> Iterator[tuple[str, Path, Path | str | None]]:
    """(part, image, mask or what is wrong with it) in the layout train / test / ground_truth."""
    omitted, train, test = Omitted(base, []), base / "train" / "good", base / "test"
    kinds = {kind: test / kind for kind in subfolders(test)} if test.is_dir() else {}
    try:
        images = images_and_masks(train, omitted)[0] if train.is_dir() else []
        pairs = with_masks(base, kinds, omitted)
    except UserError as error:
        yield "", base, str(error)
        return
    yield from (("train", image, None) for image in images)
    for image, kind, mask in pairs:
        if kind == "good":
            yield "good", image, None
        else:
            yield "defective", image, _or_text(mask) or f"{image}: has no mask, there is no ground_truth"


def _or_text(mask: Path | UserError | None) -> Path | str | None:
    return str(mask) if isinstance(mask, UserError) else mask


def _labels(name: str, folder: Path, split: one_class.Split, problems: list[str]) -> list[int]:
    """None where the files cannot be used: `problems` then says why."""
    try:
        return one_class.read_split(name, folder, split)[1].tolist()
    except UserError as error:
        problems.append(str(error))
        return []


def _tiles(base: Path) -> Iterator[tuple[str, Path, Path | str | None]]:
    """As `_layout`, in the layout of MTD: Imgs/<name>.jpg and Imgs/<name>.png."""
    for image, _, mask in tiles_in(base / "Imgs", "", Omitted(base, [])):
        yield "tile", image, _or_text(mask)


def _problem(image: Path, mask: Path | str | None, decode: bool) -> str:
    """What is wrong with an image and its mask, or an empty string.  Without `decode` only the headers are read."""
    if isinstance(mask, str):
        return mask
    try:
        if decode:
            pixels = read_image(image)
            if mask:
                read_mask(mask, (pixels.shape[0], pixels.shape[1]))
        elif mask:
            with Image.open(image) as a, Image.open(mask) as b:
                if a.size != b.size:
                    return f"{mask}: the mask has {b.width} x {b.height} pixels, its image {a.width} x {a.height}"
    except Exception as error:  # Pillow raises nearly anything on a damaged file
        return str(error) if isinstance(error, UserError) else f"{image} or its mask cannot be read: {error}"
    return ""
