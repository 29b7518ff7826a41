"""What a person reads after a run (`print_run`) and over many runs (`write_report`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from anomaly_bench.errors import UserError
from anomaly_bench.results import text
from anomaly_bench.results.aggregate import MAIN, Table, as_published, at_most, four, in_order, short
from anomaly_bench.results.collect import CONFIG, Collected, Measured, measurement, method_config
from anomaly_bench.results.comparisons import Comparison, shortened
from anomaly_bench.results.published import Published, published
from anomaly_bench.runs.folder import RunFolder

if TYPE_CHECKING:
    from rich.console import Console

    from anomaly_bench.metrics import Measurement


def print_run(folder: RunFolder, console: Console | None = None) -> None:
    """A finished run's metrics, the published figures for its very setting beside them, and how they came about.

    Raises UserError where the folder holds no run.
    """
    console = console or _console()
    if not (manifest := folder.manifest):
        raise UserError(str(folder.path), "no run is here", "`bench list runs` shows where runs are")
    method = method_config((folder.path / CONFIG).read_bytes())
    figures = published(manifest["method"], method, manifest["dataset"], manifest["category"])
    figures = [figure for figure in figures if figure.metric in folder.metrics]
    console.print(_title(manifest), style="bold", markup=False, highlight=False, soft_wrap=True)
    _print_metrics(console, folder.metrics, measurement(manifest), figures, parts=manifest.get("parts", {}))
    lines = list(dict.fromkeys(map(str, figures))) or ["no published figures for this setting"]
    lines += [f"measured: {measurement(manifest)}", *(f"protocol: {line}" for line in manifest.get("protocol", []))]
    for line in [*lines, *_stages(manifest), f"run: {folder.path}"]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def print_measured(found: Mapping[str, Measurement], lines: Sequence[str], console: Console | None = None) -> None:
    """The metrics of one category, or a line for each of several and their mean; how they came about; then `lines`."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable
    from rich.text import Text

    console = console or _console()
    names = in_order({name for m in found.values() for name in m.metrics})
    ways = {f"measured: {measurement({'measurement': m.record()})}": None for m in found.values()}
    if len(found) == 1:
        (m,) = found.values()
        _print_metrics(console, m.metrics, measurement({"measurement": m.record()}), [], "value")
    else:
        table = RichTable(box=SIMPLE_HEAD, pad_edge=False, padding=0)  # ten metrics fit into 80 columns
        for head in ["category", *(name.replace("_", "\n") for name in names)]:
            table.add_column(Text(head), justify="left" if head == "category" else "right", overflow="fold")
        for i, (category, m) in enumerate(found.items(), 1):
            table.add_row(Text(category), *(four(m.metrics[name]) for name in names), end_section=i == len(found))
        table.add_row("mean", *(four(fmean(m.metrics[name] for m in found.values())) for name in names))
        console.print(table)
    for line in [*lines, *ways]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _console() -> Console:
    from rich.console import Console

    return Console()


def _print_metrics(
    console: Console,
    metrics: dict[str, float],
    measured: Measured,
    figures: Sequence[Published],
    ours: str = "ours",
    parts: Mapping[str, Mapping[str, float | None]] = MappingProxyType({}),
) -> None:
    from rich.table import Table as RichTable
    from rich.text import Text

    variants = list(dict.fromkeys(figure.variant for figure in figures))
    quoted = {(figure.metric, figure.variant): figure for figure in figures}
    table = RichTable()
    table.add_column("metric")
    more = [f"{measured.level:.0%} interval"] if measured.intervals else []
    more += ["largest error"] if measured.bounds else []
    more += [f"{name} alone" for name in parts]
    for head in [ours, *more, *variants]:
        table.add_column(Text(head), justify="right", overflow="fold")
    for metric in in_order(metrics):
        cells = [_interval(measured.intervals.get(metric))] if measured.intervals else []
        cells += [at_most(measured.bounds.get(metric, 0))] if measured.bounds else []
        cells += [four(math.nan if (value := part.get(metric)) is None else value) for part in parts.values()]
        cells += [_quote(quoted.get((metric, variant))) for variant in variants]
        table.add_row(metric, four(metrics[metric]), *cells)
    console.print(table)


def _interval(interval: tuple[float, float] | None) -> Any:
    from rich.text import Text

    return Text(text.ABSENT if interval is None or math.isnan(interval[0]) else "{:.4f} – {:.4f}".format(*interval))


def _quote(figure: Published | None) -> Any:
    from rich.text import Text

    if figure is None:
        return Text(text.ABSENT)
    style = "yellow" if figure.confidence == "unverified" else ""
    return Text(f"{as_published(figure.value)} ({figure.confidence})", style=style)


def _title(manifest: dict[str, Any]) -> str:
    place = dict.fromkeys((manifest["dataset"], manifest["category"]))  # a data set of one category is its own category
    status = "" if manifest["status"] == "done" else f"  ({manifest['status']})"
    return f"{short(manifest['label'])}  {'/'.join(place)}  seed {manifest['seed']}{status}"


def _stages(manifest: dict[str, Any]) -> list[str]:
    lines = []
    for name, stage in manifest["stages"].items():
        measured = {"{:.1f} s": stage.get("seconds"), "peak memory {:.0f} MB": stage.get("peak_memory_mb")}
        parts = [text.format(value) for text, value in measured.items() if value is not None]
        lines.append(f"{name}: {', '.join(parts) or 'not measured'}")
    return lines


def print_report(
    console: Console,
    tables: Sequence[Table],
    compared: Sequence[Comparison],
    notes: Sequence[str],
    collected: Collected,
    target: Path,
) -> None:
    shown = [table for table in tables if table.metric in MAIN]
    for table in shown:
        _print_grid(
            console, f"{table.dataset}  {table.metric}", text.grid(table), "l" + "r" * len(table.columns), rule=True
        )
    lines = [text.CELLS_NOTE]
    if any(not column.ours for table in shown for column in table.columns):
        lines.append(text.PUBLISHED_NOTE)
    _print_lines(console, lines)
    able, few = ([c for c in compared if math.isnan(c.p) == lacks] for lacks in (False, True))
    for (dataset, metric), found in groupby(able, key=lambda c: (c.dataset, c.metric)):
        cells = text.comparison_grid(shortened(found))
        _print_grid(console, f"{dataset}  {metric}, compared", cells, text.COMPARED_SIDES)
    lines = [text.COMPARED_NOTE] if able else []
    lines += [f"not distinguishable: {len(few)} comparisons with too few runs, listed in report.md"] if few else []
    lines += [*notes, *text.alarms(compared)]
    lines += [f"{len(collected.rows)} finished runs; left out: {collected.left_out_line()}"]
    _print_lines(console, [*lines, *map(str, collected.left_out), f"written to {target}"])


def _print_grid(console: Console, title: str, cells: list[list[str]], sides: str, rule: bool = False) -> None:
    """A heading line, then lines of text; sides: l or r for each column; rule: above the last line, the mean."""
    from rich.table import Table as RichTable
    from rich.text import Text

    console.print(title, style="bold", markup=False, highlight=False, soft_wrap=True)
    table = RichTable()
    heads, *lines = cells
    for head, side in zip(heads, sides, strict=True):
        least = 15 if head == "verdict" else None  # `distinguishable` on one line
        table.add_column(Text(head), justify="right" if side == "r" else "left", overflow="fold", min_width=least)
    for i, line in enumerate(lines, 2):
        table.add_row(*(Text(text) for text in line), end_section=rule and i == len(lines))
    console.print(table)


def _print_lines(console: Console, lines: Sequence[str]) -> None:
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
