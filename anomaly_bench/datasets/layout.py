"""Folder layouts: which files are images, which are their masks, and which are not used.

Imports no torch, so that `bench data` starts at once.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from anomaly_bench.datasets.unused_files import IMAGE_SUFFIXES, UnusedFiles, has_suffix, list_files
from anomaly_bench.errors import UserError
from anomaly_bench.loading.image_files import subfolders, visible_paths

MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif")  # JPEG and WebP turn zeros into other values
MASK_FOLDERS = ("ground_truth", "masks")
MASK_NAME = re.compile(r"(.+)_(?:mask|gt|label)", re.IGNORECASE | re.DOTALL)  # of a mask's stem; its image's is group 1
Split = Literal["train", "test", "validation"]
MaskFiles = Path | tuple[Path, ...]  # several files of one image lie in a folder of its name
Found = tuple[Path, str, MaskFiles | None]  # image, kind, mask
Paired = tuple[Path, str, MaskFiles | UserError | None]  # image, kind, mask or what is wrong with it


@dataclass(frozen=True)
class Layout:
    """Where the images of one category lie below its folder; as it is, that of MVTec AD."""

    train: str = "train/good"
    validation: str = "validation/good"
    own_validation: bool = False  # it must be there
    test: str = "test"  # holds a folder for each kind
    kinds: Mapping[str, str] | None = None  # kind -> its folder in `test`; None: each folder there is a kind
    masks: str = "."  # holds ground_truth/<kind> or masks/<kind>
    others: tuple[str, ...] = ()  # folders of the layout that no split reads


MVTEC = Layout()


def find_images(base: Path, split: Split, layout: Layout = MVTEC) -> list[Found]:
    """Return the images of a split below `base`, sorted by kind and name.

    Warns of what is there and not used.  Raises UserError naming the folder that is missing or empty, or the image
    that lacks its mask.
    """
    pairs, unused = find_pairs(base, split, layout)
    found = require_masks(pairs)
    unused.warn()
    return found


def find_pairs(base: Path, split: Split, layout: Layout) -> tuple[list[Paired], UnusedFiles]:
    """Return what `find_images` does, with an error in the place of a mask that is missing, and what is not used."""
    test, masks = base / layout.test, [base / layout.masks / name for name in MASK_FOLDERS]
    if split != "test":
        good, validation = base / getattr(layout, split), base / layout.validation
        known = [good, test, *masks, *(base / name for name in layout.others)]
        unused = UnusedFiles(base, [*known, *([validation] if validation.is_dir() else [])])
        if split == "train":
            unused.add_others(base)
        unused.add_others(good.parent)
        return pair_with_masks(good.parent, {"good": good}, unused), unused
    names = layout.kinds or {kind: kind for kind in (subfolders(test) if test.is_dir() else ())}
    if not names:
        raise UserError(str(test), "no test images: folders test/good and test/<defect> are needed")
    folders = {kind: test / name for kind, name in names.items()}
    unused = UnusedFiles(base, [*folders.values(), *masks])
    unused.add_others(test)
    return pair_with_masks(base / layout.masks, folders, unused), unused


def pair_with_masks(base: Path, folders: dict[str, Path], unused: UnusedFiles) -> list[Paired]:
    """Return the images of every kind's folder, each with its mask.

    Masks are in ground_truth/<kind> or masks/<kind> below `base`, or beside their images; several of one image in a
    folder there that has the image's name.  As soon as there is a mask, or a folder for masks, an anomalous image
    without one has a UserError in its place; so has an image with two, or with a folder that holds none.
    Raises UserError for a folder that is missing or empty, a kind that differs from "good" by capitals only, and two
    anomalous images of one name.
    """
    places = [base / name for name in MASK_FOLDERS if (base / name).is_dir()]
    for place in places:
        unused.add_others(place, known=set(folders), what="folder of masks for a kind without images")
    content: dict[str, tuple[list[Path], dict[str, list[MaskFiles]]]] = {}
    for kind, folder in folders.items():
        if kind.lower() == "good" != kind:
            raise UserError(str(folder), f"'{kind}' would be a kind of defect", "normal images lie in 'good'")
        images, beside = split_images_and_masks(folder, unused)
        if kind != "good":
            _refuse_twins(images)
        stems = {image.stem for image in images}
        of_one = [path for place in places for path in _folders_of_masks(place / kind, stems)]
        unused.use(of_one)
        masks = [*beside, *(mask for place in places for mask in list_files(place / kind, _may_be_mask, unused))]
        alone, left = masks_by_stem(masks, stems)
        by_stem: dict[str, list[MaskFiles]] = {stem: list(files) for stem, files in alone.items()}
        for folder in of_one:
            by_stem.setdefault(folder.name, []).append(tuple(list_files(folder, _may_be_mask, unused)))
        content[kind] = (images, by_stem)
        for mask in left:
            unused.add("mask without an image", mask)
    masked = bool(places) or any(by_stem for kind, (_, by_stem) in content.items() if kind != "good")
    pairs: list[Paired] = []
    for kind, (images, by_stem) in content.items():
        if kind == "good":
            for each in (each for masks in by_stem.values() for each in masks):
                for mask in (each,) if isinstance(each, Path) else each:
                    unused.add("mask of a normal image", mask)
        looked = [place / kind for place in places] or [folders[kind]]
        for image in images:
            found = by_stem.get(image.stem, [])
            pairs.append((image, kind, _mask(image, found, looked) if masked and kind != "good" else None))
    return pairs


def require_masks(pairs: Iterable[Paired]) -> list[Found]:
    """Return the pairs.  Raises the first UserError in the place of a mask."""
    found: list[Found] = []
    for image, kind, mask in pairs:
        if isinstance(mask, UserError):
            raise mask
        found.append((image, kind, mask))
    return found


def masks_by_stem(masks: Iterable[Path], stems: Container[str]) -> tuple[dict[str, list[Path]], list[Path]]:
    """Return masks by the stem of their image (<stem>_mask, _gt or _label, or <stem> itself), and those of no image."""
    by_stem: dict[str, list[Path]] = {}
    left = []
    for mask in masks:
        stem = next((s for s in (_image_stem(mask.stem), mask.stem) if s in stems), None)
        if stem is None:
            left.append(mask)
        else:
            by_stem.setdefault(stem, []).append(mask)
    return by_stem, left


def split_images_and_masks(folder: Path, unused: UnusedFiles) -> tuple[list[Path], list[Path]]:
    """Return the images of a folder, at least one, and the masks that lie beside them.

    Raises UserError for a folder that is missing or without an image, and for a file that is named as a mask of an
    image that is not there.
    """
    if not folder.is_dir():
        raise UserError(str(folder), "no such folder")
    files = list_files(folder, lambda path: has_suffix(path, IMAGE_SUFFIXES) or _named_mask(path), unused)
    images = [path for path in files if not MASK_NAME.fullmatch(path.stem)]
    stems = {path.stem for path in images}
    masks = [path for path in files if MASK_NAME.fullmatch(path.stem)]
    for mask in masks:
        if (stem := _image_stem(mask.stem)) not in stems:
            what = f"is a mask by its name, and no image '{stem}' lies beside it"
            raise UserError(str(mask), what, f"rename it if it is an image; masks may lie in {MASK_FOLDERS[0]}/<kind>")
    if not images:
        raise UserError(str(folder), f"holds no image ({', '.join(IMAGE_SUFFIXES)})")
    return images, masks


def _may_be_mask(path: Path) -> bool:
    return has_suffix(path, MASK_SUFFIXES)


def _named_mask(path: Path) -> bool:
    return _may_be_mask(path) and MASK_NAME.fullmatch(path.stem) is not None


def _image_stem(stem: str) -> str:
    """Return the stem of the image that a mask belongs to by its name; any other stem is returned as it is."""
    named = MASK_NAME.fullmatch(stem)
    return named[1] if named else stem


def _refuse_twins(images: Iterable[Path]) -> None:
    """Raise UserError for x.jpg and x.png in one folder: one may be the other's mask, and a mask would fit both."""
    first: dict[str, Path] = {}
    for image in images:
        if (other := first.setdefault(image.stem, image)) is not image:
            what = f"and {other.name} have one name, so that one may be the mask of the other"
            raise UserError(str(image), what, f"call a mask {image.stem}_mask{image.suffix}, or rename the image")


