"""MVTec AD 2 (Heckler-Kram et al., 2025; CC BY-NC-SA 4.0): eight objects under changing light.

Runs are tested on test_public, whose labels and masks are public.  Those of test_private and test_private_mixed are
not: their images are scored for a submission to MVTec's benchmark server (`unlabelled_files`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from anomaly_bench.datasets.known import CategoryFolders, image_files
from anomaly_bench.datasets.layout import Layout
from anomaly_bench.errors import UserError

Category = Literal["can", "fabric", "fruit_jelly", "rice", "sheet_metal", "vial", "wallplugs", "walnuts"]
PrivateSplit = Literal["test_private", "test_private_mixed"]


class MVTecAD2(CategoryFolders):
    """`root`/<category>/{train, validation}/good, test_public/{good, bad, ground_truth/bad/<id>_mask.png}, and without
    labels test_private (light as in the training) and test_private_mixed (other light too)."""

    name = "mvtec_ad2"
    layout = Layout(
        own_validation=True,
        test="test_public",
        kinds={"bad": "bad", "good": "good"},
        masks="test_public",
        others=("test_private", "test_private_mixed"),
    )

    def __init__(self, category: Category, root: str | None) -> None:
        super().__init__(category, root)

    def unlabelled_files(self, split: PrivateSplit) -> list[Path]:
        """Return the images of a split without labels, sorted by name.

        A submission has a map for each of them, of the same stem.  Raises UserError naming the folder without images.
        """
        folder = self.folder() / self.category / split
        if images := image_files(folder):
            return images
        raise UserError(str(folder), "holds no image" if folder.is_dir() else "no such folder")
