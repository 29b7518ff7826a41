"""Find the mask of each map, in folders of MVTec's evaluation layout and of its common variants."""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from anomaly_bench.datasets.layout import MASK_FOLDERS, MASK_SUFFIXES, MaskFiles, masks_by_stem, two_masks
from anomaly_bench.datasets.unused_files import IMAGE_SUFFIXES, UnusedFiles, has_suffix, why_not_a_file
from anomaly_bench.errors import UserError, nearest
from anomaly_bench.loading.anomaly_maps import SUFFIXES
from anomaly_bench.loading.image_files import subfolders, visible_paths

DEPTH = 6  # folders below the given one that are looked at: more than any layout has, and links may run in a circle
MAPS = "[<category>/][test/]<kind>/<id>.tiff (or .tif, .npy, .png)"
MASKS = f"[<category>/][ground_truth/]<kind>/<id>_mask.png (or _gt, _label, <id>, <id>/*; {', '.join(MASK_SUFFIXES)})"
COMPLETE = "a set of maps is measured only when it is complete"
FilesByKind = dict[tuple[str, str], Path]  # the files of one category, or folders of masks, by kind and stem


class Pair(NamedTuple):
    """A map and its mask, not read yet."""

    kind: str
    map: Path
    mask: MaskFiles | None  # None for kind "good" only; of several files it is the union

    @property
    def mask_files(self) -> tuple[Path, ...]:
        """The files of the mask; none without one."""
        return (self.mask,) if isinstance(self.mask, Path) else self.mask or ()


def match(maps: Path, masks: Path) -> dict[str, list[Pair]]:
    """Return the pairs of each category, sorted by kind and name.

    maps: a folder with MAPS, or a data set with maps beside its test images.  masks: the data set's folder, a
    category's, or its ground_truth (or masks); where there is a folder of that name, files outside it are ignored.  One
    category needs no category level, on either side.  Warns of files that are not read.  Raises UserError naming the
    file or folder: a map without a mask unless its kind is "good", a mask or a test image without a map, two maps or
    two masks of one image, a file at another place, no category in common.
    """
    unused, unread = UnusedFiles(maps, []), UnusedFiles(masks, [])
    map_files = _files_by_category(maps, _map_files(maps, unused), ("test",), MAPS)
    images = {image for files in map_files.values() for image in files}
    parts = _masks_by_folder(masks, _mask_files(masks, unread), images)
    mask_files = _files_by_category(masks, parts, MASK_FOLDERS, MASKS)
    if "" in map_files:
        first, *others = mask_files
        map_files = {first if first and not others else _name(maps, ("test",)): map_files[""]}
    if "" in mask_files:
        first, *others = map_files
        mask_files = {_name(masks, MASK_FOLDERS) if others else first: mask_files[""]}
    for category in map_files:
        if category not in mask_files:
            what = f"holds no masks of '{category}', only of {', '.join(mask_files)}"
            hint = nearest(category, mask_files) or "--masks names a data set, a category of it, or its ground_truth"
            raise UserError(str(masks), what, hint)
    unread_line = str(unread)
    pairs = {name: _pairs(files, mask_files[name], parts, unread_line) for name, files in map_files.items()}
    unused.warn()
    unread.warn()
    return pairs


def _map_files(root: Path, unused: UnusedFiles) -> list[Path]:
    """Return the maps below a folder.  Test images of a data set may lie beside their maps."""
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
                unused.add("test image beside its map", image)
        found += maps
        _note_unknown(folder, (file for file in files if file not in maps and file not in images), unused)
    return found


def _without_maps(folder: Path, root: Path) -> bool:
    """Return whether a folder holds masks or training images of a data set that the maps lie in."""
    levels = folder.relative_to(root).parts
    in_train = levels[-2:-1] == ("train",) and (folder.parents[1] / "test").is_dir()
    return in_train or not {*MASK_FOLDERS}.isdisjoint(levels)


def _of_test_images(folder: Path) -> bool:
    """Return whether a folder is test/<kind> of a data set: then PNG files beside other maps are images."""
    place = Path(os.path.abspath(folder))  # noqa: PTH100  links stay as they are
    return place.parent.name == "test" and any((place.parents[1] / name).is_dir() for name in ("train", *MASK_FOLDERS))


def _mask_files(root: Path, unused: UnusedFiles) -> list[Path]:
    files = list(_files(root))
    files = [file for file in files if not {*MASK_FOLDERS}.isdisjoint(file.relative_to(root).parts[:-1])] or files
    for folder, group in groupby(files, lambda file: file.parent):
        _note_unknown(folder, (file for file in group if not has_suffix(file, MASK_SUFFIXES)), unused)
    return [file for file in files if has_suffix(file, MASK_SUFFIXES)]


