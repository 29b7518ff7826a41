"""BeanTech Anomaly Detection (Mishra et al., ISIE 2021; CC BY-SA 4.0): three industrial products.

Images and masks are .bmp or .png, in each product otherwise.  A few masks of defective images are empty in the
original; `ImageSet` says so.
"""

from __future__ import annotations

from typing import Literal

from anomaly_bench.datasets.known import CategoryFolders
from anomaly_bench.datasets.layout import Layout

Category = Literal["01", "02", "03"]


class BTAD(CategoryFolders):
    """`root`/<category>/{train/ok, test/ok, test/ko, ground_truth/ko/<id>.png}; the kind of the defects is `ko`."""

    name = "btad"
    layout = Layout(train="train/ok", kinds={"good": "ok", "ko": "ko"})

    def __init__(self, category: Category, root: str | None) -> None:
        super().__init__(category, root)
