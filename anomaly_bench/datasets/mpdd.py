"""Metal Parts Defect Detection (Jezek et al., ICUMT 2021; CC BY-NC-SA 4.0): six painted or bare metal parts."""

from __future__ import annotations

from typing import Literal

from anomaly_bench.datasets.known import CategoryFolders

Category = Literal["bracket_black", "bracket_brown", "bracket_white", "connector", "metal_plate", "tubes"]


class MPDD(CategoryFolders):
    """`root`/<category>/{train/good, test/<kind>, ground_truth/<kind>/<id>_mask.png}, the layout of MVTec AD."""

    name = "mpdd"

    def __init__(self, category: Category, root: str | None) -> None:
        super().__init__(category, root)
