"""What the pages show of a run besides its row of the table: manifest, scores, curves, training; and its style."""

from __future__ import annotations

import csv
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from anomaly_bench.results.aggregate import settings
from anomaly_bench.results.collect import Row
from anomaly_bench.runs.folder import RunFolder, ScoreRow


@dataclass(frozen=True)
class Run:
    """A finished run.  Files are read when they are asked for; a missing or damaged one gives nothing."""

    row: Row
    head: str  # of its setting, as in the tables
    style: int  # of its setting, the same on all pages

    @property
    def title(self) -> str:
        return f"{self.head}, seed {self.row.seed}"

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.row.path)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        return self.folder.manifest

    def scores(self) -> list[ScoreRow]:
        """One row for each test image; none where scores.csv is missing or damaged."""
        try:
            return self.folder.scores
        except (OSError, KeyError, TypeError, ValueError):
            return []

    def curves(self) -> dict[str, tuple[list[float], list[float]]]:
        """`image_roc`, `pixel_roc`, `pro`: x and y of the points; runs of older versions have none."""
        try:
            stored = json.loads((self.row.path / "curves.json").read_text(encoding="utf-8"))
            return {name: (list(map(float, c["x"])), list(map(float, c["y"]))) for name, c in stored.items()}
        except (OSError, KeyError, TypeError, ValueError, AttributeError):
            return {}

    def losses(self) -> dict[str, tuple[list[float], list[float]]]:
        """Of each stage the epochs, counted from 1, and their losses, out of training.csv."""
        found: dict[str, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
        try:
            with (self.row.path / "training.csv").open(newline="", encoding="utf-8") as file:
                for line in csv.DictReader(file):
                    if line.get("loss"):
                        found[line["stage"]][0].append(int(line["epoch"]) + 1)
                        found[line["stage"]][1].append(float(line["loss"]))
        except (OSError, KeyError, TypeError, ValueError):
            return {}
        return dict(found)

    @property
    def costs(self) -> dict[str, float]:
        """`train_s`, `ms_per_image`, `memory_mb`, `parameters`; nan where not measured."""
        stages = self.manifest.get("stages", {})
        fitted = [s["seconds"] for name, s in stages.items() if name != "score" and s.get("seconds") is not None]
        return {
            "train_s": sum(fitted) if fitted else math.nan,
            "ms_per_image": float(stages.get("score", {}).get("ms_per_image") or math.nan),
            "memory_mb": self.row.peak_memory_mb,
            "parameters": float(self.manifest.get("parameters", {}).get("total") or math.nan),
        }


def opened(rows: Sequence[Row]) -> dict[tuple[str, str], list[Run]]:
    """(data set, category) -> its runs, by setting and seed; both sorted."""
    styles = {runs[0].setting: i for i, runs in enumerate(settings(rows).values())}
    found: dict[tuple[str, str], list[Run]] = {}
    datasets = defaultdict(list)
    for row in rows:
        datasets[row.dataset].append(row)
    for dataset in sorted(datasets):
        runs = [
            Run(row, head, styles[row.setting])
            for head, of_setting in settings(datasets[dataset]).items()
            for row in of_setting
        ]
        for category in sorted({run.row.category for run in runs}):
            found[dataset, category] = [run for run in runs if run.row.category == category]
    return found


def by_setting(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Heading -> runs of a setting, in the order of `runs`."""
    found = defaultdict(list)
    for run in runs:
        found[run.head].append(run)
    return dict(found)


def mean_cost(runs: Sequence[Run], name: str) -> float:
    """Over the runs for which it was measured."""
    values = [value for run in runs if not math.isnan(value := run.costs[name])]
    return fmean(values) if values else math.nan
