"""PatchCore against a second writing of it, its coreset and its memory, what it refuses, and as the method of a run."""

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
from anomaly_bench.methods import patchcore
from anomaly_bench.methods.patchcore import PatchCore, coreset_sizes, greedy_coreset, nearest_neighbours
from anomaly_bench.runs.folder import find
from tests.references import patchcore as slow

SMALL: dict[str, Any] = {
    "backbone": "p33",
    "weights": "random",
    "layers": (1,),
    "image_size": 20,
    "batch_size": 4,
    "neighbourhood": 3,
    "layer_dimensions": 100,
    "dimensions": 64,
    "coreset_share": 0.2,
    "projection": 16,
    "starting_points": 3,
    "memory_mib": 1,
    "distance": "euclidean",
    "reweight": False,
    "neighbours": 3,
    "sigma": 2.0,
}


def pictures(seed: int, number: int, size: int = 20) -> Tensor:
    return torch.rand(number, 3, size, size, generator=torch.Generator().manual_seed(seed))


def method(**changes: Any) -> PatchCore:
    torch.manual_seed(0)
    made = PatchCore(**{**SMALL, **changes}).eval()
    made.backbone.load("random")
    return made


def fit(made: PatchCore, images: Tensor) -> PatchCore:
    batches: Any = [{"image": batch} for batch in images.split(made.batch_size)]
    made.fit(batches, len(images))
    return made


def features(made: PatchCore, image: Tensor) -> list[np.ndarray]:
    return [f[0].numpy() for f in made.backbone(image[None])]


@pytest.mark.parametrize(
    ("p", "layer_dimensions", "dimensions", "layers"), [(3, 100, 64, (2, 3)), (1, 77, 150, (2, 3)), (3, 40, 33, (2,))]
)
def test_patch_features_are_the_averages(p: int, layer_dimensions: int, dimensions: int, layers: tuple) -> None:  # type: ignore[type-arg]
    lengths = {"layer_dimensions": layer_dimensions, "dimensions": dimensions}
    made = method(backbone="resnet18", layers=layers, image_size=40, neighbourhood=p, **lengths)
    images = pictures(1, 2, 40)
    found = made.embed(images).numpy()
    assert found.shape == (2, 25, dimensions)
    expected = slow.patches(features(made, images[1]), p, layer_dimensions, dimensions)
    np.testing.assert_allclose(found[1], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("distance", "reweight"), [("squared", False), ("euclidean", False), ("euclidean", True)])
def test_scores_and_maps_are_the_formulae(distance: str, reweight: bool) -> None:
    made = fit(method(distance=distance, reweight=reweight), pictures(1, 6))
    assert made.bank.shape == (30, 64)  # a fifth of 6 x 25 patches
    test = pictures(2, 2) ** 2
    scores, bank = made.score(test), made.bank.double().numpy()
    for i, image in enumerate(test):
        queries = slow.patches(features(made, image), 3, 100, 64)
        found = slow.scores(queries, bank) ** (2 if distance == "squared" else 1)
        expected = found.max() * (slow.reweighted(queries, bank, 3) if reweight else 1)
        assert float(scores.image[i]) == pytest.approx(expected, rel=1e-5)
        np.testing.assert_allclose(scores.map[i].numpy(), slow.anomaly_map(found, 5, 20, 2.0), rtol=1e-5)


@pytest.mark.parametrize("pool", [2, 7, 1000])
@pytest.mark.parametrize("seed", range(3))
def test_the_coreset_is_that_of_one_by_one(pool: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patchcore, "POOL", pool)
    monkeypatch.setattr(patchcore, "BLOCK", 50)  # many blocks
    draw = np.random.default_rng(seed)
    points = draw.normal(size=(80, 5)) * draw.uniform(0.1, 3, (80, 1))
    starts = [3, 50, 7]
    found = greedy_coreset(torch.from_numpy(points), 60, torch.tensor(starts))
    assert found.tolist() == slow.coreset(points, 60, starts)


