"""A user's own folder of images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from anomaly_bench.datasets.layout import (
    MASK_FOLDERS,
    MVTEC,
    Found,
    Layout,
    find_images,
    pair_with_masks,
    require_masks,
)
from anomaly_bench.datasets.unused_files import UnusedFiles
from anomaly_bench.errors import UserError, none_of
from anomaly_bench.loading.image_files import expand_user, hold_out, is_folder, subfolders
from anomaly_bench.records import Dataset, Record

DEFAULTS: dict[str, Any] = {
    "good_dir": "good",
    "bad_dir": "bad",
    "test_share": 0.2,
    "split_seed": 0,
}  # as in conf/dataset/folder.yaml
ALL = "all"  # in the place of a category: each of them, which the command line spells out
OwnCategory = Annotated[str | None, BeforeValidator(lambda given: str(given) if type(given) is int else given)]


def to_records(found: list[Found], root: Path) -> list[Record]:
    """Return what `find_images` found as records, with paths relative to `root`."""
    return [Record(image.relative_to(root).as_posix(), kind, image, mask) for image, kind, mask in found]


def validation_images(root: Path, inside: str = ".", layout: Layout = MVTEC) -> list[Record]:
    """Return the images of `root`/`inside`/validation/good, if there is such a folder, as there is in some layouts."""
    base = root / inside
    there = layout.own_validation or (base / layout.validation).is_dir()
    return to_records(find_images(base, "validation", layout), root) if there else []


def require_category(category: str, categories: list[str], where: str) -> None:
    """Raise UserError unless a category is one of those `where` holds; `all` never is."""
    if category == ALL:
        hint = f"bench train --multirun dataset.category={ALL}"
        raise UserError("dataset.category", f"'{ALL}' stands for several runs", hint)
    if category not in categories:
        error = none_of("dataset.category", category, categories)
        raise UserError(error.where, f"{error.what}, which {where} holds", error.hint)


class Folder(Dataset):
    """A folder with `root`/train/good, test/<kind> and perhaps ground_truth/<kind>, or with two flat folders.

    With a category, `root`/<category> is that folder.
    Normal images in validation/good calibrate a threshold.
    Without a folder `train`, the flat folders hold good and bad images, and a seeded share of the good ones is held out
    for the test.
    """

    def __init__(
        self,
        root: str | None,
        good_dir: str,
        bad_dir: str,
        test_share: Annotated[float, Field(gt=0, lt=1)],
        split_seed: Annotated[int, Field(ge=0)],
        category: OwnCategory,
    ) -> None:
        self.root, self.good_dir, self.bad_dir, self.category = root, good_dir, bad_dir, category
        self.test_share, self.split_seed = test_share, split_seed

    def categories(self) -> list[str]:
        """Return the folders in `root` that hold a layout, sorted.  Warns of those that hold none.

        Raises UserError where none does, and where `root` itself holds one.
        """
        found, unused = self._categories()
        unused.warn()
        return found

    def _categories(self) -> tuple[list[str], UnusedFiles]:
        root = self.existing_root()
        there = subfolders(root)
        found = [name for name in there if self.holds_layout(root / name)]
        layouts = f"train/good and test/<kind>, or {self.good_dir} and {self.bad_dir}"
        if self.holds_layout(root):
            what = f"{root} is one category itself, with {layouts}"
            raise UserError("dataset.root", what, "leave out dataset.category")
        if not found:
            raise UserError(
                "dataset.root",
                f"no folder in {root} is a category, with {layouts}",
                f"it holds {', '.join(there) or 'no folder'}",
            )
        unused = UnusedFiles(root, [])
        for name in there:
            if name not in found:
                unused.add(f"folder without {layouts}", root / name)
        return found, unused

    def records(self, split: Literal["train", "test"]) -> list[Record]:
        root = self._place()
        if not (root / "train").is_dir():
            return to_records(self._flat(root, split), root)
        for key, default in DEFAULTS.items():
            if (value := getattr(self, key)) != default:
                what = f"'{value}' given, but {root} has a folder train, whose layout would be read"
                raise UserError(f"dataset.{key}", what, "rename one of them, or leave out the key")
        return to_records(find_images(root, split), root)

    def validation_records(self) -> list[Record]:
        root = self._place()
        return validation_images(root) if (root / "train").is_dir() else []

    def holds_layout(self, folder: Path) -> bool:
        """Return whether there are the folders of one of the two layouts."""
        return is_folder(folder / "train") or all(is_folder(folder / name) for name in (self.good_dir, self.bad_dir))

    def _place(self) -> Path:
        """Return the folder of the images: `root`, or that of the category."""
        root = self.existing_root()
        if self.category is None:
            return root
        if self.category == ALL or not is_folder(root / self.category):
            require_category(self.category, self._categories()[0], str(root))
        return root / self.category

    def existing_root(self) -> Path:
        """Return `root`.  Raises UserError where it is not given, or no folder."""
        if self.root is None:
            raise UserError("dataset.root", "is not given", "dataset.root=DIR names your folder of images")
        root = expand_user(self.root)
        if not is_folder(root):
            raise UserError("dataset.root", f"no such folder: {root}")
        return root

    def _flat(self, root: Path, split: Literal["train", "test"]) -> list[Found]:
        good_dir, bad_dir = self._flat_folders(root)
        unused = UnusedFiles(root, [good_dir, bad_dir, *(root / name for name in MASK_FOLDERS)])
        unused.add_others(root)
        pairs = require_masks(pair_with_masks(root, {"good": good_dir, bad_dir.name: bad_dir}, unused))
        unused.warn()
        good, defective = ([pair for pair in pairs if (pair[1] == "good") is normal] for normal in (True, False))
        train, test = hold_out(good, max(1, round(self.test_share * len(good))), self.split_seed)
        if not train:
            what = f"a share of {self.test_share} leaves none of the {len(good)} good images to train on"
            raise UserError("dataset.test_share", what)
        return train if split == "train" else [*test, *defective]

    def _flat_folders(self, root: Path) -> tuple[Path, Path]:
        """Return the two folders, which must differ and lie in `root`."""
        folders = root / self.good_dir, root / self.bad_dir
        for key, given, folder in zip(("good_dir", "bad_dir"), (self.good_dir, self.bad_dir), folders, strict=True):
            if ".." in Path(given).parts or not folder.is_relative_to(root):
                raise UserError(f"dataset.{key}", f"'{given}' does not lie in {root}", "dataset.root=DIR holds both")
            if not is_folder(folder):
                what = f"{root} has neither train/good and test/<kind> nor {self.good_dir} and {self.bad_dir}"
                raise UserError("dataset.root", what, "dataset.good_dir= and dataset.bad_dir= name other folders")
        if folders[0].samefile(folders[1]):
            raise UserError("dataset.bad_dir", f"'{self.bad_dir}' is the same folder as good_dir, '{self.good_dir}'")
        if folders[1] == root or folders[1].name.lower() == "good":
            what = f"'{self.bad_dir}' given; its last name is the kind of defect, and 'good' means normal"
            raise UserError("dataset.bad_dir", what)
        return folders


def own_categories(root: str | None) -> Iterator[tuple[str, Folder]]:
    """Yield name and images of each category in a folder of the user's own, or of the folder itself, which is then one.

    Warns and raises UserError as `Folder.categories`.
    """
    whole = Folder(root, **DEFAULTS, category=None)
    base = whole.existing_root()
    names = [None] if whole.holds_layout(base) else whole.categories()
    yield from ((name or base.resolve().name, Folder(root, **DEFAULTS, category=name)) for name in names)
