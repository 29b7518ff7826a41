"""The Pareto page: promised false alarms, recall at that threshold, latency and memory of all settings and runtimes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anomaly_bench.html_report.charts import Chart, Dot, Style, spanning
from anomaly_bench.html_report.run_charts import Charts
from anomaly_bench.html_report.run_data import Run, file_name
from anomaly_bench.html_report.tables import short_number
from anomaly_bench.results.decisions import share_text
from anomaly_bench.results.pareto import Machine, ParetoLine, pareto_front, pareto_lines

NOTE = (
    "Steps and rings: the Pareto front, where no other is as quick and finds as much and is better in one of the two. "
    "Bars: standard deviation over seeds. Latency is that of a batch, from its files to its decisions."
)


@dataclass(frozen=True)
class PageLine:
    """A line of a table."""

    line: ParetoLine
    style: Style
    page: str  # of its category
    optimal: bool  # it is on a Pareto front

    @property
    def place(self) -> str:
        """Data set and category, once where they are the same."""
        return place(self.line)


@dataclass(frozen=True)
class MachineResults:
    """What was timed on one machine."""

    machine: Machine
    lines: Sequence[PageLine]
    charts: Charts


def place(line: ParetoLine) -> str:
    """Return data set and category, once where they are the same."""
    return "/".join(dict.fromkeys(line.category))


def pareto_page(runs: Sequence[Run]) -> dict[str, Any]:
    """Return what pareto.html shows; no `machines` where no run was timed."""
    lines, notes = pareto_lines([run.row for run in runs])
    styles = {run.row.setting: run.style for run in runs}
    machines = dict.fromkeys(line.machine for line in lines if line.machine)
    return {
        "styles": {run.heading: run.style for run in runs},
        "machines": [_results(machine, [x for x in lines if x.machine == machine], styles) for machine in machines],
        "untimed": [PageLine(x, styles[x.runs[0].setting], _page(x), False) for x in lines if not x.machine],
        "notes": notes,
    }


def _page(line: ParetoLine) -> str:
    return f"pages/{file_name(*line.category)}.html"


def _results(machine: Machine, lines: Sequence[ParetoLine], styles: Mapping[str, Style]) -> MachineResults:
    groups: dict[tuple[str, str], list[ParetoLine]] = defaultdict(list)
    for line in lines:
        if not math.isnan(line.promised) and not math.isnan(line.recall):
            groups[place(line), line.promise].append(line)
    charts, optimal = [], set()
    for (where, promise), comparable in groups.items():
        points = [(line.figure("p99"), line.recall) for line in comparable]
        front = pareto_front(points)
        optimal |= {id(comparable[i]) for i in front}
        dots = [_dot(line, styles[line.runs[0].setting]) for line in comparable]
        x = spanning("p99 latency, ms", [x for x, _ in points], log=True)
        y = spanning("recall on the test images", [y for dot in dots for y in (dot.y, dot.low, dot.high)])
        charts.append(Chart(f"{where}: {promise}", x, y, dots=dots, front=[points[i] for i in front]))
    shown = [PageLine(x, styles[x.runs[0].setting], _page(x), id(x) in optimal) for x in lines]
    legend = {x.line.heading: x.style for x in shown if any(x.line in group for group in groups.values())}
    return MachineResults(machine, shown, Charts(charts, NOTE, legend))


def _dot(line: ParetoLine, style: Style) -> Dot:
    p99 = line.figure("p99")
    title = f"{line.heading}, {line.way}: found {share_text(line.found)}, p99 {short_number(p99)} ms"
    spread = line.recall_std or math.nan  # of a single run none
    return Dot(style, title, p99, line.recall, line.recall - spread, line.recall + spread)
