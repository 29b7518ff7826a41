"""What is said at the end: counts, drift, and which of a lot to reject."""

from __future__ import annotations

import numpy as np
import pytest
from small_runs import TOYS

from anomaly_bench.inference.load import load
from anomaly_bench.inference.predict import Model, Result
from anomaly_bench.inference.summary import Summary
from anomaly_bench.metrics.calibration import p_values
from anomaly_bench.runs.folder import RunFolder


@pytest.fixture
def model(calibrated: RunFolder) -> Model:
    """With 199 calibration scores."""
    model = load(calibrated.path, config_dir=TOYS / "conf")
    model.calibration = np.random.default_rng(1).normal(0, 1, 199)
    model.thresholds = {"image": {"threshold": float(np.sort(model.calibration)[-4])}}
    return model


def results(model: Model, scores: np.ndarray) -> list[Result]:
    assert model.calibration is not None
    p, threshold = p_values(model.calibration, scores), model.thresholds["image"]["threshold"]
    return [Result(f"{i}.png", s, None, p[i], int(s > threshold), 8, 8, 1.0) for i, s in enumerate(map(float, scores))]


def summary_of(model: Model, scores: np.ndarray, lot: float | None = None) -> Summary:
    summary = Summary(model, lot)
    for result in results(model, scores):
        summary.add(result)
    return summary


def test_counts(model: Model) -> None:
    summary = summary_of(model, np.array([0.0, 9.0, 0.5]))
    summary.add(Result("b\n.png", float("nan"), None, None, None, 0, 0, 1.0, error="is broken"))
    summary.add(Result("u.png", 0.1, None, 0.5, 0, 8, 8, 1.0, unlike="aspect ratio 2"))
    assert summary.line == "4 images scored: 1 anomalous, 1 unlike the training images; 1 not scored"
    assert summary.errors == ["b\\n.png: is broken"]
    assert [summary.code(fail) for fail in (False, True)] == [1, 1]
    assert [summary_of(model, np.array([9.0])).code(fail) for fail in (False, True)] == [0, 4]
    model.thresholds = {}
    assert "no threshold" in summary.line


def test_drift_is_said_of_other_normal_images_only(model: Model) -> None:
    rng = np.random.default_rng(2)
    like, defects, shifted = rng.normal(0, 1, 100), rng.normal(9, 1, 60), rng.normal(1, 1, 100)
    assert summary_of(model, like).drift_line == ""
    assert summary_of(model, np.concatenate([like, defects])).drift_line == ""  # defects are no drift
    line = summary_of(model, shifted).drift_line
    assert "no longer look like those of the calibration images" in line
    assert "Kolmogorov-Smirnov" in line
    assert summary_of(model, shifted[:19]).drift_line == ""  # too few to say
    model.calibration, model.thresholds = None, {}
    assert Summary(model).drift_line == ""


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_a_lot_by_the_rule_itself(model: Model, rate: float) -> None:
    """Benjamini and Hochberg: the k smallest p-values, for the largest k whose p-value is at most rate * k / m."""
    rng = np.random.default_rng(3)
    scores = np.concatenate([rng.normal(0, 1, 40), rng.normal(4, 1, 20)])
    *rejected, said = summary_of(model, scores, rate).lot_lines()
    assert model.calibration is not None
    p = [(1 + sum(c >= s for c in model.calibration)) / 200 for s in scores]
    k = max(k for k in range(1, 61) if sorted(p)[k - 1] <= rate * k / 60)
    assert {line.split()[-1] for line in rejected} == {f"{i}.png" for i in range(60) if p[i] <= sorted(p)[k - 1]}
    assert 10 < len(rejected) < 40
    assert said.startswith(f"lot: {len(rejected)} of 60 images rejected")


def test_a_lot_that_the_calibration_images_are_too_few_for(model: Model) -> None:
    lines = list(summary_of(model, np.array([9.0, *[0.0] * 99]), 0.05).lot_lines())
    assert lines[0].startswith("lot: 0 of 100 images rejected")
    assert "with 199 calibration images none is rejected before 10 of 100" in lines[1]  # 10 * 0.05 / 100 = 1 / 200
    assert len(list(summary_of(model, np.array([*[9.0] * 10, *[0.0] * 90]), 0.05).lot_lines())) == 11
