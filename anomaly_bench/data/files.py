"""Folders of images: where a data set is looked for, what counts as an image, the train / test / ground_truth layout.

Imports no torch, so that `bench data` starts at once.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from anomaly_bench.errors import UserError
from anomaly_bench.records import Record

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")  # compared in lower case
Found = tuple[Path, str, Path | None]  # image, kind, mask
Item = TypeVar("Item")


def places(root: str | None, name: str) -> list[Path]:
    """The folders in which the data set `name` is looked for, the first one first."""
    if root is not None:
        given = Path(root).expanduser()
        return [given, given / name]
    shared = os.environ.get("ANOMALY_BENCH_DATA")
    return ([Path(shared).expanduser() / name] if shared else []) + [Path("data") / name]


def data_root(root: str | None, name: str, inside: str = ".") -> Path:
    """The folder of the data set `name`: `root` or `root`/name, else $ANOMALY_BENCH_DATA/name, else ./data/name.

    inside: the folder (a category) that the place must hold.  Raises UserError that lists the places looked at.
    """
    looked = places(root, name)
    for place in looked:
        if (place / inside).is_dir():
            return place
    there = [place for place in looked if place.is_dir()]
    what = f"no such folder: {' or '.join(map(str, looked))}"
    if there:
        holds = ", ".join(subfolders(there[-1])) or "no folder"
        what = f"no folder '{inside}' in {' or '.join(map(str, there))}; {there[-1]} holds {holds}"
    raise UserError("dataset.root", what, f"bench data prepare {name}, or dataset.root=DIR or $ANOMALY_BENCH_DATA")


def subfolders(folder: Path) -> list[str]:
    """The names of the visible folders in `folder`, sorted."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def list_images(folder: Path) -> list[Path]:
    """The visible image files in `folder`, sorted by name; anything else is passed over.  [] without such a folder."""
    files = folder.iterdir() if folder.is_dir() else ()
    images = (path for path in files if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."))
    return sorted(path for path in images if path.is_file())


def images_in(folder: Path) -> list[Path]:
    """`list_images`, at least one.  Raises UserError when there is no such folder or no image in it."""
    images = list_images(folder)
    if not images:
        what = f"holds no image ({', '.join(IMAGE_SUFFIXES)})" if folder.is_dir() else "no such folder"
        raise UserError(str(folder), what)
    return images


def mask_of(base: Path, kind: str, image: Path) -> Path | None:
    """The mask of a defective image: ground_truth/<kind>/<stem>_mask.png or <stem>.png below `base`.

    None without a ground_truth folder; as soon as there is one, a missing mask raises UserError.
    """
    if kind == "good" or not (base / "ground_truth").is_dir():
        return None
    tried = [base / "ground_truth" / kind / f"{image.stem}{end}.png" for end in ("_mask", "")]
    for mask in tried:
        if mask.is_file():
            return mask
    raise UserError(str(image), f"has no mask; looked for {' and '.join(map(str, tried))}")


def layout(base: Path, split: Literal["train", "test"]) -> list[Found]:
    """The images of `base`/train/good or of every `base`/test/<kind>, sorted by kind and name.

    Raises UserError naming the folder that is missing or empty, or the image that lacks its mask.
    """
    if split == "train":
        return [(image, "good", None) for image in images_in(base / "train" / "good")]
    test = base / "test"
    kinds = subfolders(test) if test.is_dir() else []
    if not kinds:
        raise UserError(str(test), "no test images: folders test/good and test/<defect> are needed")
    return [(image, kind, mask_of(base, kind, image)) for kind in kinds for image in images_in(test / kind)]


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