def _masks_by_folder(root: Path, files: Iterable[Path], images: Container[tuple[str, str]]) -> dict[Path, MaskFiles]:
    """Return each mask by its path: a file, or a folder <kind>/<id> with all its files.

    images: kind and stem of each map; such folders are told by them, or by the level above the kind.
    """
    found: dict[Path, MaskFiles] = {}
    for folder, group in groupby(files, lambda file: file.parent):
        levels = folder.relative_to(root).parts
        of_one = levels[-2:] in images or not {*levels[-3:-2]}.isdisjoint(MASK_FOLDERS)
        several = tuple(group)
        found |= {folder: several} if of_one else {file: file for file in several}
    return found


def _note_unknown(folder: Path, files: Iterable[Path], unused: UnusedFiles) -> None:
    """Note files of another format in a folder of maps or masks, not in those above, where notes and tables lie."""
    if not subfolders(folder):
        for file in files:
            unused.add("unknown extension", file)


def _files(folder: Path, depth: int = DEPTH) -> Iterator[Path]:
    """Yield all visible files below a folder, sorted, those of a folder together; links are followed.

    Raises UserError for a folder, a pipe or a link to nowhere where a map or a mask is expected by the name.
    """
    if not folder.is_dir():
        raise UserError(str(folder), "no such folder")
    folders = []
    for path in visible_paths(folder):
        what = why_not_a_file(path)
        if what and has_suffix(path, (*SUFFIXES, *MASK_SUFFIXES)):
            raise UserError(str(path), f"is no file of numbers: {what}")
        if what == "folder":
            folders.append(path)
        elif not what:
            yield path
    for path in folders if depth else ():
        yield from _files(path, depth - 1)


def _files_by_category(root: Path, files: Iterable[Path], levels: Sequence[str], layout: str) -> dict[str, FilesByKind]:
    """Return files by category, "" without such a level.  levels: names of a folder that may lie above the kinds."""
    categories: dict[str, FilesByKind] = {}
    for file in files:
        *folders, _ = file.relative_to(root).parts
        if len(folders) > 1 and folders[-2] in levels:
            del folders[-2]
        if not 1 <= len(folders) <= 2:
            raise UserError(str(file), f"lies at no known place; below {root}: {layout}")
        *category, kind = folders
        of_category, stem = categories.setdefault("".join(category), {}), _stem(file)
        if other := of_category.get((kind, stem)):
            raise UserError(str(file), f"and {other.name} are of the same image; one of them is read")
        of_category[kind, stem] = file
    if not categories:
        raise UserError(str(root), f"holds nothing of the form {layout}")
    if "" in categories and len(categories) > 1:
        without = next(iter(categories.pop("").values()))
        within = next(iter(next(iter(categories.values())).values()))
        raise UserError(str(without), f"lies in no category, and {within} does", f"below {root}: {layout}")
    return dict(sorted(categories.items()))


def _stem(path: Path) -> str:
    """Return the stem of a file, or the name of a folder of masks, which may have a dot in it."""
    return path.stem if has_suffix(path, (*SUFFIXES, *MASK_SUFFIXES)) else path.name


def _name(root: Path, levels: Sequence[str]) -> str:
    """Return the name of a folder, or of its parent where the folder is one of the levels."""
    root = root.resolve()
    return root.parent.name if root.name in levels else root.name


def _pairs(maps: FilesByKind, masks: FilesByKind, parts: Mapping[Path, MaskFiles], unread: str) -> list[Pair]:
    """Return the pairs of a category, sorted.

    parts: the files of each mask.  unread: a line about files among the masks that are not read.
    """
    pairs, unused = [], []
    for kind in sorted({kind for kind, _ in (*maps, *masks)}):
        files = {stem: file for (k, stem), file in sorted(maps.items()) if k == kind}
        of_kind = [file for (k, _), file in masks.items() if k == kind]
        by_stem, left = masks_by_stem((file for file in of_kind if isinstance(parts[file], Path)), files)
        for folder in (path for path in of_kind if isinstance(parts[path], tuple)):
            by_stem.setdefault(folder.name, []).append(folder)
            left += [] if folder.name in files else [folder]
        unused += left
        for stem, file in files.items():
            found = by_stem.get(stem, [])
            if len(found) > 1:
                raise two_masks(*found[:2])
            if not found and kind != "good":
                what = f"has no mask; looked for {stem}_mask, _gt or _label, or {stem} among the masks of '{kind}'"
                raise UserError(str(file), what, nearest(f"{stem}_mask", (m.stem for m in left)) or unread)
            pairs.append(Pair(kind, file, parts[found[0]] if found else None))
    if unused:
        count = f", nor have {len(unused) - 1} other masks" if len(unused) > 1 else ""
        raise UserError(str(unused[0]), f"has no map{count}", COMPLETE)
    return pairs
