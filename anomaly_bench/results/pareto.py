"""What settings promise, find and take: a line for each way in which a setting was timed on a category, by machine."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from anomaly_bench.errors import UserError
from anomaly_bench.results.aggregate import settings
from anomaly_bench.results.collect import Row
from anomaly_bench.runs.promise import defects_found, percent, promised_text, stated_rate
from anomaly_bench.runs.stored_run import TIMING

FIGURES = ("p50", "p99", "images_per_second", "peak_memory_mb", "gpu_memory_mb")


class Machine(NamedTuple):
    """Where and with what was timed; only timings of one machine are compared."""

    hardware: str
    versions: str


class Way(NamedTuple):
    """How a setting was timed."""

    runtime: str
    device: str
    threads: int
    batch: int  # images

    def __str__(self) -> str:
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{self.runtime}, {self.device}, {threads}, batch {self.batch}"


@dataclass(frozen=True)
class Timing:
    """What `bench time` stored in a run's folder."""

    machine: Machine
    cells: Mapping[Way, Mapping[str, float]]  # FIGURES: latency of a batch in ms, images/s, MiB; nan where not measured


@dataclass(frozen=True)
class ParetoLine:
    """Runs of a setting on a category whose thresholds promise the same, timed in one way; figures are means."""

    heading: str  # of the setting
    runs: Sequence[Row]  # its seeds
    machine: Machine | None = None  # None: not timed
    way: Way | None = None
    cells: Sequence[Mapping[str, float]] = ()  # of the seeds that were timed

    @property
    def category(self) -> tuple[str, str]:
        """Data set and category."""
        return self.runs[0].dataset, self.runs[0].category

    @property
    def promise(self) -> str:
        """The promised false alarms and how sure they are: `5 %, 95 % confidence`; empty without a threshold."""
        return _promise(self.runs[0])

    @property
    def promised(self) -> float:
        """The share of false alarms that is promised at most; nan without a threshold."""
        if not (entry := self.runs[0].thresholds.get("image")):
            return math.nan
        return float(entry["promised"]) if entry.get("approximate") else stated_rate(entry)

    @property
    def alarms(self) -> list[tuple[int, int]]:
        """The normal test images above the threshold, and how many there are, of each seed that has any."""
        return [(t["false_alarms"], t["normal"]) for t in self._tests() if t["normal"]]

    @property
    def found(self) -> list[tuple[int, int]]:
        """The anomalous test images above the threshold, and how many there are, of each seed that has any."""
        return [counts for test in self._tests() if (counts := defects_found(test))[1]]

    @property
    def false_alarms(self) -> float:
        """Share of the normal test images above the threshold; nan without any."""
        return mean_share(self.alarms)

    @property
    def recall(self) -> float:
        """Share of the anomalous test images above the threshold; nan without any."""
        return mean_share(self.found)

    @property
    def recall_std(self) -> float:
        """Standard deviation of the recall over seeds; 0 for a single one."""
        return stdev([some / every for some, every in self.found]) if len(self.found) > 1 else 0.0

    @property
    def auroc(self) -> float:
        """Image AUROC; nan where undefined."""
        return fmean([run.metrics.get("image_auroc", math.nan) for run in self.runs])

    def figure(self, name: str) -> float:
        """Return one of FIGURES, of memory the highest; nan where it was not measured."""
        values = [cell[name] for cell in self.cells if not math.isnan(cell[name])]
        if not values:
            return math.nan
        return max(values) if name.endswith("_mb") else fmean(values)

    def _tests(self) -> list[dict[str, Any]]:
        return [entry["test"] for run in self.runs if "test" in (entry := run.thresholds.get("image", {}))]


def mean_share(counts: Sequence[tuple[int, int]]) -> float:
    """Return the mean of `some / every`; nan without any."""
    return fmean([some / every for some, every in counts]) if counts else math.nan