def test_the_bank_is_the_coreset_of_all_patches_whatever_the_batches() -> None:
    images = pictures(1, 5)
    made = fit(method(projection=64), images)  # nothing is projected
    rows = made.embed(images).flatten(0, 1)
    numbers = [int((rows - m).abs().sum(1).argmin()) for m in made.bank]
    assert numbers == sorted(set(numbers))
    torch.testing.assert_close(rows[numbers], made.bank)
    one_by_one = fit(method(projection=64, batch_size=1), images)
    torch.testing.assert_close(one_by_one.bank, made.bank)
    draw = torch.Generator().manual_seed(
        torch.initial_seed()
    )  # the fit's draws: directions, candidates, starting points
    torch.rand(64, 64, generator=draw), torch.randperm(125, generator=draw)
    starts = torch.randperm(125, generator=draw)[:3].tolist()
    assert numbers == sorted(slow.coreset(rows.double().numpy(), 25, starts))


@pytest.mark.slow
def test_a_network_whose_pools_leave_out_the_border() -> None:
    made = fit(method(backbone="vgg11_bn", layers=(2, 3), image_size=39), pictures(1, 2, 39))
    assert made.bank.shape == (32, 64)  # a fifth of two images with 9 x 9 patches
    assert made.bank.abs().sum(1).min() > 0
    assert made.score(pictures(2, 1, 39)).map.shape == (1, 39, 39)


def test_copies_are_chosen_once() -> None:
    points = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    assert sorted(greedy_coreset(points, 4, torch.tensor([0])).tolist()) == [0, 1, 2, 3]


def test_the_search_is_exact_in_any_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patchcore, "BLOCK", 70)
    draw = torch.Generator().manual_seed(0)
    queries, bank = torch.rand(23, 6, generator=draw) + 50, torch.rand(31, 6, generator=draw) + 50  # far from 0
    squares, nearest = nearest_neighbours(queries, bank)
    distances = (queries[:, None].double() - bank.double()).pow(2).sum(2)
    np.testing.assert_allclose(squares, distances.gather(1, nearest[:, None])[:, 0], rtol=1e-5)
    np.testing.assert_allclose(squares, distances.amin(1), rtol=0.05, atol=0.02)  # |q|^2 is 15,000


def test_sizes_keep_to_the_memory() -> None:
    whole = coreset_sizes(10_000, 0.1, 64, 16, 2**20, 1)
    assert whole == (10_000, 10_000, 1000)
    for memory in (2**12, 2**15, 2**18):
        sizes = coreset_sizes(10_000, 0.9, 64, 16, memory, 1)
        assert 0 < sizes.bank <= sizes.candidates
        assert 4 * 64 * sizes.bank <= memory
        assert (4 * 16 + 32) * sizes.candidates <= memory
    assert coreset_sizes(10, 0.01, 64, 16, 2**20, 1).bank == 1


def test_a_small_memory_gives_a_smaller_bank_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    made = fit(method(memory_mib=0.005), pictures(1, 4))
    assert made.bank.shape == (20, 64)  # 5 KiB of 256 bytes each
    assert 4 * made.bank.numel() <= 0.005 * 2**20
    fit(method(memory_mib=0.004), pictures(1, 4))
    assert "the coreset has 16 patches, 20 is the share: method.memory_mib holds no more" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"memory_mib": 0.0001},
            "method.memory_mib: 104 bytes hold 0 patches of 64 numbers, needed: 1 (1 MiB hold the coreset",
        ),
        ({"memory_mib": 0.0005, "reweight": True}, "hold 2 patches of 64 numbers, needed: 3 (1 MiB hold the coreset"),
        ({"coreset_share": 0.01, "reweight": True}, "method.coreset_share: 0.01 of 100 patches is 1; 3 are needed"),
    ],
)
def test_no_bank_is_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        fit(method(**changes), pictures(1, 4))
    assert message in str(caught.value)


def test_a_run_and_its_model(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(images.parent)
    own = [
        "method.coreset_share=0.05",
        "method.backbone=p33",
        "method.layers=[1]",
        "method.image_size=32",
        "method.dimensions=128",
    ]
    words = [
        "method=patchcore",
        *own,
        "method.reweight=true",
        "method.coreset_share=0.05",
        "dataset=folder",
        f"dataset.root={images}",
    ]
    assert main(["train", *words, "hardware=cpu", *QUICK]) == 0
    (folder,) = find("outputs")
    assert set(folder.manifest["stages"]) == {"fit", "score"}
    assert folder.metrics["pixel_auroc"] > 0.9  # the defects of these images are bright
    results = load(folder.path).predict([images / row.path for row in folder.scores])
    assert [result.score for result in results] == [row.score for row in folder.scores]