def two_masks(first: Path, second: Path) -> UserError:
    """Return the error for two masks of one image."""
    return UserError(str(second), f"and {first} are masks of the same image", "remove one of them")


def _folders_of_masks(folder: Path, stems: Container[str]) -> list[Path]:
    """Return the folders in `folder` that have the name of an image."""
    return [path for path in visible_paths(folder) if path.is_dir() and path.name in stems] if folder.is_dir() else []


def _mask(image: Path, masks: list[MaskFiles], looked: list[Path]) -> MaskFiles | UserError:
    """Return the mask of an image, or an error where there is none, or several."""
    if len(masks) > 1 and all(masks):
        return two_masks(*(each if isinstance(each, Path) else each[0] for each in masks[:2]))
    if not all(masks):
        empty = next(folder / image.stem for folder in looked if (folder / image.stem).is_dir())
        return UserError(str(empty), f"holds no mask of {image} ({', '.join(MASK_SUFFIXES)})")
    unread = [path for path in masks if isinstance(path, Path) and not _may_be_mask(path)]
    if masks and not unread:
        return masks[0]
    files = [path for folder in looked if folder.is_dir() for path in visible_paths(folder) if path != image]
    unread += [path for path in files if _image_stem(path.stem) == image.stem]
    what = f"has no mask; looked for {image.stem}_mask, _gt or _label, or {image.stem}, as {', '.join(MASK_SUFFIXES)}"
    hint = f"{unread[0].name} is not read: the values of a mask must be stored without loss" if unread else ""
    return UserError(str(image), f"{what} in {' and '.join(map(str, looked))}", hint)
