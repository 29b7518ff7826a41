"""A list of a user's own images in a CSV file."""

from __future__ import annotations

import csv
import warnings
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from anomaly_bench.datasets.folder import OwnCategory, require_category
from anomaly_bench.datasets.layout import MASK_SUFFIXES, Split
from anomaly_bench.datasets.unused_files import has_suffix
from anomaly_bench.errors import UserError, nearest, none_of
from anomaly_bench.loading.image_files import expand_user, is_file, is_folder
from anomaly_bench.records import Dataset, Record

NEEDED, OPTIONAL = ("path", "split", "kind"), ("mask", "category")  # columns
SPLITS = ("train", "test", "validation")


class Row(NamedTuple):
    """A line of the list, but for its first one."""

    where: str  # file and line
    path: str  # below the root, as the masks are
    split: str
    kind: str  # "good" where the image is normal
    masks: tuple[str, ...]
    category: str  # empty where the list has no such column


class CsvList(Dataset):
    """The images that a CSV file lists: columns path, split, kind, perhaps mask and category, in any order.

    With a category, only its lines.  Normal images of the split `validation` calibrate a threshold.
    """

    def __init__(self, file: str | None, root: str | None, category: OwnCategory) -> None:
        self.file, self.root, self.category = file, root, category

    def records(self, split: Literal["train", "test"]) -> list[Record]:
        if not (found := self._records(split)):
            of_category = f" of category '{self.category}'" if self.category else ""
            raise UserError(str(self._file), f"lists no image of split '{split}'{of_category}")
        return found

    def validation_records(self) -> list[Record]:
        return self._records("validation")

    def categories(self) -> list[str]:
        """Return the categories, sorted.  Raises UserError without that column, or without a value in it."""
        if lacking := [row for row in self._rows if not row.category]:
            where = lacking[0].where if len(lacking) < len(self._rows) else str(self._file)
            raise UserError(where, "has no category", "a column 'category' says for each image which one it is of")
        return sorted({row.category for row in self._rows})

    @cached_property
    def _rows(self) -> list[Row]:
        return read_rows(self._file)

    @property
    def _file(self) -> Path:
        if not self.file:
            raise UserError("dataset.file", "is not given", "dataset.file=LIST.csv names the list of your images")
        file = expand_user(self.file)
        if not is_file(file):
            raise UserError("dataset.file", f"no such file: {file}")
        return file

    def _records(self, split: Split) -> list[Record]:
        """Return the images of a split, sorted by kind and path, so that the order of the lines changes nothing."""
        root = expand_user(self.root) if self.root else self._file.parent
        if not is_folder(root):
            raise UserError("dataset.root", f"no such folder: {root}")
        if self.category is not None:
            require_category(self.category, self.categories(), str(self._file))
        rows = [row for row in self._rows if row.split == split and self.category in (None, row.category)]
        _require_masks(rows)
        found = []
        for row in sorted(rows, key=lambda row: (row.kind, row.path)):
            image, *masks = (_existing(root, row.where, path) for path in (row.path, *row.masks))
            mask = tuple(masks) if len(masks) > 1 else masks[0] if masks else None
            found.append(Record(row.path, row.kind, image, mask))
        return found


