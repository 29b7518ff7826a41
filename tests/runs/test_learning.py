"""A run that learned nothing says so; nothing else about a run changes."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from small_runs import QUICK, Train
from torch import nn

from anomaly_bench import config
from anomaly_bench.contracts import Stage
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.learning import (
    EXAMPLES,
    beginning,
    earlier_weights,
    evaluating,
    learning_warning,
    losses,
    rank_correlation,
    with_defects,
)
from anomaly_bench.runs.loss_curve import LossCurve
from anomaly_bench.runs.runner import run


@pytest.mark.parametrize("distinct", [2, 5, 1000])
def test_the_rank_correlation_is_that_of_scipy(distinct: int) -> None:
    rng = np.random.default_rng(distinct)
    for _ in range(20):
        first = rng.integers(0, distinct, 16).astype(float)
        second = rng.integers(0, distinct, 16) + first
        if len({*first}) > 1 and len({*second}) > 1:
            assert rank_correlation(first, second) == pytest.approx(spearmanr(first, second).statistic)
    assert np.isnan(rank_correlation(np.ones(4), np.arange(4.0)))


def entry(order: float | None, first: float | None, last: float | None) -> dict[str, Any]:
    return {"steps": 64, "images": 16, "rank_correlation": order, "first_loss": first, "last_loss": last}


@pytest.mark.parametrize(
    ("order", "first", "last", "warned"),
    [
        (1.0, 2.0, 1.96, True),
        (0.95, 2.0, 2.1, True),  # a loss that rose
        (0.95, -1.0, -1.02, True),  # a likelihood
        (0.3, 2.0, 1.96, False),  # scores moved
        (1.0, 2.0, 1.5, False),  # the loss fell
        (1.0, -1.0, -1.5, False),
        (None, 2.0, 2.0, False),  # constant scores
        (1.0, None, None, False),  # nothing is known of the loss
    ],
)
def test_both_must_have_stayed(order: float | None, first: float | None, last: float | None, warned: bool) -> None:
    line = learning_warning(entry(order, first, last))
    assert line.startswith("learned next to nothing in 64 steps: the loss ") if warned else line == ""
    assert ("rose by 5.0 %" in line) == (last == 2.1)


def test_the_losses_are_those_of_the_first_and_the_last_tenth(tmp_path: Path) -> None:
    trainer: Any = type("Trainer", (), {})()
    trainer.is_global_zero, trainer.max_epochs, trainer.callback_metrics = True, 2, {}
    trainer.strategy = type("Strategy", (), {"reduce": staticmethod(lambda value, reduce_op: value)})()
    curve, module = LossCurve(tmp_path / "training.csv", "flow", 10), nn.Module()
    trainer.current_epoch = 0
    curve.on_train_start(trainer, module)  # type: ignore[arg-type]
    for epoch, values in enumerate((np.arange(25.0), np.arange(5.0))):
        trainer.current_epoch, trainer.global_step = epoch, 25 + 5 * epoch
        for i, value in enumerate(values):
            curve.on_train_batch_start(trainer, module, None, i)  # type: ignore[arg-type]
            curve.on_train_batch_end(trainer, module, {"loss": torch.tensor(value)})  # type: ignore[arg-type]
        curve.on_train_epoch_end(trainer, module)  # type: ignore[arg-type]
    rows = list(csv.DictReader((tmp_path / "training.csv").open(newline="")))
    assert [float(row["loss"]) for row in rows] == [12, 2]
    assert losses(rows) == (1.0, 4.0)  # steps 0, 1 and 2 of 25; the last of 5
    assert np.isnan(losses(rows[1:])[0])  # the first epoch is not there
    assert np.isnan(losses([])[0])


def test_weights_and_modes_are_lent_to_the_bit() -> None:
    torch.manual_seed(0)
    module: Any = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    module[2].requires_grad_(False)
    module[1].eval()
    begun = beginning(Stage("s", module, None, {}))  # type: ignore[arg-type]
    assert set(begun.weights) == {"0.weight", "0.bias", "1.weight", "1.bias"}
    first = {name: p.detach().clone() for name, p in module.named_parameters()}
    with torch.no_grad():
        for p in module.parameters():
            p += 1e-3
        module[1].running_mean += 1
    fitted = {name: value.clone() for name, value in module.state_dict().items()}
    with evaluating(module), earlier_weights(begun):
        assert not module.training
        assert all(torch.equal(p, first[name]) for name, p in module.named_parameters() if name in begun.weights)
        assert torch.equal(module[1].running_mean, fitted["1.running_mean"])  # a statistic, no weight
    assert all(torch.equal(value, fitted[name]) for name, value in module.state_dict().items())
    assert [each.training for each in module] == [True, False, True]


def test_each_defect_is_a_spot_on_a_normal_image() -> None:
    normal = torch.full((3, 3, 64, 64), 0.5)
    images = with_defects(normal)
    assert images.shape == (3 + EXAMPLES, 3, 64, 64)
    assert torch.equal(images[:3], normal)
    shares = (images[3:] != 0.5).any(1).double().mean((1, 2))
    assert shares.min() > 0.001
    assert shares.max() < 0.1
    assert torch.equal(with_defects(normal), images)


def test_a_run_tells_how_far_its_loss_fell_and_draws_nothing(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = train(*QUICK)
    told = folder.manifest["learning"]
    assert (told["stage"], told["images"], told["rank_correlation"]) == ("again", 0, None)  # its loss has fallen
    assert told["last_loss"] < 0.9 * told["first_loss"]
    assert told["steps"] == 2  # of two epochs with the three validation images
    monkeypatch.setattr("anomaly_bench.runs.runner.check_learning", lambda *_: torch.rand(1).sum() * 0)
    without = train(*QUICK, outputs="without")
    for name in ("metrics.json", "scores.csv", "maps.npy", "weights.safetensors"):
        assert (folder.path / name).read_bytes() == (without.path / name).read_bytes()


FLOW = ["method=csflow_fast", "method.layer=layer1", "method.hidden=8", "method.kernels=[3,3]"]


def trained_for_12_steps(images: Path, weights: Path, place: Path, *words: str) -> RunFolder:
    small = [f"method.weights={weights}", "method.image_size=32", "method.batch_size=4", "method.steps=12"]
    where = [f"dataset.root={images}", f"output_dir={place}", "dataset=folder", "hardware=cpu", "hardware.threads=1"]
    return run(config.compose([*small, *where, *QUICK, "save_maps=false", *words]))


@pytest.mark.parametrize(
    ("method", "lr"),
    [(FLOW, "0.005"), pytest.param(["method=rd_fast"], "0.005", marks=pytest.mark.slow)],
    ids=["flow", "distillation"],
)
def test_a_training_that_learns_nothing_is_named_and_one_that_learns_is_not(
    shared_images: Path, weights: Path, tmp_path: Path, method: list[str], lr: str
) -> None:
    still = trained_for_12_steps(shared_images, weights, tmp_path, *method, "method.lr=1e-8")
    moved = trained_for_12_steps(shared_images, weights, tmp_path, *method, f"method.lr={lr}")
    line = still.manifest["learning"]["warning"]
    assert line.startswith("learned next to nothing in 12 steps: ")
    assert line in still.manifest["protocol"]
    assert line in (still.path / "log.txt").read_text()
    assert still.manifest["learning"]["rank_correlation"] > 0.99  # although batch norms have seen the images
    told = moved.manifest["learning"]
    assert told["warning"] == ""
    assert told["last_loss"] < 0.9 * told["first_loss"]
    assert not any("learned" in text for text in moved.manifest["protocol"])
