"""What a person reads after a run (`print_run`) and over many runs (`write_report`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import methodcaller
from pathlib import Path
from statistics import fmean
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from anomaly_bench.errors import UserError
from anomaly_bench.files import write_atomic
from anomaly_bench.report import render
from anomaly_bench.report.collect import CONFIG, Collected, Measured, collect, measurement, method_config
from anomaly_bench.report.compare import Comparison, comparisons, shortened, skipped
from anomaly_bench.report.html import write_html
from anomaly_bench.report.paper import Published, published
from anomaly_bench.report.summary import MAIN, Table, as_published, at_most, four, in_order, short, summarise
from anomaly_bench.store import RunFolder

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


def write_report(outputs: Path | str, target: Path | str | None = None, console: Console | None = None) -> Path:
    """`bench report`: tables of all finished runs below `outputs`, printed and written to `target` (<outputs>/report).

    Files: runs.csv (a line for each run), table_<dataset>.csv, comparisons.csv, report.md, report.tex, index.html for a
    browser and what it needs.  Returns their folder.  Raises UserError where there is no finished run.
    """
    collected = collect(outputs)
    if not collected.rows:
        raise UserError(str(outputs), f"no finished run; unfinished or damaged: {collected.left_out_line()}")
    tables, target = summarise(collected.rows), Path(target) if target else Path(outputs) / "report"
    compared, notes = comparisons(collected.rows), skipped(collected.rows)
    files = {"runs.csv": render.long_csv(collected.rows), "report.tex": render.latex(tables, compared)}
    files["report.md"] = render.markdown(tables, collected, compared, notes)
    if compared:
        files["comparisons.csv"] = render.comparisons_csv(compared)
    for dataset, group in groupby(tables, key=lambda table: table.dataset):
        files[f"table_{dataset}.csv"] = render.wide_csv(list(group))
    for name, text in files.items():
        write_atomic(target / name, methodcaller("write", text.encode()))
    console = console or _console()
    _print_report(console, tables, compared, notes, collected, target)
    page = write_html(collected, tables, compared, notes, target)
    console.print(f"to read in a browser: {page}", markup=False, highlight=False, soft_wrap=True)
    return target


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

    return Text(render.ABSENT if interval is None or math.isnan(interval[0]) else "{:.4f} – {:.4f}".format(*interval))


def _quote(figure: Published | None) -> Any:
    from rich.text import Text

    if figure is None:
        return Text(render.ABSENT)
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


def _print_report(
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
            console, f"{table.dataset}  {table.metric}", render.grid(table), "l" + "r" * len(table.columns), rule=True
        )
    lines = [render.CELLS_NOTE]
    if any(not column.ours for table in shown for column in table.columns):
        lines.append(render.PUBLISHED_NOTE)
    _print_lines(console, lines)
    able, few = ([c for c in compared if math.isnan(c.p) == lacks] for lacks in (False, True))
    for (dataset, metric), found in groupby(able, key=lambda c: (c.dataset, c.metric)):
        cells = render.comparison_grid(shortened(found))
        _print_grid(console, f"{dataset}  {metric}, compared", cells, render.COMPARED_SIDES)
    lines = [render.COMPARED_NOTE] if able else []
    lines += [f"not distinguishable: {len(few)} comparisons with too few runs, listed in report.md"] if few else []
    lines += [*notes, *render.alarms(compared)]
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
