"""What the pages show of a run: results, manifest, scores, curves, training, costs; and the style of its lines."""

from __future__ import annotations

import csv
import json
import math
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from anomaly_bench.html_report.charts import Style, nth_style
from anomaly_bench.results.aggregate import settings
from anomaly_bench.results.collect import Row
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.stored_run import ScoreRow

UNREADABLE = (OSError, KeyError, TypeError, ValueError, AttributeError)  # what a missing or damaged file leads to
BOOKKEEPING = {"stage", "epoch", "steps", "seconds", "first_loss", "last_loss"}  # columns of training.csv, no curves
Points = tuple[list[float], list[float]]  # x and y of a curve


@dataclass(frozen=True)
class Run:
    """A finished run.  Its files are read when they are needed; a missing or damaged one gives nothing."""

    row: Row
    heading: str  # of its setting, as in the tables
    style: Style  # of its setting, the same on all pages

    @property
    def title(self) -> str:
        """The setting and the seed."""
        return f"{self.heading}, seed {self.row.seed}"

    @property
    def folder(self) -> RunFolder:
        """The run's folder."""
        return RunFolder(self.row.path)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Its manifest, read once."""
        return self.folder.manifest

    @property
    def commit(self) -> str:
        """The first ten digits of the commit."""
        return (self.manifest.get("git_commit") or "")[:10] or "not recorded"

    @property
    def weights(self) -> str:
        """What was loaded, and the first twelve digits of each checksum."""
        return joined({name: str(value)[:12] for name, value in self.manifest.get("provenance", {}).items()})

    def scores(self) -> list[ScoreRow]:
        """Return a row for each test image; none where scores.csv is missing or damaged."""
        with suppress(*UNREADABLE):
            return self.folder.scores
        return []

    def curves(self) -> dict[str, Points]:
        """Return `image_roc`, `pixel_roc` and `pro`; runs of older versions have none."""
        with suppress(*UNREADABLE):
            stored = json.loads((self.row.path / "curves.json").read_text(encoding="utf-8"))
            return {name: (list(map(float, c["x"])), list(map(float, c["y"]))) for name, c in stored.items()}
        return {}

    def training(self) -> dict[tuple[str, str], Points]:
        """Return what training.csv has of each stage and logged value: epochs, counted from 1, and values."""
        found: dict[tuple[str, str], Points] = defaultdict(lambda: ([], []))
        with suppress(*UNREADABLE):
            text = (self.row.path / "training.csv").read_text(encoding="utf-8")
            for line in csv.DictReader(text.splitlines()):
                for name in (name for name in line if name not in BOOKKEEPING and line[name]):
                    epochs, values = found[line["stage"], name]
                    values.append(float(line[name]))
                    epochs.append(int(line["epoch"]) + 1)
            return dict(found)
        return {}

    @property
    def costs(self) -> dict[str, float]:
        """`train_s`, `ms_per_image`, `memory_mb`, `parameters`; nan where not measured."""
        return {
            "train_s": self.row.train_s,
            "ms_per_image": self.row.ms_per_image,
            "memory_mb": self.row.peak_memory_mb,
            "parameters": float(self.manifest.get("parameters", {}).get("total") or math.nan),
        }


def runs_by_category(rows: Sequence[Row]) -> dict[str, dict[str, list[Run]]]:
    """Data set -> category -> its runs, by setting and seed; data sets and categories are sorted.

    A heading has one style in all data sets, although a setting, which holds keys of its data set, is another in each.
    """
    grouped = {
        name: settings([row for row in rows if row.dataset == name]) for name in sorted({r.dataset for r in rows})
    }
    styles = {heading: nth_style(i) for i, heading in enumerate(sorted({h for each in grouped.values() for h in each}))}
    found: dict[str, dict[str, list[Run]]] = {}
    for dataset, headings in grouped.items():
        runs = [Run(row, heading, styles[heading]) for heading, group in headings.items() for row in group]
        categories = sorted({run.row.category for run in runs})
        found[dataset] = {name: [run for run in runs if run.row.category == name] for name in categories}
    return found


def by_setting(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Heading -> runs of a setting, in the order of `runs`."""
    found = defaultdict(list)
    for run in runs:
        found[run.heading].append(run)
    return dict(found)


def mean_cost(runs: Sequence[Run], name: str) -> float:
    """Return the mean over the runs for which this cost was measured; nan where there is none."""
    values = [value for run in runs if not math.isnan(value := run.costs[name])]
    return fmean(values) if values else math.nan


def file_name(*names: str) -> str:
    """A name for a file or an anchor: equal names give equal ones, others differ even where case is ignored."""
    clean = [re.sub(r"[^a-z0-9_-]+", "_", name.lower())[:60] for name in names]
    return ".".join(clean) + ("" if clean == [*names] else f"-{zlib.crc32(repr(names).encode()):08x}")


def joined(value: Any) -> str:
    """Return an entry of a manifest in one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {v}" for key, v in value.items() if v is not None)
    return str(value or "")
