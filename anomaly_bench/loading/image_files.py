"""Where a data set is looked for, what was found there in one line, how a share of it is drawn.

Imports no torch, so that `bench data` starts at once.
"""

from __future__ import annotations

import hashlib
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
from anomaly_bench.records import Record

Item = TypeVar("Item")


def places(root: str | None, name: str) -> list[Path]:
    """The folders in which the data set `name` is looked for, the first one first."""
    if root is not None:
        given = typed(root)
        return [given, given / name]
    shared = os.environ.get("ANOMALY_BENCH_DATA")
    return ([typed(shared) / name] if shared else []) + [Path("data") / name]


def data_root(root: str | None, name: str, inside: str = ".") -> Path:
    """The folder of the data set `name`: `root` or `root`/name, else $ANOMALY_BENCH_DATA/name, else ./data/name.

    inside: the folder (a category) that the place must hold.  Raises UserError that lists the places looked at.
    """
    looked = places(root, name)
    for place in looked:
        if is_folder(place / inside):
            return place
    there = [place for place in looked if is_folder(place)]
    what = f"no such folder: {' or '.join(map(str, looked))}"
    if there:
        holds = ", ".join(subfolders(there[-1])) or "no folder"
        what = f"no folder '{inside}' in {' or '.join(map(str, there))}; {there[-1]} holds {holds}"
    raise UserError("dataset.root", what, f"bench data prepare {name}, or dataset.root=DIR or $ANOMALY_BENCH_DATA")


def typed(path: str) -> Path:
    """A path as a user gave it, with ~ filled in where that user is known."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  the other one raises


def is_folder(path: Path) -> bool:
    """Path.is_dir raises for names that are too long."""
    return os.path.isdir(path)  # noqa: PTH112


def is_file(path: Path) -> bool:
    """Likewise."""
    return os.path.isfile(path)  # noqa: PTH113


def visible(folder: Path) -> list[Path]:
    """What a folder holds but for hidden files and folders, sorted.  Raises UserError where it cannot be read."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise UserError(str(folder), f"cannot be read: {error.strerror or error}") from error


def subfolders(folder: Path) -> list[str]:
    """The names of the visible folders in `folder`, sorted."""
    return [path.name for path in visible(folder) if path.is_dir()]


def shown(name: object) -> str:
    """A file's name for a message: what cannot be printed is escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(name))


def cut(items: Sequence[Item], count: int, seed: int) -> tuple[list[Item], list[Item]]:
    """The rest and `count` items drawn by the seed, both in their old order."""
    drawn = set(np.random.default_rng(seed).permutation(len(items))[:count].tolist())
    rest = [item for i, item in enumerate(items) if i not in drawn]
    return rest, [item for i, item in enumerate(items) if i in drawn]


def fingerprint(records: list[Record]) -> str:
    """SHA-256 of a file list: path, kind and size in bytes of each image (the content of arrays), in any order.

    It depends on neither the root nor on modification times, so that two machines can compare.
    """
    rows = [(record.path, record.kind, _weight(record.image)) for record in records]
    return hashlib.sha256(json.dumps(sorted(rows)).encode()).hexdigest()


def _weight(image: Path | np.ndarray) -> str:
    if isinstance(image, np.ndarray):
        return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()
    return str(image.stat().st_size)


def found_line(train: Sequence[Record], test: Sequence[Record]) -> str:
    """`120 training, 80 good and 50 defective test images (50 with masks), 500-520 x 1240 px`, width x height.

    Sizes are those in the files' headers; a file without a readable one is left to the decoder, which will name it.
    """
    defective = [record for record in test if record.label]
    masks = sum(record.mask is not None for record in defective)
    counts = f"{len(train)} training, {len(test) - len(defective)} good and {len(defective)} defective test images"
    line = f"{counts} ({masks or 'none'} with masks)"
    with warnings.catch_warnings(), ThreadPoolExecutor(4) as pool:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # no pixel is read
        sizes = list(filter(None, pool.map(_size, [record.image for record in (*train, *test)])))
    spans = [str(min(n)) if min(n) == max(n) else f"{min(n)}-{max(n)}" for n in zip(*sizes, strict=True)]
    return f"{line}, {' x '.join(spans)} px" if spans else line


def _size(image: Path | np.ndarray) -> tuple[int, int] | None:
    """Width and height; None where a file's header cannot be read."""
    if isinstance(image, np.ndarray):
        return image.shape[1], image.shape[0]
    try:
        with Image.open(image) as opened:
            return opened.size
    except Exception:  # Pillow raises nearly anything on a damaged file
        return None
