"""Magnetic Tile Defects (Huang, Qiu and Yuan, The Visual Computer 2020): 952 free tiles and five kinds of defect.

The data set comes without a split.  Four masks of MT_Uneven are empty in the original; `ImageSet` says so.  Masks have
grey edges; any value but 0 counts: cut at 127, cracks would lose a third of their pixels, two of them all but 1 and 3.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from anomaly_bench.datasets.folder import to_records
from anomaly_bench.datasets.known import Inspected, KnownDataset
from anomaly_bench.datasets.layout import Found, Paired, masks_by_stem, require_masks, two_masks
from anomaly_bench.datasets.unused_files import UnusedFiles, has_suffix, list_files
from anomaly_bench.errors import UserError, nearest
from anomaly_bench.loading.image_files import data_root, expand_user, hold_out, is_file
from anomaly_bench.records import Record

KINDS = ("blowhole", "break", "crack", "fray", "uneven")


class MTD(KnownDataset):
    """`root`/MT_<Kind>/Imgs/<name>.jpg with the mask <name>.png beside it.

    split_file: a text file with the name of one training image a line; the other free tiles are test images.
    Without it `train_share` of the free tiles, rounded down, is drawn by `split_seed`.
    """

    def __init__(
        self,
        root: str | None,
        split_file: str | None,
        train_share: Annotated[float, Field(gt=0, lt=1)],
        split_seed: Annotated[int, Field(ge=0)],
    ) -> None:
        self.root, self.split_file = root, split_file
        self.train_share, self.split_seed = train_share, split_seed

    def records(self, split: Literal["train", "test"]) -> list[Record]:
        root = data_root(self.root, "mtd", "MT_Free")
        folders = {kind: root / f"MT_{kind.capitalize()}" / "Imgs" for kind in ("free", *KINDS)}
        unused = UnusedFiles(root, folders.values())
        test, train = self._split([image for image, *_ in _some_tiles(folders["free"], "good", unused)])
        found: list[Found] = [(image, "good", None) for image in (train if split == "train" else test)]
        if split == "test":
            for place in (root, *(folder.parent for folder in folders.values())):
                unused.add_others(place)
            for kind in KINDS:
                found += require_masks(_some_tiles(folders[kind], kind, unused))
            unused.warn()
        return to_records(found, root)

    @classmethod
    def inspect(cls, base: Path, decode: bool) -> Iterator[Inspected]:
        for image, _, mask in tiles(base / "Imgs", "", UnusedFiles(base, [])):
            yield ("images",), image, mask

    def _split(self, free: list[Path]) -> tuple[list[Path], list[Path]]:
        """Return the free tiles of (test, train)."""
        if self.split_file is None:
            test, train = hold_out(free, int(self.train_share * len(free)), self.split_seed)
        else:
            names = _names(expand_user(self.split_file))
            known = {image.name for image in free}
            if unknown := [name for name in names if name not in known]:
                what = f"{len(unknown)} of {len(names)} names are no image of MT_Free; the first is '{unknown[0]}'"
                raise UserError(self.split_file, what, nearest(unknown[0], known))
            train, test = ([image for image in free if (image.name in names) is listed] for listed in (True, False))
        if not train:
            where = self.split_file or "dataset.train_share"
            raise UserError(where, f"none of the {len(free)} free tiles is left to train on")
        return test, train


def _names(file: Path) -> list[str]:
    """Return the distinct lines of a file, in their order.  Warns of lines that are there twice."""
    way = "dataset.split_file=FILE, or null: a split that is drawn"
    try:
        if not is_file(file):  # a pipe would be waited for
            raise FileNotFoundError("no such file")
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("dataset.split_file", f"{file} cannot be read: {error}", way) from error
    names = list(dict.fromkeys(lines))
    if again := [name for name, count in Counter(lines).items() if count > 1]:
        warnings.warn(f"{file}: repeated lines: {len(lines) - len(names)} (first: {again[0]})", stacklevel=2)
    return names


def tiles(folder: Path, kind: str, unused: UnusedFiles) -> list[Paired]:
    """Return the .jpg files of a folder, each with the .png file of the same name, or a UserError where it lacks."""
    files = list_files(folder, lambda path: has_suffix(path, (".jpg", ".png")), unused)
    images, masks = ([path for path in files if has_suffix(path, (end,))] for end in (".jpg", ".png"))
    by_stem, left = masks_by_stem(masks, {image.stem for image in images})
    for mask in left:
        unused.add("mask without an image", mask)
    return [(image, kind, _mask(image, by_stem.get(image.stem, []))) for image in images]


def _some_tiles(folder: Path, kind: str, unused: UnusedFiles) -> list[Paired]:
    """Return `tiles`, at least one."""
    if found := tiles(folder, kind, unused):
        return found
    raise UserError(str(folder), "holds no tile (.jpg)" if folder.is_dir() else "no such folder")


def _mask(image: Path, masks: list[Path]) -> Path | UserError:
    if len(masks) > 1:
        return two_masks(*masks[:2])
    return masks[0] if masks else UserError(str(image), f"has no mask {image.stem}.png")
