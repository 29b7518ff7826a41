"""A user's own folder of images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from anomaly_bench.data.files import Found, cut, images_in, layout, mask_of
from anomaly_bench.errors import UserError
from anomaly_bench.records import Dataset, Record


def records_of(found: list[Found], root: Path) -> list[Record]:
    """What `files.layout` found, with paths relative to `root`."""
    return [Record(image.relative_to(root).as_posix(), kind, image, mask) for image, kind, mask in found]


class Folder(Dataset):
    """`root`/train/good, test/<kind> and, where given, ground_truth/<kind> (`files.layout`); without a folder `train`,
    two flat folders of good and bad images, where a seeded share of the good ones is kept for the test."""

    def __init__(
        self,
        root: str | None,
        good_dir: str,
        bad_dir: str,
        test_share: Annotated[float, Field(gt=0, lt=1)],
        split_seed: Annotated[int, Field(ge=0)],
    ) -> None:
        self.root, self.good_dir, self.bad_dir = root, good_dir, bad_dir
        self.test_share, self.split_seed = test_share, split_seed

    def records(self, split: Literal["train", "test"]) -> list[Record]:
        root = self._existing_root()
        return records_of(layout(root, split) if (root / "train").is_dir() else self._flat(root, split), root)

    def _existing_root(self) -> Path:
        if self.root is None:
            raise UserError("dataset.root", "is not given", "dataset.root=DIR names your folder of images")
        root = Path(self.root).expanduser()
        if not root.is_dir():
            raise UserError("dataset.root", f"no such folder: {root}")
        return root

    def _flat(self, root: Path, split: Literal["train", "test"]) -> list[Found]:
        for folder in (self.good_dir, self.bad_dir):
            if not (root / folder).is_dir():
                what = f"{root} has neither train/good and test/<kind> nor {self.good_dir} and {self.bad_dir}"
                raise UserError("dataset.root", what, "dataset.good_dir= and dataset.bad_dir= name other folders")
        good = images_in(root / self.good_dir)
        train, test = cut(good, max(1, round(self.test_share * len(good))), self.split_seed)
        if not train:
            what = f"a share of {self.test_share} leaves none of the {len(good)} good images to train on"
            raise UserError("dataset.test_share", what)
        if split == "train":
            return [(image, "good", None) for image in train]
        kind = Path(self.bad_dir).name
        bad = [(image, kind, mask_of(root, kind, image)) for image in images_in(root / self.bad_dir)]
        return [*((image, "good", None) for image in test), *bad]
