"""Where new images come from: a file, a folder, a pattern, an array, or anything that gives these one by one."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from anomaly_bench.datasets.unused_files import IMAGE_SUFFIXES, has_suffix
from anomaly_bench.errors import UserError
from anomaly_bench.files import unreadable
from anomaly_bench.loading.image_files import expand_user, is_file, is_folder

Source = Any  # str | Path | np.ndarray | Iterable of these


class NewImage(NamedTuple):
    """An image that is not read yet."""

    path: str  # as it was given; `array 0` for an array
    image: Path | np.ndarray


def open_source(source: Source) -> tuple[Iterator[NewImage], bool]:
    """Return the images of a source in a fixed order, and whether they are all known, so that one may look ahead.

    source: a file; a folder, whose images are taken at any depth, sorted; a pattern such as `images/*.png`; an array,
    uint8 [H, W, 3] or [H, W]; a list of such; or an iterator of files and arrays, which is asked for one at a time.
    Raises UserError for a name that leads to no image, and for anything else.
    """
    if isinstance(source, (str, Path, np.ndarray)):
        return iter(list(_expand(source, count()))), True
    if isinstance(source, (list, tuple)):
        numbers = count()
        images = [image for each in source for image in _expand(each, numbers)]
        if not images:
            raise UserError("source", "an empty list given")
        return iter(images), True
    if isinstance(source, Iterable):
        return _one_by_one(source), False
    what = f"{type(source).__name__} given; a file, folder, pattern, array uint8 [H, W, 3], or several of them, is read"
    raise UserError("source", what)


def _expand(source: object, numbers: Iterator[int]) -> Iterator[NewImage]:
    """Yield the images that one file, folder, pattern or array stands for, at least one."""
    if isinstance(source, NewImage):
        yield source
    elif isinstance(source, np.ndarray):
        yield NewImage(f"array {next(numbers)}", source)
    elif isinstance(source, (str, Path)):
        if not str(source):
            raise UserError("source", "an empty name given", "'.' is the working directory")
        place = expand_user(str(source))
        if is_folder(place):
            found = images_below(place)
            if not found:
                raise UserError(str(source), f"holds no image ({', '.join(IMAGE_SUFFIXES)})")
        elif is_file(place):
            found = [place]
        else:
            found = sorted(Path(name) for name in glob.glob(str(place), recursive=True) if is_file(Path(name)))  # noqa: PTH207
            if not found:
                raise UserError(str(source), "no such file or folder, and no image fits it as a pattern")
        yield from (NewImage(str(path), path) for path in found)
    else:
        raise UserError("source", f"holds a {type(source).__name__}; files, folders, patterns and arrays are read")


def _one_by_one(source: Iterable[object]) -> Iterator[NewImage]:
    numbers = count()
    for each in source:
        if isinstance(each, np.ndarray):
            yield NewImage(f"array {next(numbers)}", each)
        elif isinstance(each, (str, Path)):
            yield NewImage(str(each), expand_user(str(each)))  # one that is missing is an error of its own
        else:
            raise UserError("source", f"gave a {type(each).__name__}; file names and arrays are read")


def images_below(folder: Path) -> list[Path]:
    """Return what has an image's suffix in a folder at any depth, but hidden files and folders, sorted by path.

    What is no file, such as a link that leads nowhere, is among them, so that it is named and not left out in silence.
    Raises UserError for a folder that cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise unreadable(Path(error.filename), error) from error

    found: list[Path] = []
    for place, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (Path(place) / name for name in files if not name.startswith("."))
        found += (path for path in paths if has_suffix(path, IMAGE_SUFFIXES))
    return sorted(found)


def why_no_file(path: Path) -> str:
    """Return what a path is that is no file, which nothing must wait for as for a pipe; empty for a file."""
    if is_file(path):
        return ""
    return "is a folder" if is_folder(path) else "is no file" if os.path.exists(path) else "no such file"  # noqa: PTH110
