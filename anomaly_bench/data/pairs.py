"""Which map belongs to which mask: folders in MVTec's evaluation layout, and what people make of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from anomaly_bench.data.maps import SUFFIXES
from anomaly_bench.errors import UserError, nearest

DEPTH = 6  # folders below the given one that are looked at: more than any layout has, and links may run in a circle
MAPS = "[<category>/][test/]<kind>/<id>.tiff (or .tif, .npy, .png)"
MASKS = "[<category>/][ground_truth/]<kind>/<id>_mask.png (or <id>.png)"
Shelf = dict[tuple[str, str], Path]  # the files of one category by kind and stem


class Pair(NamedTuple):
    """A map and its mask, not read yet."""

    kind: str
    map: Path
    mask: Path | None  # None for kind "good" only


def match(maps: Path, masks: Path) -> dict[str, list[Pair]]:
    """The pairs of each category, sorted by kind and name.

    maps: a folder with MAPS; a PNG file beside TIFF or NPY files is taken for an image and passed over.  masks: the
    data set's folder, a category's, or its ground_truth; other files do not disturb as soon as a level is called
    ground_truth.  One category needs no category level, on either side.  Raises UserError naming the file or folder: a
    map without a mask unless its kind is "good", a mask without a map, two maps of one image, a file at another place,
    no category in common.
    """
    by, truth = (
        _shelves(maps, _map_files(maps), "test", MAPS),
        _shelves(masks, _mask_files(masks), "ground_truth", MASKS),
    )
    if "" in by:
        first, *others = truth
        by = {first if first and not others else _name(maps, "test"): by[""]}
    if "" in truth:
        first, *others = by
        truth = {_name(masks, "ground_truth") if others else first: truth[""]}
    for category in by:
        if category not in truth:
            what = f"holds no masks of '{category}', only of {', '.join(truth)}"
            hint = nearest(category, truth) or "--masks names a data set, a category of it, or its ground_truth"
            raise UserError(str(masks), what, hint)
    return {category: _pairs(shelf, truth[category]) for category, shelf in by.items()}


def _map_files(root: Path) -> list[Path]:
    files = [file for file in _files(root) if file.suffix.lower() in SUFFIXES and not _of_data_set(file, root)]
    folders = {file.parent for file in files if file.suffix.lower() != ".png"}
    return [file for file in files if file.suffix.lower() != ".png" or file.parent not in folders]


def _of_data_set(file: Path, root: Path) -> bool:
    """Whether it is a mask or a training image of a data set that the maps lie in."""
    folders = file.relative_to(root).parts[:-1]
    return "ground_truth" in folders or (folders[-2:-1] == ("train",) and (file.parents[2] / "test").is_dir())


def _mask_files(root: Path) -> list[Path]:
    files = [file for file in _files(root) if file.suffix.lower() == ".png"]
    return [file for file in files if "ground_truth" in file.relative_to(root).parts] or files


def _files(folder: Path, depth: int = DEPTH) -> Iterator[Path]:
    """All visible files below a folder, sorted; links are followed."""
    if not folder.is_dir():
        raise UserError(str(folder), "no such folder")
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if not path.is_dir():
            yield path
        elif depth:
            yield from _files(path, depth - 1)


def _shelves(root: Path, files: Iterable[Path], level: str, layout: str) -> dict[str, Shelf]:
    """Files by category, "" where there is no such level.  level: the folder that may lie above the kinds."""
    shelves: dict[str, Shelf] = {}
    for file in files:
        *folders, _ = file.relative_to(root).parts
        if folders[-2:-1] == [level]:
            del folders[-2]
        if not 1 <= len(folders) <= 2:
            raise UserError(str(file), f"lies at no known place; below {root}: {layout}")
        *category, kind = folders
        shelf = shelves.setdefault("".join(category), {})
        if other := shelf.get((kind, file.stem)):
            raise UserError(str(file), f"and {other.name} are of the same image; one of them is read")
        shelf[kind, file.stem] = file
    if not shelves:
        raise UserError(str(root), f"holds nothing of the form {layout}")
    if "" in shelves and len(shelves) > 1:
        inside, outside = (next(iter(shelf.values())) for shelf in (shelves.pop(""), next(iter(shelves.values()))))
        raise UserError(str(inside), f"lies in no category, and {outside} does", f"below {root}: {layout}")
    return dict(sorted(shelves.items()))


def _name(root: Path, level: str) -> str:
    """A folder's own name, or that of the one above where it is the level itself."""
    root = root.resolve()
    return root.parent.name if root.name == level else root.name


def _pairs(maps: Shelf, masks: Shelf) -> list[Pair]:
    left, pairs = dict(masks), []
    for (kind, name), file in sorted(maps.items()):
        mask = left.pop((kind, f"{name}_mask"), None) or left.pop((kind, name), None)
        if mask is None and kind != "good":
            what = f"has no mask; looked for {name}_mask.png and {name}.png among the masks of '{kind}'"
            raise UserError(str(file), what, nearest(f"{name}_mask", (stem for k, stem in left if k == kind)))
        pairs.append(Pair(kind, file, mask))
    for file in left.values():
        count = f", nor have {len(left) - 1} other masks" if len(left) > 1 else ""
        raise UserError(str(file), f"has no map{count}", "a set of maps is measured only when it is complete")
    return pairs