def pareto_lines(rows: Sequence[Row]) -> tuple[list[ParetoLine], list[str]]:
    """Return a line for each way in which a setting was timed, one for each threshold that was not timed, and notes.

    The lines are sorted by data set, setting and category; the notes name files of timings that are damaged.
    """
    timings, notes = _timings(rows)
    lines = []
    for dataset in sorted({row.dataset for row in rows}):
        for heading, runs in settings([row for row in rows if row.dataset == dataset]).items():
            groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
            for run in runs:
                groups[run.category, _promise(run)].append(run)
            for (_, promise), same in sorted(groups.items()):
                timed = list(_timed(heading, same, timings))
                lines += timed or ([ParetoLine(heading, same)] if promise else [])
    return lines, notes


def _timings(rows: Sequence[Row]) -> tuple[dict[Path, Timing], list[str]]:
    """Return the timing of each run that has one, and what is wrong with damaged ones."""
    timings, notes = {}, []
    for row in rows:
        try:
            if timing := read_timing(row.path):
                timings[row.path] = timing
        except UserError as error:  # noqa: PERF203
            notes.append(str(error))
    return timings, notes


def _timed(heading: str, runs: Sequence[Row], timings: Mapping[Path, Timing]) -> Iterable[ParetoLine]:
    """Yield the lines of runs that promise the same."""
    cells: dict[tuple[Machine, Way], list[Mapping[str, float]]] = defaultdict(list)
    for timing in (timings[run.path] for run in runs if run.path in timings):
        for way, cell in timing.cells.items():
            cells[timing.machine, way].append(cell)
    for (machine, way), found in cells.items():
        yield ParetoLine(heading, runs, machine, way, found)


def _promise(run: Row) -> str:
    """Return what a run's threshold for scores promises; empty without one."""
    if not (entry := run.thresholds.get("image")):
        return ""
    guarantee = "no guarantee" if entry.get("approximate") else f"{percent(entry['confidence'])} confidence"
    return f"{promised_text(entry)}, {guarantee}"


def read_timing(folder: Path) -> Timing | None:
    """Return what `bench time` measured of a run, without what failed; None where it was not timed.

    Raises UserError for a damaged file.
    """
    file = folder / TIMING
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        about = stored["machine"]
        versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items() if number)
        gpu = f"; {about['gpu']}" if about["gpu"] else ""
        machine = Machine(f"{about['cpu']}, {int(about['cpu_threads'])} threads{gpu}", versions)
        cells = [cell for cell in stored["cells"] if cell["protocol"] == "line" and "error" not in cell]
        return Timing(machine, dict(map(_cell, cells)))
    except FileNotFoundError:
        return None
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(str(file), f"is damaged: {what}", "bench time RUN measures it anew") from error


def _cell(stored: Mapping[str, Any]) -> tuple[Way, dict[str, float]]:
    """Return how a cell was measured, and its figures."""
    runtime = str(stored["runtime"]) + " with maps" * ("map" in stored["parts_ms"])
    way = Way(runtime, str(stored["device"]), int(stored["threads"]), int(stored["batch"]))
    named = {**stored, **stored["latency_ms"]}
    figures = {name: math.nan if named[name] is None else float(named[name]) for name in FIGURES}
    if wrong := [name for name, value in figures.items() if value <= 0 or math.isinf(value)]:
        raise ValueError(f"{wrong[0]} {named[wrong[0]]!r}")
    return way, figures


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return which points (cost, accuracy) are Pareto-optimal, by cost: no other is as good in both and better in one.

    >>> pareto_front([(2.0, 0.9), (1.0, 0.5), (3.0, 0.8)])
    [1, 0]
    """

    def beaten(cost: float, accuracy: float) -> bool:
        return any(c <= cost and a >= accuracy and (c, a) != (cost, accuracy) for c, a in points)

    return sorted((i for i, point in enumerate(points) if not beaten(*point)), key=lambda i: points[i])
