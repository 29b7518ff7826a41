"""The demo data set: generated within seconds and without a network, for a first run and for tests; no benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from anomaly_bench.datasets.folder import records_of
from anomaly_bench.datasets.layout import layout
from anomaly_bench.paths import cache_root
from anomaly_bench.records import Dataset, Record


class Demo(Dataset):
    """Crops of a photograph, in the test also with a drawn scratch, stain, hole or foreign patch (`textures`)."""

    def __init__(
        self, category: Literal["brick", "grass", "gravel"], root: str | None, demo_seed: Annotated[int, Field(ge=0)]
    ) -> None:
        self.category, self.root, self.demo_seed = category, root, demo_seed

    def records(self, split: Literal["train", "test"]) -> list[Record]:
        from anomaly_bench.datasets.textures import generate  # scikit-image only where it is needed

        root = Path(self.root).expanduser() if self.root is not None else cache_root() / "demo"
        base = generate(root, self.category, self.demo_seed)
        return records_of(layout(base / self.category, split), base)
