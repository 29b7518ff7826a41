"""Check a known data set on the disk: counts, masks, sizes.  Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from PIL import Image
from rich.console import Console

from anomaly_bench.console import new_table, print_lines
from anomaly_bench.datasets import one_class
from anomaly_bench.datasets.layout import UnusedFiles, pair_with_masks, split_images_and_masks
from anomaly_bench.datasets.mtd import tiles as tiles_in
from anomaly_bench.errors import UserError
from anomaly_bench.loading.decode import read_image, read_mask
from anomaly_bench.loading.image_files import subfolders

# category -> {"train": n, "good": n, "defective": n}, for MTD {"images": n}, for one-class sets {"train": n, "test": n}
Counts = Mapping[str, Mapping[str, int]]
Inspected = tuple[str, Path, Path | UserError | None]  # the key of its count, image, mask or what is wrong with it


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
    """Compare `root` with the known counts, category by category.

    check: also that every defective image has a mask of its size.  decode: also that every file can be read.
    """
    rows = []
    for category, expected in counts.items():
        tiles = "images" in expected  # the layout of MTD: masks beside the images
        images = list(_tiles(root / category) if tiles else _layout(root / category))
        found = {key: sum(name == key for name, *_ in images) for key in expected}
        problems = [text for _, image, mask in images if (text := _problem(image, mask, decode))] if check else []
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


def show(name: str, root: Path, rows: list[Row]) -> None:
    """Print a table and, below it, the first problems."""
    here = [row for row in rows if row.status != "missing"]
    what = "classes" if "test" in rows[0].expected else "folders"
    print_lines(f"{name} in {root}: {len(here)} of {len(rows)} {what} are here")
    columns = list(rows[0].expected)
    table = new_table(("", *columns, ""), "l" + "r" * len(columns) + "l", no_wrap=("", *columns))
    for row in rows:
        cells = [_cell(row, column) for column in columns]
        table.add_row(row.category, *cells, row.status, style={"ok": "", "missing": "dim"}.get(row.status, "red"))
    if rows == here:
        table.add_section()
        table.add_row("sum", *(str(sum(row.found[column] for row in rows)) for column in columns), "")
    Console(markup=False).print(table, highlight=False)
    for row in rows:
        more = [f"... and {len(row.problems) - 3} more in {row.category}"] if len(row.problems) > 3 else []
        print_lines(*row.problems[:3], *more)


def _cell(row: Row, column: str) -> str:
    found, expected = row.found[column], row.expected[column]
    return f"{found} of {expected}" if row.status == "differs" and found != expected else str(found or "-")


def _layout(base: Path) -> Iterator[Inspected]:
    """Yield the images in the layout train / test / ground_truth."""
    unused, train, test = UnusedFiles(base, []), base / "train" / "good", base / "test"
    kinds = {kind: test / kind for kind in subfolders(test)} if test.is_dir() else {}
    try:
        images = split_images_and_masks(train, unused)[0] if train.is_dir() else []
        pairs = pair_with_masks(base, kinds, unused)
    except UserError as error:
        yield "", base, error
        return
    yield from (("train", image, None) for image in images)
    for image, kind, mask in pairs:
        if kind == "good":
            yield "good", image, None
        else:
            yield "defective", image, mask or UserError(str(image), "has no mask, there is no ground_truth")


def _labels(name: str, folder: Path, split: one_class.Split, problems: list[str]) -> list[int]:
    """Return the labels of a split, or [] where its files cannot be used: `problems` then gets the reason."""
    try:
        return one_class.read_split(name, folder, split)[1].tolist()
    except UserError as error:
        problems.append(str(error))
        return []


def _tiles(base: Path) -> Iterator[Inspected]:
    """Yield the images in the layout of MTD: Imgs/<name>.jpg and Imgs/<name>.png."""
    for image, _, mask in tiles_in(base / "Imgs", "", UnusedFiles(base, [])):
        yield "images", image, mask


def _problem(image: Path, mask: Path | UserError | None, decode: bool) -> str:
    """Return what is wrong with an image and its mask, or an empty string.  Without `decode` only headers are read."""
    if isinstance(mask, UserError):
        return str(mask)
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
