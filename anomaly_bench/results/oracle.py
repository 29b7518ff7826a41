"""What choosing on the test images would add to a figure, `oracle`: shown beside results and never as one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from anomaly_bench.results.aggregate import MAIN, four, settings
from anomaly_bench.results.collect import Row
from anomaly_bench.results.grid import Grid
from anomaly_bench.runs.promise import defects_found

CHOSEN_NOTE = (
    "What a figure gains where the test images choose. Epoch: the point of the training with the largest value of this "
    "metric, of those that `track_test` scored, in place of the last one. Threshold: the one with the largest F1, in "
    "place of the one that keeps a promise. Means over categories and seeds with the gain's 95% interval (Student's "
    "t, cut off where no gain can be); a choice never loses, so that an interval above 0 is no test. None of these is "
    "a result."
)


def oracle_line(oracle: Mapping[str, Any]) -> str:
    """Return what a manifest's `oracle` is, for below the run's figures."""
    return (
        f"oracle: {oracle['state']}, the best of {oracle['of']} states of this training, chosen on the test images by "
        "image_auroc; no result"
    )


@dataclass(frozen=True)
class Gain:
    """What one choice adds to one figure of a setting: means over categories and seeds."""

    setting: str
    choice: str  # epoch | threshold
    metric: str
    own: float  # without the choice
    chosen: float
    low: float  # of the 95 % interval of the gain; nan for a single run
    high: float
    runs: int

    @property
    def gain(self) -> float:
        """The mean difference, at least 0."""
        return self.chosen - self.own


def gains(rows: Sequence[Row]) -> list[Gain]:
    """Return the gains of each setting, of runs on any data sets; none where nothing was chosen."""
    return [
        _gain(heading, *choice, pairs)
        for heading, runs in settings(rows).items()
        for choice, pairs in _by_choice(runs).items()
    ]


def _by_choice(runs: Sequence[Row]) -> dict[tuple[str, str], dict[tuple[str, int], tuple[float, float]]]:
    """Return choice and metric -> category and seed -> the figure without and with the choice."""
    found: dict[tuple[str, str], dict[tuple[str, int], tuple[float, float]]] = {}
    for run in runs:
        for choice, metric, own, chosen in _chosen(run):
            if not math.isnan(own + chosen):
                found.setdefault((choice, metric), {})[f"{run.dataset}/{run.category}", run.seed] = own, chosen
    return found


def _chosen(run: Row) -> Iterator[tuple[str, str, float, float]]:
    """Yield choice, metric, and its value without and with the choice; nan where it is undefined."""
    best, last = (run.oracle.get(key, {}) for key in ("best", "last"))
    for metric in (metric for metric in MAIN if last.get(metric) is not None):
        yield "epoch", metric, last[metric], best[metric]["value"]
    if (test := run.thresholds.get("image", {}).get("test")) and "image_f1_max" in run.metrics:
        found, defects = defects_found(test)
        missed = defects - found
        yield "threshold", "image F1", f1(found, test["false_alarms"], missed), run.metrics["image_f1_max"]


def f1(hits: int, false_alarms: int, missed: int) -> float:
    """Return F1 from counts; nan without a defect.

    >>> round(f1(8, 2, 0), 4)
    0.8889
    """
    return 2 * hits / (2 * hits + false_alarms + missed) if hits + missed else math.nan


def _gain(heading: str, choice: str, metric: str, pairs: Mapping[tuple[str, int], tuple[float, float]]) -> Gain:
    from anomaly_bench.metrics.significance import ALPHA, paired, quantile, within  # with scipy

    own, chosen = ({key: pair[i] for key, pair in pairs.items()} for i in range(2))
    differences = paired(chosen, own)
    error, freedom = within(differences)
    half = quantile(1 - ALPHA / 2, freedom) * error
    before, after = (
        fmean(fmean(value for key, value in side.items() if key[0] == category) for category in differences)
        for side in (own, chosen)
    )
    ends = (max(after - before - half, 0.0), min(after - before + half, 1 - before))  # all there can be; nan stays
    return Gain(heading, choice, metric, before, after, *ends, len(pairs))


def gains_by_dataset(rows: Sequence[Row]) -> dict[str, Grid]:
    """Return for each data set what choosing on its test images would gain; those where nothing was chosen lack."""
    names = sorted({row.dataset for row in rows})
    found = {name: gains([row for row in rows if row.dataset == name]) for name in names}
    return {name: gain_grid(each) for name, each in found.items() if each}


def gain_grid(found: Sequence[Gain]) -> Grid:
    """Return gains as text, a line for each."""
    cells = [["setting", "chosen on the test images", "figure", "own", "chosen", "gain", "runs"]]
    for g in found:
        interval = "" if math.isnan(g.low) else f" [{g.low:+.4f}, {g.high:+.4f}]"
        figures = [four(g.own), four(g.chosen), f"{g.gain:+.4f}{interval}", str(g.runs)]
        cells.append([g.setting, g.choice, g.metric, *figures])
    return Grid(cells, "lllrrrr")
