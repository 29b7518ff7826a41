"""PaDiM against a second writing of it, what it refuses, and as the method of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import QUICK
from torch import Tensor

from anomaly_bench import load
from anomaly_bench.commands.main import main
from anomaly_bench.errors import UserError
from anomaly_bench.methods.padim import PaDiM
from anomaly_bench.runs.folder import find
from tests.references import padim as slow

SMALL: dict[str, Any] = {
    "backbone": "p33",
    "weights": "random",
    "layers": (1,),
    "image_size": 40,
    "batch_size": 4,
    "components": 30,
    "regularisation": 0.01,
    "covariance": "position",
    "memory_mib": 2,
    "sigma": 2.0,
}


RESNET: dict[str, Any] = {"backbone": "resnet18", "layers": (1, 2, 3)}


def pictures(seed: int, number: int, size: int = 40) -> Tensor:
    return torch.rand(number, 3, size, size, generator=torch.Generator().manual_seed(seed))


def method(**changes: Any) -> PaDiM:
    torch.manual_seed(0)
    made = PaDiM(**{**SMALL, **changes}).eval()
    made.backbone.load("random")
    return made


def features(padim: PaDiM, batch: Tensor) -> list[list[np.ndarray]]:
    """The features of each layer, of each image."""
    maps = [f.numpy() for f in padim.backbone(batch)]
    return [[f[i] for f in maps] for i in range(len(batch))]


@pytest.mark.parametrize(("covariance", "epsilon"), [("position", 0.01), ("position", 1e-4), ("shared", 0.01)])
def test_maps_and_scores_are_the_formulae(covariance: str, epsilon: float) -> None:
    padim, training, test = (
        method(**RESNET, covariance=covariance, regularisation=epsilon),
        pictures(1, 11),
        pictures(2, 2),
    )
    padim.fit(training.split(4))  # the last batch is smaller
    scores = padim.score(test)
    normal, channels = features(padim, training), padim.channels.tolist()
    assert len(set(channels)) == len(channels) == 30
    assert max(channels) < 448
    for i, image in enumerate(features(padim, test)):
        found = slow.distances(normal, image, channels, epsilon, shared=covariance == "shared")
        assert found.shape == (10, 10)
        expected = slow.anomaly_map(found, 40, 2.0)
        np.testing.assert_allclose(scores.map[i].numpy(), expected, rtol=1e-5)
        assert float(scores.image[i]) == pytest.approx(expected.max(), rel=1e-5)


def test_batches_do_not_matter() -> None:
    one, other, training = method(), method(), pictures(1, 9)
    one.fit([training])
    other.fit(training.split(1))
    torch.testing.assert_close(one.mean, other.mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(one.score(pictures(2, 1)).map, other.score(pictures(2, 1)).map, rtol=1e-5, atol=0)


@pytest.mark.slow
def test_a_network_whose_pools_leave_out_the_border() -> None:
    made = method(backbone="vgg11_bn", layers=(0, 2), image_size=39, memory_mib=6)
    made.fit([pictures(1, 3, 39)])
    assert made.score(pictures(2, 1, 39)).map.shape == (1, 39, 39)


def test_the_seed_draws_the_components() -> None:
    torch.manual_seed(1)
    assert not torch.equal(PaDiM(**SMALL).channels, method().channels)
    assert torch.equal(method(components=128, memory_mib=100).channels, torch.arange(128))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"components": 129},
            "method.components: 129 given, but layers [1] of p33 have 128 channels together (at most",
        ),
        ({**RESNET, "components": 449}, "but layers [1, 2, 3] of resnet18.tv_in1k have 448 channels together"),
        ({**RESNET, "layers": (1, 7)}, "method.layers: resnet18.tv_in1k has no layer 7"),
        (
            {"memory_mib": 0.2},
            "method.memory_mib: 0.2 MiB given; 30 components at 10 x 10 positions take 0.3 MiB (",
        ),
        ({"components": 100}, "100 components at 10 x 10 positions take 3.8 MiB (method.components=72 fits, or method"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_computed(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        method(**changes)
    assert message in str(caught.value)


def test_what_fits_by_the_message_fits() -> None:
    method(components=72)
    with pytest.raises(UserError, match="components=72"):
        method(components=73)
    method(components=73, covariance="shared")


def test_too_few_images() -> None:
    padim = method(regularisation=0.0, components=8)
    with pytest.raises(UserError, match=r"method\.covariance: 1 training image given"):
        padim.fit([pictures(1, 1)])
    with pytest.raises(UserError, match=r"method\.regularisation: 0 leaves a singular covariance of 8 comp.* 5 images"):
        padim.fit([pictures(1, 5)])
    method(components=8).fit([pictures(1, 5)])


def test_the_stages_of_a_run_and_its_model(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(images.parent)
    own = ["method=padim_fast", "method.image_size=32", "method.components=20", "weights_dtype=float16"]
    assert main(["train", *own, "dataset=folder", f"dataset.root={images}", "hardware=cpu", *QUICK]) == 0
    (folder,) = find("outputs")
    assert set(folder.manifest["stages"]) == {"fit", "score"}
    assert folder.manifest["stages"]["fit"]["seconds"] > 0
    assert folder.manifest["provenance"]["backbone"] == "p33"
    assert folder.metrics["image_auroc"] == 1.0  # the defects of these images are bright
    results = load(folder.path).predict([images / row.path for row in folder.scores])
    assert [result.score for result in results] == [row.score for row in folder.scores]
