"""Folder layouts: which files are images, which are their masks, and which are not used.

Imports no torch, so that `bench data` starts at once.
"""

from __future__ import annotations

import re
import stat
import warnings
from collections.abc import Callable, Container, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Literal

from anomaly_bench.errors import UserError
from anomaly_bench.loading.image_files import printable, subfolders, visible_paths

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")  # compared in lower case
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif")  # JPEG and WebP turn zeros into other values
MASK_FOLDERS = ("ground_truth", "masks")
MASK_NAME = re.compile(r"(.+)_(?:mask|gt|label)", re.IGNORECASE | re.DOTALL)  # of a mask's stem; its image's is group 1
NO_PART = "folder that is no part of the layout"
NAMES = 3  # files that a message names for each reason
Found = tuple[Path, str, Path | None]  # image, kind, mask
Paired = tuple[Path, str, Path | UserError | None]  # image, kind, mask or what is wrong with it


class UnusedFiles:
    """The files and folders of a data set that are not used, by the reason why.

    used: folders that are read; neither they nor their parents are ever listed.
    """

    def __init__(self, root: Path, used: Iterable[Path]) -> None:
        self.root, self.paths = root, dict[str, list[Path]]()
        self._used = {path for folder in used for path in (folder, *folder.parents)}

    def add(self, reason: str, path: Path) -> None:
        """Note a path, unless it is used."""
        if path not in self._used:
            self.paths.setdefault(reason, []).append(path)

    def add_others(self, folder: Path, known: Container[str] = (), what: str = NO_PART) -> None:
        """Note in a folder of folders: those with images that are not known, images, and links that lead nowhere."""
        for path in visible_paths(folder) if folder.is_dir() else ():
            reason = why_not_a_file(path)
            if reason == "folder" and path.name not in known and _holds_images(path):
                self.add(what, path)
            elif reason == "dangling link":
                self.add(reason, path)
            elif not reason and has_suffix(path, IMAGE_SUFFIXES):
                self.add("image outside the folders of the layout", path)

    def __str__(self) -> str:
        """Return one line: how many files for each reason, and the first of them; empty where there are none."""
        lines = []
        for reason, paths in self.paths.items():
            names = [printable(path.relative_to(self.root)) for path in paths[:NAMES]]
            lines.append(f"{len(paths)} x {reason} ({', '.join(names)}{', ...' if len(paths) > NAMES else ''})")
        return f"{printable(self.root)}: not used: {'; '.join(lines)}" if lines else ""

    def warn(self) -> None:
        """Warn of them, if there are any."""
        if self.paths:
            warnings.warn(str(self), stacklevel=2)


def find_images(base: Path, split: Literal["train", "test", "validation"]) -> list[Found]:
    """Return the images of `base`/train/good, validation/good or every test/<kind>, sorted by kind and name.

    Warns of what is there and not used.  Raises UserError naming the folder that is missing or empty, or the image
    that lacks its mask.
    """
    test, masks = base / "test", [base / name for name in MASK_FOLDERS]
    if split != "test":
        good, validation = (base / name / "good" for name in (split, "validation"))
        unused = UnusedFiles(base, [good, test, *masks, *([validation] if validation.is_dir() else [])])
        if split == "train":
            unused.add_others(base)
        unused.add_others(good.parent)
        found = require_masks(pair_with_masks(good.parent, {"good": good}, unused))
    else:
        folders = {kind: test / kind for kind in (subfolders(test) if test.is_dir() else ())}
        if not folders:
            raise UserError(str(test), "no test images: folders test/good and test/<defect> are needed")
        unused = UnusedFiles(base, folders.values())
        unused.add_others(test)
        found = require_masks(pair_with_masks(base, folders, unused))
    unused.warn()
    return found


def pair_with_masks(base: Path, folders: dict[str, Path], unused: UnusedFiles) -> list[Paired]:
    """Return the images of every kind's folder, each with its mask.

    Masks are in ground_truth/<kind> or masks/<kind> below `base`, or beside their images.  As soon as there is a mask,
    or a folder for masks, an anomalous image without one has a UserError in its place; so has an image with two.
    Raises UserError for a folder that is missing or empty, a kind that differs from "good" by capitals only, and two
    anomalous images of one name.
    """
    places = [base / name for name in MASK_FOLDERS if (base / name).is_dir()]
    for place in places:
        unused.add_others(place, known=set(folders), what="folder of masks for a kind without images")
    content: dict[str, tuple[list[Path], dict[str, list[Path]]]] = {}
    for kind, folder in folders.items():
        if kind.lower() == "good" != kind:
            raise UserError(str(folder), f"'{kind}' would be a kind of defect", "normal images lie in 'good'")
        images, beside = split_images_and_masks(folder, unused)
        if kind != "good":
            _refuse_twins(images)
        masks = [*beside, *(mask for place in places for mask in list_files(place / kind, _may_be_mask, unused))]
        by_stem, left = masks_by_stem(masks, {image.stem for image in images})
        content[kind] = (images, by_stem)
        for mask in left:
            unused.add("mask without an image", mask)
    masked = bool(places) or any(by_stem for kind, (_, by_stem) in content.items() if kind != "good")
    pairs: list[Paired] = []
    for kind, (images, by_stem) in content.items():
        if kind == "good":
            for mask in (mask for masks in by_stem.values() for mask in masks):
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


def list_files(folder: Path, used: Callable[[Path], bool], unused: UnusedFiles) -> list[Path]:
    """Return the visible regular files of a folder that `used` accepts, sorted by name; [] without such a folder."""
    found = []
    for path in visible_paths(folder) if folder.is_dir() else ():
        reason = why_not_a_file(path) or ("" if used(path) else "unknown extension")
        if reason:
            unused.add(reason, path)
        else:
            found.append(path)
    return found


def why_not_a_file(path: Path) -> str:
    """Return what a path is, or an empty string for a regular file."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return "dangling link"
    return "" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "no regular file"


def has_suffix(path: Path, suffixes: Sequence[str]) -> bool:
    """Return whether a file has one of the suffixes, which are in lower case."""
    return path.suffix.lower() in suffixes


def _may_be_mask(path: Path) -> bool:
    return has_suffix(path, MASK_SUFFIXES)


def _named_mask(path: Path) -> bool:
    return _may_be_mask(path) and MASK_NAME.fullmatch(path.stem) is not None


def _holds_images(folder: Path) -> bool:
    """Return whether there are images in a folder or one level deeper."""
    paths = chain(folder.glob("[!.]*"), folder.glob("[!.]*/[!.]*"))
    return any(has_suffix(path, IMAGE_SUFFIXES) for path in paths)


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


def _mask(image: Path, masks: list[Path], looked: list[Path]) -> Path | UserError:
    """Return the mask of an image, or an error where there is none, or several."""
    if len(masks) > 1:
        return two_masks(*masks[:2])
    unread = [path for path in masks if not _may_be_mask(path)]
    if masks and not unread:
        return masks[0]
    files = [path for folder in looked if folder.is_dir() for path in visible_paths(folder) if path != image]
    unread += [path for path in files if _image_stem(path.stem) == image.stem]
    what = f"has no mask; looked for {image.stem}_mask, _gt or _label, or {image.stem}, as {', '.join(MASK_SUFFIXES)}"
    hint = f"{unread[0].name} is not read: the values of a mask must be stored without loss" if unread else ""
    return UserError(str(image), f"{what} in {' and '.join(map(str, looked))}", hint)
