"""What choosing on test images gains is shown beside results, against SciPy, and is no result anywhere."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy import stats
from sklearn.metrics import f1_score
from small_runs import Train

from anomaly_bench.commands.report import write_report
from anomaly_bench.results.collect import collect
from anomaly_bench.results.oracle import Gain, gains
from anomaly_bench.results.terminal import print_run
from anomaly_bench.runs.folder import RunFolder

Run = Callable[..., RunFolder]
LAST = {"grid": [0.91, 0.93, 0.90], "screw": [0.80, 0.83, 0.84]}  # of each seed
BEST = {"grid": [0.93, 0.93, 0.94], "screw": [0.85, 0.83, 0.91]}


def oracle(last: float, best: float) -> dict[str, Any]:
    return {
        **{"state": "epoch_3", "of": 20, "metrics": {"image_auroc": best}, "last": {"image_auroc": last}},
        "best": {"image_auroc": {"state": "epoch_3", "value": best}},
    }


def test_the_gain_and_its_interval(run: Run, tmp_path: Path) -> None:
    for category in LAST:
        for seed, (last, best) in enumerate(zip(LAST[category], BEST[category], strict=True)):
            run(category, seed, image_auroc=last).update(oracle=oracle(last, best))
    rows = collect(tmp_path).rows
    for category in LAST:
        (gain,) = gains([row for row in rows if row.category == category])
        differences = np.subtract(BEST[category], LAST[category])
        expected = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
        assert (gain.low, gain.high) == pytest.approx(
            (max(0, expected.low), min(expected.high, 1 - np.mean(LAST[category])))
        )
        assert gain.gain == pytest.approx(differences.mean())
    (gain,) = gains(rows)
    assert (gain.choice, gain.metric, gain.runs) == ("epoch", "image_auroc", 6)
    assert gain.own == pytest.approx(fmean(map(fmean, LAST.values())))
    assert gain.chosen == pytest.approx(fmean(map(fmean, BEST.values())))
    assert gain.low < gain.gain < gain.high


def test_a_single_run_has_no_interval(run: Run, tmp_path: Path) -> None:
    run("grid", 0, image_auroc=0.9).update(oracle=oracle(0.9, 0.95))
    (gain,) = gains(collect(tmp_path).rows)
    assert (gain.own, gain.chosen, gain.runs) == (0.9, 0.95, 1)
    assert np.isnan([gain.low, gain.high]).all()


def test_the_gain_of_a_threshold(trained: Train) -> None:
    folder = trained("calibration_share=0.25")
    scores, labels = (np.array([getattr(row, name) for row in folder.scores]) for name in ("score", "label"))
    found: dict[str, Gain] = {gain.choice: gain for gain in gains(collect("outputs").rows)}
    threshold = folder.manifest["thresholds"]["image"]["threshold"]
    assert found.keys() == {"threshold"}
    assert found["threshold"].own == pytest.approx(f1_score(labels, scores > threshold))
    assert found["threshold"].chosen == pytest.approx(max(f1_score(labels, scores >= each) for each in scores))


def test_where_it_is_shown(trained: Train) -> None:
    folder = trained()
    own, chosen = folder.metrics["image_auroc"], 0.98765
    folder.update(oracle={**oracle(own, chosen), "metrics": {**folder.metrics, "image_auroc": chosen}})
    text = io.StringIO()
    print_run(folder, Console(file=text, width=200))
    assert "oracle (chosen on test images)" in text.getvalue()
    assert "0.9877" in text.getvalue()
    assert "epoch_3, the best of 20 states of this training, chosen on the test images" in text.getvalue()
    text = io.StringIO()
    target = write_report("outputs", console=Console(file=text, width=400))
    (line,) = [line for line in text.getvalue().splitlines() if "0.9877" in line]
    assert f"{chosen - own:+.4f}" in line
    assert (
        f"| epoch | image_auroc | {own:.4f} | 0.9877 | {chosen - own:+.4f} | 1 |" in (target / "report.md").read_text()
    )
    (page,) = (target / "pages").glob("folder.html")
    assert page.read_text().count("0.9877") == 1
    assert "0.98" not in (target / "runs.csv").read_text() + (target / "table_folder.csv").read_text()
    (row,) = collect("outputs").rows
    assert row.metrics["image_auroc"] == own
