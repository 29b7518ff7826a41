"""Which map belongs to which mask: folders in MVTec's evaluation layout, and what people make of it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from anomaly_bench.datasets.layout import (
    IMAGE_SUFFIXES,
    MASK_FOLDERS,
    MASK_SUFFIXES,
    Omitted,
    has_suffix,
    masks_by_stem,
    unusual,
)
from anomaly_bench.errors import UserError, nearest
from anomaly_bench.loading.anomaly_maps import SUFFIXES
from anomaly_bench.loading.image_files import subfolders, visible

DEPTH = 6  # folders below the given one that are looked at: more than any layout has, and links may run in a circle
MAPS = "[<category>/][test/]<kind>/<id>.tiff (or .tif, .npy, .png)"
MASKS = f"[<category>/][ground_truth/]<kind>/<id>_mask.png (or _gt, _label, <id>; {', '.join(MASK_SUFFIXES)})"
COMPLETE = "a set of maps is measured only when it is complete"
Shelf = dict[tuple[str, str], Path]  # the files of one category by kind and stem


class Pair(NamedTuple):
    """A map and its mask, not read yet."""

    kind: str
    map: Path
    mask: Path | None  # None for kind "good" only


def match(maps: Path, masks: Path) -> dict[str, list[Pair]]:
    """The pairs of each category, sorted by kind and name.

    maps: a folder with MAPS, or a data set with maps beside its test images.  masks: the data set's folder, a
    category's, or its ground_truth (or masks); other files do not disturb as soon as a level is called so.  One
    category needs no category level, on either side.  Warns of files that are not read.  Raises UserError naming the
    file or folder: a map without a mask unless its kind is "good", a mask or a test image without a map, two maps or
    two masks of one image, a file at another place, no category in common.
    """
    omitted, unread = Omitted(maps, []), Omitted(masks, [])
    by = _shelves(maps, _map_files(maps, omitted), ("test",), MAPS)
    truth = _shelves(masks, _mask_files(masks, unread), MASK_FOLDERS, MASKS)
    if "" in by:
        first, *others = truth
        by = {first if first and not others else _name(maps, ("test",)): by[""]}
    if "" in truth:
        first, *others = by
        truth = {_name(masks, MASK_FOLDERS) if others else first: truth[""]}
    for category in by:
        if category not in truth:
            what = f"holds no masks of '{category}', only of {', '.join(truth)}"
            hint = nearest(category, truth) or "--masks names a data set, a category of it, or its ground_truth"
            raise UserError(str(masks), what, hint)
    pairs = {category: _pairs(shelf, truth[category], str(unread)) for category, shelf in by.items()}
    omitted.warn()
    unread.warn()
    return pairs


def _map_files(root: Path, omitted: Omitted) -> list[Path]:
    """The maps below a folder.  Test images of a data set may lie beside theirs."""
    found = []
    for folder, group in groupby(_files(root), lambda file: file.parent):
        files = list(group)
        if _without_maps(folder, root):
            continue
        maps, images = [file for file in files if has_suffix(file, SUFFIXES)], list[Path]()
        if _of_test_images(folder) and (others := [file for file in maps if file.suffix.lower() != ".png"]):
            images = [file for file in files if has_suffix(file, IMAGE_SUFFIXES) and file not in others]
            maps, stems = others, {file.stem for file in others}
            for image in images:
                if image.stem not in stems:
                    raise UserError(str(image), "has no map beside it, and other images there do", COMPLETE)
                omitted.add("test image beside its map", image)
        found += maps
        _note_unknown(folder, (file for file in files if file not in maps and file not in images), omitted)
    return found


def _without_maps(folder: Path, root: Path) -> bool:
    """Whether it holds masks or training images of a data set that the maps lie in."""
    parts = folder.relative_to(root).parts
    trains = parts[-2:-1] == ("train",) and (folder.parents[1] / "test").is_dir()
    return trains or not {*MASK_FOLDERS}.isdisjoint(parts)


def _of_test_images(folder: Path) -> bool:
    """Whether it is test/<kind> of a data set: then PNG files beside other maps are images."""
    place = Path(os.path.abspath(folder))  # noqa: PTH100  links stay as they are
    return place.parent.name == "test" and any((place.parents[1] / name).is_dir() for name in ("train", *MASK_FOLDERS))


def _mask_files(root: Path, omitted: Omitted) -> list[Path]:
    files = list(_files(root))
    files = [file for file in files if not {*MASK_FOLDERS}.isdisjoint(file.relative_to(root).parts[:-1])] or files
    for folder, group in groupby(files, lambda file: file.parent):
        _note_unknown(folder, (file for file in group if not has_suffix(file, MASK_SUFFIXES)), omitted)
    return [file for file in files if has_suffix(file, MASK_SUFFIXES)]


def _note_unknown(folder: Path, files: Iterable[Path], omitted: Omitted) -> None:
    """Note files of another format in a folder of maps or masks, not in those above, where notes and tables lie."""
    if not subfolders(folder):
        for file in files:
            omitted.add("unknown extension", file)


def _files(folder: Path, depth: int = DEPTH) -> Iterator[Path]:
    """All visible files below a folder, sorted, those of a folder together; links are followed.

    Raises UserError for a folder, a pipe or a link to nowhere where a map or a mask is expected by the name.
    """
    if not folder.is_dir():
        raise UserError(str(folder), "no such folder")
    folders = []
    for path in visible(folder):
        what = unusual(path)
        if what and has_suffix(path, (*SUFFIXES, *MASK_SUFFIXES)):
            raise UserError(str(path), f"is no file of numbers: {what}")
        if what == "folder":
            folders.append(path)
        elif not what:
            yield path
    for path in folders if depth else ():
        yield from _files(path, depth - 1)


def _shelves(root: Path, files: Iterable[Path], levels: Sequence[str], layout: str) -> dict[str, Shelf]:
    """Files by category, "" where there is no such level.  levels: names of the folder that may lie above the kinds."""
    shelves: dict[str, Shelf] = {}
    for file in files:
        *folders, _ = file.relative_to(root).parts
        if len(folders) > 1 and folders[-2] in levels:
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


def _name(root: Path, levels: Sequence[str]) -> str:
    """A folder's own name, or that of the one above where it is the level itself."""
    root = root.resolve()
    return root.parent.name if root.name in levels else root.name


def _pairs(maps: Shelf, masks: Shelf, unread: str) -> list[Pair]:
    """unread: what is said of files among the masks that are not read."""
    pairs, unused = [], []
    for kind in sorted({kind for kind, _ in (*maps, *masks)}):
        files = {stem: file for (k, stem), file in sorted(maps.items()) if k == kind}
        by_stem, left = masks_by_stem((file for (k, _), file in masks.items() if k == kind), files)
        unused += left
        for stem, file in files.items():
            first, *more = [*by_stem.get(stem, []), None]
            if first and more != [None]:
                raise UserError(str(more[0]), f"and {first} are masks of the same image", "remove one of them")
            if first is None and kind != "good":
                what = f"has no mask; looked for {stem}_mask, _gt or _label, or {stem} among the masks of '{kind}'"
                raise UserError(str(file), what, nearest(f"{stem}_mask", (m.stem for m in left)) or unread)
            pairs.append(Pair(kind, file, first))
    if unused:
        count = f", nor have {len(unused) - 1} other masks" if len(unused) > 1 else ""
        raise UserError(str(unused[0]), f"has no map{count}", COMPLETE)
    return pairs
