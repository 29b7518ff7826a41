"""Where a data set is looked for, a description of it in one line, and the share of it that is held out.

Imports no torch, so that `bench data` starts at once.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from anomaly_bench.errors import UserError
from anomaly_bench.files import sha256, unreadable
from anomaly_bench.paths import DATA_VARIABLE
from anomaly_bench.records import Record

ORIENTATION = 0x0112  # EXIF: 1 as it is, 2 to 4 mirrored or upside down, 5 to 8 with rows for columns
Item = TypeVar("Item")


def data_folders(root: str | None, name: str) -> list[Path]:
    """Return the folders in which the data set `name` is looked for, the first one first."""
    if root is not None:
        given = expand_user(root)
        return [given, given / name]
    shared = os.environ.get(DATA_VARIABLE)
    return ([expand_user(shared) / name] if shared else []) + [Path("data") / name]


def data_root(root: str | None, name: str, inside: str = ".") -> Path:
    """Return the folder of the data set `name`: `root` or `root`/name, else $ANOMALY_BENCH_DATA/name, else ./data/name.

    inside: the folder (a category) that the place must hold.  Raises UserError that lists the places looked at.
    """
    looked = data_folders(root, name)
    for place in looked:
        if is_folder(place / inside):
            return place
    there = [place for place in looked if is_folder(place)]
    what = f"no such folder: {' or '.join(map(str, looked))}"
    if there:
        holds = ", ".join(subfolders(there[-1])) or "no folder"
        what = f"no folder '{inside}' in {' or '.join(map(str, there))}; {there[-1]} holds {holds}"
    raise UserError("dataset.root", what, f"bench data prepare {name}, or dataset.root=DIR or $ANOMALY_BENCH_DATA")


def expand_user(path: str) -> Path:
    """Return a path as a user gave it, with ~ filled in where that user is known."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  Path.expanduser raises for an unknown user


def is_folder(path: Path) -> bool:
    """Return whether a folder is there; Path.is_dir raises for names that are too long."""
    return os.path.isdir(path)  # noqa: PTH112


def is_file(path: Path) -> bool:
    """Return whether a file is there; Path.is_file raises for names that are too long."""
    return os.path.isfile(path)  # noqa: PTH113


def visible_paths(folder: Path) -> list[Path]:
    """Return all in a folder but hidden files and folders, sorted.  Raises UserError where it cannot be read."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise unreadable(folder, error) from error


def subfolders(folder: Path) -> list[str]:
    """Return the names of the visible folders in `folder`, sorted."""
    return [path.name for path in visible_paths(folder) if path.is_dir()]


def printable(name: object) -> str:
    """Return a file's name for a message: characters that cannot be printed are escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(name))


def hold_out(items: Sequence[Item], count: int, seed: int) -> tuple[list[Item], list[Item]]:
    """Return (rest, held out): `count` items drawn by the seed are held out; both lists keep their order."""
    drawn = set(np.random.default_rng(seed).permutation(len(items))[:count].tolist())
    rest = [item for i, item in enumerate(items) if i not in drawn]
    return rest, [item for i, item in enumerate(items) if i in drawn]


def fingerprint(records: list[Record]) -> str:
    """Return the SHA-256 of path, kind and size in bytes of each image (the content of arrays), in any order.

    Runs of format 1 were identified by it.  It depends on neither the root nor on modification times.
    """
    rows = [(record.path, record.kind, _size_or_checksum(record.image)) for record in records]
    return sha256(json.dumps(sorted(rows)))


def _size_or_checksum(image: Path | np.ndarray) -> str:
    if isinstance(image, np.ndarray):
        return sha256(np.ascontiguousarray(image).tobytes())
    return str(image.stat().st_size)


def describe_images(train: Sequence[Record], test: Sequence[Record]) -> str:
    """Return `120 training, 80 good and 50 defective test images (50 with masks), 500-520 x 1240 px`, width x height.

    Sizes are those in the files' headers; a file without a readable one is left to the decoder, which will name it.
    """
    defective = [record for record in test if record.label]
    masks = sum(record.mask is not None for record in defective)
    counts = f"{len(train)} training, {len(test) - len(defective)} good and {len(defective)} defective test images"
    line = f"{counts} ({masks or 'none'} with masks)"
    with warnings.catch_warnings(), ThreadPoolExecutor(4) as pool:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # no pixel is read
        sizes = list(filter(None, pool.map(width_and_height, [record.image for record in (*train, *test)])))
    spans = [str(min(n)) if min(n) == max(n) else f"{min(n)}-{max(n)}" for n in zip(*sizes, strict=True)]
    return f"{line}, {' x '.join(spans)} px" if spans else line


def is_rotated(image: Image.Image) -> bool:
    """Return whether an image is to be turned, by the EXIF orientation that stands before its pixels."""
    if image.format == "PNG" and "exif" not in image.info:  # `getexif` would read all pixels to look behind them
        return False
    return image.getexif().get(ORIENTATION, 1) in range(2, 9)


def is_16_bit(image: Image.Image) -> bool:
    """Return whether an image has 16 bits of grey; Pillow reads 16 bits of a colour as 8."""
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")  # Pillow < 11.3 says "I"


def has_16_bits(image: Path | np.ndarray) -> bool:
    """Return whether an array, or a file by its header, has 16 bits; a file that cannot be read has not."""
    if isinstance(image, np.ndarray):
        return image.dtype == np.uint16
    try:
        with Image.open(image) as opened:
            return is_16_bit(opened)
    except Exception:  # Pillow raises nearly anything on a damaged file
        return False


def width_and_height(image: Path | np.ndarray) -> tuple[int, int] | None:
    """Return width and height as the image is read, or None where a file's header cannot be read."""
    if isinstance(image, np.ndarray):
        return image.shape[1], image.shape[0]
    try:
        with Image.open(image) as opened:
            if opened.format == "TIFF" and is_rotated(opened):
                opened.load()  # turns it, from some version of Pillow on before that
            width, height = opened.size
            turned = is_rotated(opened) and opened.getexif()[ORIENTATION] > 4
            return (height, width) if turned else (width, height)
    except Exception:  # Pillow raises nearly anything on a damaged file
        return None
