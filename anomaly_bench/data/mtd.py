"""Magnetic Tile Defects (Huang, Qiu and Yuan, The Visual Computer 2020): 952 free tiles and five kinds of defect.

The data set comes without a split.  Four masks of MT_Uneven are empty in the original; `ImageSet` says so.  Masks have
grey edges; any value but 0 counts: cut at 127, cracks would lose a third of their pixels, two of them all but 1 and 3.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from anomaly_bench.data.files import Found, cut, data_root, images_in
from anomaly_bench.data.folder import records_of
from anomaly_bench.errors import UserError, nearest
from anomaly_bench.records import Dataset, Record

KINDS = ("blowhole", "break", "crack", "fray", "uneven")


class MTD(Dataset):
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
        test, train = self._split(_tiles(root, "free"))
        found: list[Found] = [(image, "good", None) for image in (train if split == "train" else test)]
        if split == "test":
            found += [(image, kind, _mask(image)) for kind in KINDS for image in _tiles(root, kind)]
        return records_of(found, root)

    def _split(self, free: list[Path]) -> tuple[list[Path], list[Path]]:
        """The free tiles of (test, train)."""
        if self.split_file is None:
            test, train = cut(free, int(self.train_share * len(free)), self.split_seed)
        else:
            names = _names(Path(self.split_file).expanduser())
            known = {image.name for image in free}
            if unknown := [name for name in names if name not in known]:
                what = f"{len(unknown)} of {len(names)} names are no image of MT_Free; the first is '{unknown[0]}'"
                raise UserError(self.split_file, what, nearest(unknown[0], known))
            chosen = set(names)
            train = [image for image in free if image.name in chosen]
            test = [image for image in free if image.name not in chosen]
        if not train:
            raise UserError(
                self.split_file or "dataset.train_share", f"none of the {len(free)} free tiles is left to train on"
            )
        return test, train


def _names(file: Path) -> list[str]:
    """The distinct lines of a file, in their order."""
    try:
        return list(dict.fromkeys(line.strip() for line in file.read_text().splitlines() if line.strip()))
    except (OSError, UnicodeDecodeError) as error:
        way = "dataset.split_file=FILE, or null: a split that is drawn"
        raise UserError("dataset.split_file", f"{file} cannot be read: {error}", way) from error


def _tiles(root: Path, kind: str) -> list[Path]:
    images = images_in(root / f"MT_{kind.capitalize()}" / "Imgs")
    return [image for image in images if image.suffix.lower() == ".jpg"]  # the .png files are the masks


def _mask(image: Path) -> Path:
    mask = image.with_suffix(".png")
    if not mask.is_file():
        raise UserError(str(image), f"has no mask; looked for {mask}")
    return mask
