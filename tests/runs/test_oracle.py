"""The best of several states of a training: chosen by image AUROC on test images, of equal ones by pixel AUROC."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from small_runs import Train
from torch import Tensor

from anomaly_bench import config
from anomaly_bench.contracts import Method, Record, Scores
from anomaly_bench.loading.image_dataset import ImageSet
from anomaly_bench.metrics import image_metrics, pixel_metrics
from anomaly_bench.runs.oracle import measure_oracle
from anomaly_bench.runs.whole_images import View

FACTORS = {"dark": (-1.0, -1.0), "no map": (1.0, 0.0), "bright": (1.0, 1.0), "dark map": (1.0, -1.0)}


class Grey(Method):
    """Candidates that differ in the sign of the image's score and of the map."""

    image_size, batch_size = 16, 4

    def oracle_candidates(self, images: Tensor) -> Mapping[str, Callable[[], Scores]]:
        grey = images.mean(1)

        def scores(image: float, map_: float) -> Scores:
            return Scores(image * grey.mean((1, 2)), map_ * grey)

        return {name: partial(scores, *factors) for name, factors in FACTORS.items()}


class NoCandidates(Method):
    image_size, batch_size = 16, 4


def test_the_best_state_is_stored_with_its_metrics(trained: Train, shared_images: Path, tmp_path: Path) -> None:
    folder = trained()
    settings = config.validate(config.compose(["method=rd", "dataset=folder", f"dataset.root={shared_images}"]))
    records: list[Record] = config.build("dataset", settings.dataset).records("test")
    images = ImageSet(records, 16, tmp_path / "cache")
    before = {**folder.manifest}
    measure_oracle(folder, settings, NoCandidates(), images, tmp_path, View(images.frame))
    assert folder.manifest == before
    normal = ImageSet([record for record in records if not record.label], 16, tmp_path / "cache")
    measure_oracle(folder, settings, Grey(), normal, tmp_path, View(images.frame))
    assert folder.manifest == before
    measure_oracle(folder, settings, Grey(), images, tmp_path, View(images.frame))
    grey = torch.stack([images[i]["image"] for i in range(len(images))]).mean(1).numpy()
    masks = np.stack([images[i]["mask"] for i in range(len(images))])
    expected = image_metrics(grey.mean((1, 2)), [record.label for record in records]) | pixel_metrics(grey, masks)
    oracle = folder.manifest["oracle"]
    assert (oracle["state"], oracle["of"]) == ("bright", 4)  # neither the first nor the last of three equal ones
    assert oracle["metrics"].keys() == expected.keys()
    np.testing.assert_allclose([oracle["metrics"][key] for key in expected], list(expected.values()), atol=1e-9)
    assert {**folder.manifest, "oracle": 0} == {**before, "oracle": 0}
