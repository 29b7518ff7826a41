"""The demo data set: generated within seconds and without a network, for a first run and for tests; no benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from anomaly_bench.datasets.known import CategoryFolders
from anomaly_bench.paths import cache_root

Category = Literal["brick", "grass", "gravel", "brick_matched", "grass_matched", "gravel_matched"]


def demo_root(root: str | None) -> Path:
    """Return the folder below which the images of every seed are: `root`, or one in the cache folder."""
    return cache_root() / "demo" if root is None else Path(root).expanduser()


class Demo(CategoryFolders):
    """Crops of a photograph, in the test also with defects: drawn ones (`drawn`), or such as no grey value shows
    (`matched`)."""

    name = "demo"

    def __init__(self, category: Category, root: str | None, demo_seed: Annotated[int, Field(ge=0)]) -> None:
        super().__init__(category, root)
        self.demo_seed = demo_seed

    def folder(self) -> Path:
        """Return the folder of the data set, where the images of the category are drawn unless they are there."""
        from anomaly_bench.datasets.textures import generate  # scikit-image only where it is needed

        return generate(demo_root(self.root), self.category, self.demo_seed)
