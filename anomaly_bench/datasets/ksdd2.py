"""Kolektor Surface-Defect Dataset 2 (Božič et al., Computers in Industry 2021; CC BY-NC-SA 4.0): one product.

Its split is for supervised training: defective images are in both parts.  As in the unsupervised setting of the field,
the training images are those of `train` whose mask is empty, and the 246 others are not used (source:
conf/download/ksdd2.yaml).  The split_weakly_*.pyb of the archive, which are pickles, are not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from anomaly_bench.datasets.known import Inspected, KnownDataset
from anomaly_bench.datasets.unused_files import UnusedFiles, has_suffix, list_files
from anomaly_bench.errors import UserError
from anomaly_bench.loading.decode import read_values
from anomaly_bench.loading.image_files import data_root, is_file
from anomaly_bench.records import Record

NAME = re.compile(r"(\d+)(_GT)?\.png")  # the archive also has a copy, `10301 (copy).png` and `10301_GT (copy).png`
KIND = "defect"


class KSDD2(KnownDataset):
    """`root`/{train, test}/<id>.png with the mask <id>_GT.png beside it, which is empty where there is no defect."""

    def __init__(self, root: str | None) -> None:
        self.root = root

    def records(self, split: Literal["train", "test"]) -> list[Record]:
        root = data_root(self.root, "ksdd2", split)
        unused = UnusedFiles(root, [])
        records = []
        for image, mask in _images(root / split, unused):
            if isinstance(mask, UserError):
                raise mask
            kind = KIND if mask else "good"
            if mask and split == "train":
                unused.add("defective training image", image)
            else:
                records.append(Record(image.relative_to(root).as_posix(), kind, image, mask))
        unused.warn()
        if not records:
            raise UserError(str(root / split), "holds no image <number>.png with a mask <number>_GT.png")
        return records

    @classmethod
    def inspect(cls, base: Path, decode: bool) -> Iterator[Inspected]:
        for image, mask in _images(base, UnusedFiles(base, [])):
            yield ("defective" if isinstance(mask, Path) else "good",), image, mask


def _images(folder: Path, unused: UnusedFiles) -> list[tuple[Path, Path | UserError | None]]:
    """Return the images of a part by name, each with its mask: None where that is empty, or what is wrong with it."""
    files = list_files(folder, lambda path: has_suffix(path, (".png",)), unused)
    for path in files:
        if not NAME.fullmatch(path.name):
            unused.add("name that is no <number>.png and no <number>_GT.png", path)
    images = [path for path in files if NAME.fullmatch(path.name) and not path.stem.endswith("_GT")]
    with ThreadPoolExecutor(4) as pool:
        return list(zip(images, pool.map(_mask, images), strict=True))


def _mask(image: Path) -> Path | UserError | None:
    mask = image.with_name(f"{image.stem}_GT.png")
    if not is_file(mask):
        return UserError(str(image), f"has no mask {mask.name}")
    try:
        return mask if read_values(mask).any() else None
    except UserError as error:
        return error
