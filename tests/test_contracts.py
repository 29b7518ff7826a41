"""What a method gets without writing it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch.utils.data import SequentialSampler

from anomaly_bench.contracts import Method, Record
from anomaly_bench.loading.loaders import NormalLoaders


class Plain(Method):
    """Sets what the default stage reads, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.image_size, self.batch_size, self.epochs = 8, 2, 3


def test_the_default_is_one_stage_that_trains_the_method_itself(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (8, 8, 3), dtype=np.uint8) for _ in range(5)]
    train = [Record(f"train/{i}", "good", image) for i, image in enumerate(images)]
    method = Plain()
    (stage,) = method.stages(NormalLoaders(train, [], 8, tmp_path, workers=0, seed=0))
    assert stage.module is method
    assert stage.trainer == {"max_epochs": 3}
    assert not isinstance(stage.loader.sampler, SequentialSampler)
    batches = list(stage.loader)
    assert sorted(path for batch in batches for path in batch["path"]) == sorted(r.path for r in train)
    assert [len(batch["image"]) for batch in batches] == [2, 2, 1]  # the last partial batch is kept
    assert all(set(batch) == {"image", "path"} for batch in batches)  # labels and masks never get here


def test_records_know_their_label() -> None:
    blank = np.zeros((4, 4), np.uint8)
    assert Record("a", "good", blank).label == 0
    assert Record("a", "scratch", blank).label == 1
