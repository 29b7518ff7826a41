"""MVTec AD (Bergmann et al., CVPR 2019; CC BY-NC-SA 4.0): 15 categories of objects and textures."""

from __future__ import annotations

from typing import Literal

from anomaly_bench.datasets.known import CategoryFolders

Category = Literal[
    "bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather", "metal_nut", "pill", "screw", "tile",
    "toothbrush", "transistor", "wood", "zipper",
]  # fmt: skip


class MVTec(CategoryFolders):
    """`root`/<category>/{train/good, test/<kind>, ground_truth/<kind>/<id>_mask.png}."""

    name = "mvtec"

    def __init__(self, category: Category, root: str | None) -> None:
        super().__init__(category, root)
