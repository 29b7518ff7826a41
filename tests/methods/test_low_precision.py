"""`hardware.precision` and `hardware.scoring_precision`: networks compute in it, what compares features in float32."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from small_methods import METHODS, TRAINED, sampled, small

from anomaly_bench import config
from anomaly_bench.contracts import as_size
from anomaly_bench.runs.fit import make_trainer
from anomaly_bench.runs.precision import scoring, warn_of_slow_precision


@pytest.mark.parametrize("name", sampled(METHODS, "stfpm"))
def test_scores_in_bfloat16_are_near_those_in_float32(name: str, tmp_path: Path) -> None:
    method, data = small(name, tmp_path)
    for _ in method.stages(data):  # fitted as far as no training is needed
        pass
    images = torch.rand(2, 3, *as_size(method.image_size), generator=torch.Generator().manual_seed(1))
    found = {}
    for precision in ("32-true", "bf16-mixed"):
        method.eval().scoring_precision = precision
        with torch.inference_mode(), scoring(method):
            found[precision] = method.score(images)
    exact, low = found["32-true"].map, found["bf16-mixed"].map
    assert exact is not None
    assert low is not None
    assert low.dtype == found["bf16-mixed"].image.dtype == torch.float32
    change = float((low - exact).abs().max() / exact.std())
    assert change < 0.25
    assert (change > 0) == (name != "brightness")  # which has no network
    assert len(low.unique()) > 0.9 * len(exact.unique())  # not rounded to the steps of bfloat16


@pytest.mark.parametrize("name", sampled(TRAINED, "simplenet", "stfpm"))
def test_every_stage_trains_in_bfloat16(name: str, tmp_path: Path) -> None:
    method, data = small(name, tmp_path)
    words = ["method=brightness", "dataset=demo/brick", "hardware=cpu", "hardware.precision=bf16-mixed"]
    hardware = config.validate(config.compose(words)).hardware
    for stage in method.stages(data):
        limits = {**stage.trainer, "max_epochs": -1, "max_steps": 2}
        before = [p.detach().clone() for p in stage.module.parameters() if p.requires_grad]
        make_trainer(tmp_path, hardware, [], [], **limits).fit(stage.module, stage.loader)
        after = [p.detach() for p in stage.module.parameters() if p.requires_grad]
        assert all(torch.isfinite(p).all() for p in after)
        assert any((new != old).any() for new, old in zip(after, before, strict=True))


def test_bfloat16_without_instructions_for_it_is_said_to_be_slow(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain = config.validate(config.compose(["method=brightness", "dataset=demo/brick", "hardware=cpu"])).hardware
    low = plain.model_copy(update={"precision": "bf16-mixed"})
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(logging.getLogger("anomaly_bench"), "propagate", True)  # whatever tests before have left
    monkeypatch.setattr("anomaly_bench.runs.precision.has_bfloat16", lambda: True)
    warn_of_slow_precision(low, cpu)
    monkeypatch.setattr("anomaly_bench.runs.precision.has_bfloat16", lambda: False)
    warn_of_slow_precision(plain, cpu)
    warn_of_slow_precision(low, gpu)
    assert not caplog.messages
    warn_of_slow_precision(low, cpu)
    assert {message.partition(":")[0] for message in caplog.messages} == {"hardware.precision=bf16-mixed"}
