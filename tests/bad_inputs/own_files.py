"""A method and a data set of a user's own, as text: the cases change a line of it."""

METHOD = """
from collections.abc import Iterator
import torch
from torch import Tensor
from anomaly_bench.contracts import Method, NormalData, Scores, Stage

def helper() -> None: ...

class Mine(Method):
    def __init__(self, image_size: int, batch_size: int, epsilon: float) -> None:
        super().__init__()
        self.image_size, self.batch_size, self.epsilon = image_size, batch_size, epsilon
        self.register_buffer("mean", torch.zeros(3, image_size, image_size))

    def stages(self, data: NormalData) -> Iterator[Stage]:
        self.mean = torch.cat([batch["image"] for batch in data.loader("train", self.batch_size)]).mean(0)
        yield from ()

    def score(self, images: Tensor) -> Scores:
        maps = (images - self.mean).abs().amax(1) + self.epsilon
        return Scores(image=maps.flatten(1).amax(1), map=maps)
"""
METHOD_YAML = """_target_: mine.Mine
name: mine
image_size: 16  # [ours] pixels
batch_size: 4  # [ours] images
epsilon: 0.01  # [ours] added
"""
DATASET = """
from pathlib import Path
import numpy as np
from anomaly_bench.contracts import Dataset, Record

class Flat(Dataset):
    def __init__(self, root: str) -> None:
        self.root = Path(root)

    def records(self, split: str) -> list[Record]:
        found = sorted(self.root.glob(f"{split}/*/*.png"))
        records = [Record(str(f.relative_to(self.root)), f.parent.name, f) for f in found]
        return records
"""
DATASET_YAML = "_target_: flat.Flat\nname: flat\nroot: widgets\n"
