"""No training step and no scoring of a batch makes a GPU's host wait, or copies between the two: seen without one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from small_device import DEVICE, Waits, on_device
from small_methods import BATCH, METHODS, TRAINED, sampled, small
from torch import Tensor

from anomaly_bench import methods
from anomaly_bench.config import Hardware, compose
from anomaly_bench.contracts import as_size
from anomaly_bench.runs.callbacks import Checkpoint, EpochSeed, StepLimit
from anomaly_bench.runs.fit import make_trainer
from anomaly_bench.runs.loss_curve import LossCurve

IN_A_STEP = IN_SCORING = 0  # waits and copies that are allowed, for each of these methods
pytestmark = pytest.mark.filterwarnings("ignore:.*self.trainer. reference is not registered")


def test_every_method_is_here() -> None:
    assert METHODS.keys() == {file.stem for file in Path(str(methods.__file__)).parent.glob("[!_]*.py")}


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(), lambda x: float(x.sum()), lambda x: bool((x > 0).any()), lambda x: x[x > 0],
        lambda x: x.nonzero(), lambda x: x.cpu(), lambda x: x.tolist(), lambda x: torch.tensor([1.0], device=x.device),
        lambda x: torch.ones(3).to(x.device), lambda x: x[torch.tensor([0, 2])], lambda x: x.unique(),
    ],
)  # fmt: skip
def test_a_wait_is_seen(wait: Callable[[Tensor], Any]) -> None:
    raised = False
    with Waits() as waits:
        try:
            wait(torch.ones(3, device=DEVICE))
        except (RuntimeError, NotImplementedError):
            raised = True
    assert waits.found or raised


def test_what_a_gpu_does_alone_is_no_wait() -> None:
    with Waits() as waits:
        x = torch.ones(3, 2, device=DEVICE, requires_grad=True)
        (x[torch.arange(2, device=DEVICE)] * torch.zeros(()) + 1).clamp_min(0).sum().backward()
    assert waits.found == []


@pytest.mark.parametrize("name", sampled(METHODS, "stfpm"))
def test_steps_and_scores(name: str, tmp_path: Path) -> None:
    method, data = small(name, tmp_path)
    stages = [(stage.module, next(iter(stage.loader))) for stage in method.stages(data)]  # of which none is trained
    assert len(stages) == METHODS[name][1]
    method.to(DEVICE)
    for module, batch in stages:
        module.to(DEVICE)
        batch = on_device(batch)
        with Waits() as waits:
            module.training_step(batch, 0).backward()
        assert waits.found[IN_A_STEP:] == []
        assert any(p.grad is not None for p in module.parameters())
    images = torch.rand(BATCH, 3, *as_size(method.image_size), device=DEVICE)
    with Waits() as waits, torch.no_grad():
        scores = method.eval().score(images)
    assert waits.found[IN_SCORING:] == []
    assert scores.image.shape == (BATCH,)


class Epoch(pl.Callback):
    """Watches from the start of an epoch's first step to the end of its last, with all that Lightning does between."""

    def __init__(self) -> None:
        self.waits, self.steps = Waits(), 0

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if not batch_idx:
            self.waits.__enter__()
        self.steps += 1

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        self.waits.__exit__(None, None, None)


@pytest.mark.parametrize("name", sampled(TRAINED, "simplenet", "stfpm"))
def test_an_epoch_with_its_optimiser_and_loop(name: str, tmp_path: Path) -> None:
    """On the CPU, as no optimiser is fused on the stand-in: reads are seen, copies are not."""
    method, data = small(name, tmp_path)
    hardware = Hardware(**compose(["method=rd", "dataset=mtd", "hardware=cpu"]).hardware)
    for stage in method.stages(data):
        epoch, curve = Epoch(), LossCurve(tmp_path / "training.csv", stage.name, 0)
        own = [epoch, EpochSeed(0), StepLimit(2), curve, Checkpoint(tmp_path / "last.ckpt", 0)]
        limits = {**stage.trainer, "max_epochs": 1}
        limits.pop("max_steps", None)
        make_trainer(tmp_path, hardware, own, [], **limits).fit(stage.module, stage.loader)
        assert epoch.steps == 2
        assert epoch.waits.found == []
        assert len(curve.rows) == 1