def read_rows(file: Path) -> list[Row]:
    """Return the lines of a list, at least one.  Raises UserError naming file and line for what is wrong in it."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as content:
            reader = csv.reader(content, strict=True)
            lines = [(f"{file}:{reader.line_num}", [cell.strip() for cell in line]) for line in reader]
    except csv.Error as error:
        raise UserError(f"{file}:{reader.line_num}", f"cannot be read as CSV: {error}") from error
    except (OSError, ValueError) as error:
        raise UserError(str(file), f"cannot be read: {error}", "the list is a text file in UTF-8") from error
    lines = [(where, cells) for where, cells in lines if any(cells)]
    if not lines:
        raise UserError(str(file), f"is empty; its first line names the columns {', '.join(NEEDED)}")
    columns = _columns(*lines[0])
    rows = [_row(where, columns, cells) for where, cells in lines[1:]]
    if not rows:
        raise UserError(str(file), "lists no image below its first line")
    first: dict[str, str] = {}
    for row in rows:
        if (other := first.setdefault(row.path, row.where)) != row.where:
            raise UserError(row.where, f"{row.path} is in {other} too", "each image has one line")
    return rows


def _columns(where: str, names: list[str]) -> list[str]:
    """Return the names of the columns; warns of those that are not read.  Raises UserError for one that is missing."""
    if lacking := [name for name in NEEDED if name not in names]:
        other = next((sign for sign in (";", "\t", "|") if sign in names[0]), "")
        hint = f"it is separated by {other!r}, not by commas" if other else nearest(lacking[0], names)
        known = f"a list has {', '.join(NEEDED)}, perhaps {', '.join(OPTIONAL)}"
        raise UserError(where, f"the columns are '{','.join(names)}', without {' and '.join(lacking)}; {known}", hint)
    if twice := [name for name in (*NEEDED, *OPTIONAL) if names.count(name) > 1]:
        raise UserError(where, f"has the column '{twice[0]}' twice")
    if unread := [name for name in names if name not in (*NEEDED, *OPTIONAL)]:
        hint = nearest(unread[0], [name for name in OPTIONAL if name not in names])
        text = f"{where}: not used: the columns {', '.join(map(repr, unread))}"
        warnings.warn(f"{text} ({hint})" if hint else text, stacklevel=2)
    return names


def _row(where: str, columns: list[str], cells: list[str]) -> Row:
    """Return a line of the list.  Raises UserError for a mistake in it."""
    if len(cells) != len(columns):
        raise UserError(where, f"has {len(cells)} values, and the first line has {len(columns)} columns")
    of = dict(zip(columns, cells, strict=True))
    paths = [
        _inside(where, path) for path in (of["path"], *filter(None, map(str.strip, of.get("mask", "").split(";"))))
    ]
    row = Row(where, paths[0], of["split"], of["kind"], tuple(sorted(set(paths[1:]))), of.get("category", ""))
    if row.split not in SPLITS:
        raise none_of(f"{where}: split", row.split, SPLITS)
    if row.kind in ("", ".", "..") or "/" in row.kind or row.kind.lower() == "good" != row.kind:
        raise UserError(where, f"the kind is '{row.kind}'; 'good', or the name of a kind of defect, without /")
    if row.kind != "good" and row.split != "test":
        raise UserError(
            where, f"{row.path} is of kind '{row.kind}', and images of split '{row.split}' are normal, 'good'"
        )
    if row.kind == "good" and row.masks:
        raise UserError(where, f"{row.path} is of kind 'good', and has a mask, {row.masks[0]}")
    for mask in row.masks:
        if not has_suffix(Path(mask), MASK_SUFFIXES):
            hint = "the values of a mask must be stored without loss"
            raise UserError(where, f"the mask {mask} is not read; allowed: {', '.join(MASK_SUFFIXES)}", hint)
    return row


def _inside(where: str, path: str) -> str:
    """Return a path of the list without `./` and `//`.  Raises UserError unless it stays below the root."""
    pure = PurePosixPath(path)
    if not path or pure.is_absolute() or ".." in pure.parts:
        raise UserError(
            where, f"'{path}' is no path below the folder of the list", "dataset.root=DIR is another folder"
        )
    return pure.as_posix()


def _existing(root: Path, where: str, path: str) -> Path:
    if is_file(root / path):
        return root / path
    hint = "paths have forward slashes" if "\\" in path else f"paths are relative to {root}"
    raise UserError(where, f"names {path}, which is not there", hint)


def _require_masks(rows: list[Row]) -> None:
    """Raise UserError for a defective image without a mask, where another one has some."""
    masked = next((row for row in rows if row.masks), None)
    lacking = next((row for row in rows if row.kind != "good" and not row.masks), None)
    if masked and lacking:
        hint = "as soon as there is one, every defective image needs one"
        raise UserError(lacking.where, f"{lacking.path} has no mask, and {masked.path} has one", hint)
