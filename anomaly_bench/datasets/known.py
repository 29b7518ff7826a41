"""What the published data sets share: how runs list their images, and how `bench data verify` counts them.

Imports no torch, so that `bench data` starts at once.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from anomaly_bench.datasets.folder import to_records, validation_images
from anomaly_bench.datasets.layout import MVTEC, Layout, MaskFiles, find_images, pair_with_masks, split_images_and_masks
from anomaly_bench.datasets.unused_files import IMAGE_SUFFIXES, UnusedFiles, has_suffix
from anomaly_bench.errors import UserError
from anomaly_bench.loading.image_files import data_root, subfolders, visible_paths
from anomaly_bench.records import Dataset, Record

# What an image may be counted as, the first of which conf/download/<name>.yaml has counts for; the image; its mask or
# what is wrong with it.
Inspected = tuple[tuple[str, ...], Path, MaskFiles | UserError | None]


class KnownDataset(Dataset):
    """A published data set, whose images are counted."""

    @classmethod
    @abstractmethod
    def inspect(cls, base: Path, decode: bool) -> Iterator[Inspected]:
        """Yield each image of a folder that has counts in conf/download/<name>.yaml; what is not there is left out.

        decode: also look into files that listing the images does not read.
        """


class CategoryFolders(KnownDataset):
    """`root`/<category>/{train/good, test/<kind>, ground_truth/<kind>/<id>_mask.png}, as MVTec AD has them.

    Normal images in validation/good calibrate a threshold.  A subclass says which folders have other names.
    """

    name: ClassVar[str]  # of the data set
    layout: ClassVar[Layout] = MVTEC

    def __init__(self, category: str, root: str | None) -> None:
        self.category, self.root = category, root

    def records(self, split: Literal["train", "test"]) -> list[Record]:
        root = self.folder()
        return to_records(find_images(root / self.category, split, self.layout), root)

    def validation_records(self) -> list[Record]:
        return validation_images(self.folder(), self.category, self.layout)

    def folder(self) -> Path:
        """Return the folder of the data set, which holds that of the category.  Raises UserError without one."""
        return data_root(self.root, self.name, self.category)

    @classmethod
    def inspect(cls, base: Path, decode: bool) -> Iterator[Inspected]:
        unused = UnusedFiles(base, [])
        try:
            for split, folder in (("train", cls.layout.train), ("validation", cls.layout.validation)):
                images = split_images_and_masks(base / folder, unused)[0] if image_files(base / folder) else []
                yield from (((split,), image, None) for image in images)
            test = base / cls.layout.test
            names = cls.layout.kinds or {kind: kind for kind in (subfolders(test) if test.is_dir() else ())}
            folders = {kind: test / name for kind, name in names.items() if image_files(test / name)}
            for image, kind, mask in pair_with_masks(base / cls.layout.masks, folders, unused):
                if kind == "good":
                    yield ("good",), image, None
                else:
                    lacking = UserError(str(image), "has no mask, there is no ground_truth")
                    yield (kind, "defective"), image, mask or lacking
        except UserError as error:
            yield (), base, error
        for name in cls.layout.others:
            yield from (((name,), image, None) for image in image_files(base / name))


def image_files(folder: Path) -> list[Path]:
    """Return the visible images of a folder, sorted by name; [] without such a folder."""
    return [path for path in visible_paths(folder) if has_suffix(path, IMAGE_SUFFIXES)] if folder.is_dir() else []
