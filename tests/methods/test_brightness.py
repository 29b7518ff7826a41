"""Brightness against its definition, image by image in float64, and as the method of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from small_runs import QUICK

from anomaly_bench import load
from anomaly_bench.commands.main import main
from anomaly_bench.methods.brightness import Brightness
from anomaly_bench.runs.folder import find


def test_scores_are_their_definition() -> None:
    images = torch.rand(3, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    scores = Brightness(image_size=24, batch_size=3, sigma=1.5).score(images)
    for i, image in enumerate(images.numpy().astype(np.float64)):
        grey = image.mean(0)
        median = np.sort(grey.ravel())[(grey.size - 1) // 2]  # torch takes the lower of the two in the middle
        change = ndimage.gaussian_filter(grey - median, 1.5, mode="reflect")
        expected = {"mean": grey.mean(), "minimum": grey.min(), "maximum": grey.max(), "deviation": grey.std(ddof=1)}
        expected |= {"brighter": change.max(), "darker": -change.min()}
        found = {name: float(each.image[i]) for name, each in scores.components.items()}
        assert found == pytest.approx(expected, abs=1e-5)
        np.testing.assert_allclose(scores.map[i].numpy(), np.abs(change), atol=1e-5)
        assert float(scores.image[i]) == pytest.approx(np.abs(change).max(), abs=1e-5)


def test_a_run_trains_nothing_and_is_a_model_all_the_same(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(images.parent)
    words = ["method=brightness", "method.image_size=32", "dataset=folder", f"dataset.root={images}", "hardware=cpu"]
    assert main(["train", *words, *QUICK]) == 0
    (folder,) = find("outputs")
    assert folder.manifest["parameters"] == {"total": 0, "trainable": 0}
    assert set(folder.manifest["stages"]) == {"fit", "score"}
    assert set(folder.manifest["parts"]) == {"mean", "minimum", "maximum", "deviation", "brighter", "darker"}
    assert folder.metrics["image_auroc"] == 1.0  # the defects of these images are bright
    results = load(folder.path).predict([images / row.path for row in folder.scores])
    assert [result.score for result in results] == [row.score for row in folder.scores]
