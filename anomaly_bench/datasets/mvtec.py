"""MVTec AD (Bergmann et al., CVPR 2019; CC BY-NC-SA 4.0): 15 categories of objects and textures."""

from __future__ import annotations

from typing import Literal

from anomaly_bench.datasets.folder import to_records, validation_images
from anomaly_bench.datasets.layout import find_images
from anomaly_bench.loading.image_files import data_root
from anomaly_bench.records import Dataset, Record

Category = Literal[
    "bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather", "metal_nut", "pill", "screw", "tile",
    "toothbrush", "transistor", "wood", "zipper",
]  # fmt: skip


class MVTec(Dataset):
    """`root`/<category>/{train/good, test/<kind>, ground_truth/<kind>/<id>_mask.png}."""

    def __init__(self, category: Category, root: str | None) -> None:
        self.category, self.root = category, root

    def records(self, split: Literal["train", "test"]) -> list[Record]:
        root = data_root(self.root, "mvtec", self.category)
        return to_records(find_images(root / self.category, split), root)

    def validation_records(self) -> list[Record]:
        return validation_images(data_root(self.root, "mvtec", self.category), self.category)
