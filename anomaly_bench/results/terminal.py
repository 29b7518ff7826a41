"""What a person reads after a run (`print_run`), after `bench eval --maps` and over many runs (`print_report`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from anomaly_bench.console import new_table, print_lines, size_text
from anomaly_bench.errors import UserError
from anomaly_bench.results import text
from anomaly_bench.results.aggregate import MAIN, Table, at_most, four, in_order, published_cell, short
from anomaly_bench.results.collect import CONFIG, Collected, measurement, method_config
from anomaly_bench.results.comparisons import Comparison, alarms, shortened
from anomaly_bench.results.grid import ABSENT, Grid
from anomaly_bench.results.oracle import CHOSEN_NOTE, gains_by_dataset, oracle_line
from anomaly_bench.results.published import Published, published
from anomaly_bench.results.remarks import remarks
from anomaly_bench.runs.calibration import stored_thresholds
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.promise import threshold_lines
from anomaly_bench.runs.stored_run import MANIFEST

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from anomaly_bench.metrics import Measurement


def print_run(folder: RunFolder, console: Console | None = None) -> None:
    """Print a finished run's metrics, the published figures for its very setting, and how they came about.

    Raises UserError where the folder holds no run.
    """
    if not (manifest := folder.manifest):
        raise UserError(str(folder.path), "no run is here", "`bench list runs` shows where runs are")
    metrics, method = folder.metrics, method_config((folder.path / CONFIG).read_bytes())
    figures = published(manifest["method"], method, manifest["dataset"], manifest["category"])
    figures = [figure for figure in figures if figure.metric in metrics]
    components = {f"{name} alone": values for name, values in manifest.get("parts", {}).items()}
    if oracle := manifest.get("oracle"):
        components["oracle (chosen on test images)"] = oracle["metrics"]
    print_lines(_title(manifest), console=console, style="bold")
    _print_metrics(metrics, manifest, console, "ours", components, figures)
    lines = list(dict.fromkeys(map(str, figures))) or ["no published figures for this setting"]
    lines += [oracle_line(oracle)] if oracle else []
    lines.append(f"measured: {measurement(manifest)}")
    for level, entry in stored_thresholds(manifest, folder.path / MANIFEST).items():
        lines += threshold_lines(level, entry)
    lines += [f"protocol: {line}" for line in manifest.get("protocol", [])]
    size = [f"on disk: {size_text(manifest['bytes'])}"] if "bytes" in manifest else []
    print_lines(*lines, *_stages(manifest), *size, f"run: {folder.path}", console=console)


def run_line(folder: RunFolder) -> str:
    """Return a finished run in one line: setting, data, seed, main metrics."""
    metrics = folder.metrics
    return "  ".join([_title(folder.manifest), *(f"{key} {four(metrics[key])}" for key in MAIN if key in metrics)])


def table_to_log(folder: RunFolder) -> None:
    """Append what `print_run` prints to the run's log.txt, if that can be written."""
    from rich.console import Console

    from anomaly_bench.runs.logs import file_log

    with suppress(UserError, OSError), closing(file_log(folder.path)) as handler:
        print_run(folder, Console(file=handler.stream, width=120))


def print_measured(found: Mapping[str, Measurement], lines: Sequence[str], console: Console | None = None) -> None:
    """Print the metrics of one category, or a line for each of several and their mean; then `lines`, and how the
    metrics came about."""
    from rich.box import SIMPLE_HEAD

    records = [{"measurement": m.record()} for m in found.values()]
    if len(found) == 1:
        (m,) = found.values()
        _print_metrics(m.metrics, records[0], console, "value")
    else:
        names = in_order({name for m in found.values() for name in m.metrics})
        cells = [["category", *(name.replace("_", "\n") for name in names)]]
        cells += [[category, *(four(m.metrics[name]) for name in names)] for category, m in found.items()]
        cells.append(["mean", *(four(fmean(m.metrics[name] for m in found.values())) for name in names)])
        narrow: dict[str, Any] = {"box": SIMPLE_HEAD, "pad_edge": False, "padding": 0}  # ten metrics in 80 columns
        print_table(cells, "l" + "r" * len(names), console, rule=len(found), **narrow)
    print_lines(*lines, *dict.fromkeys(f"measured: {measurement(record)}" for record in records), console=console)


def _print_metrics(
    metrics: Mapping[str, float],
    manifest: Mapping[str, Any],
    console: Console | None,
    heading: str,
    components: Mapping[str, Mapping[str, float | None]] | None = None,
    figures: Sequence[Published] = (),
) -> None:
    """Print a line for each metric: its value below `heading`, interval, error bound, components, published figures."""
    measured, names = measurement(manifest), in_order(metrics)
    columns: dict[str, Sequence[str | Text]] = {"metric": names, heading: [four(metrics[name]) for name in names]}
    if measured.intervals:
        columns[f"{measured.level:.0%} interval"] = [_interval(measured.intervals.get(name)) for name in names]
    if measured.bounds:
        columns["largest error"] = [at_most(measured.bounds.get(name, 0)) for name in names]
    for component, values in (components or {}).items():
        columns[component] = [four(math.nan if (v := values.get(name)) is None else v) for name in names]
    quoted = {(figure.metric, figure.variant): figure for figure in figures}
    for variant in dict.fromkeys(figure.variant for figure in figures):
        columns[variant] = [_quote(quoted.get((name, variant))) for name in names]
    print_table([list(columns), *zip(*columns.values(), strict=True)], "l" + "r" * (len(columns) - 1), console)


def _interval(interval: tuple[float, float] | None) -> str:
    return ABSENT if interval is None or math.isnan(interval[0]) else "{:.4f} – {:.4f}".format(*interval)


def _quote(figure: Published | None) -> Text:
    from rich.text import Text

    style = "yellow" if figure and figure.confidence == "unverified" else ""
    return Text(text.cell_text(published_cell(figure)), style=style)


def _title(manifest: Mapping[str, Any]) -> str:
    names = dict.fromkeys((manifest["dataset"], manifest["category"]))  # a data set of one category is its own category
    status = "" if manifest["status"] == "done" else f"  ({manifest['status']})"
    return f"{short(manifest['label'])}  {'/'.join(names)}  seed {manifest['seed']}{status}"


def _stages(manifest: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, stage in manifest["stages"].items():
        measured = {"{:.1f} s": stage.get("seconds"), "peak memory {:.0f} MB": stage.get("peak_memory_mb")}
        costs = [text.format(value) for text, value in measured.items() if value is not None]
        lines.append(f"{name}: {', '.join(costs) or 'not measured'}")
    return lines


def print_report(
    console: Console,
    tables: Sequence[Table],
    compared: Sequence[Comparison],
    notes: Sequence[str],
    collected: Collected,
    target: Path,
) -> None:
    """Print the main metrics, the comparisons that can tell something, warnings, and what was left out."""
    shown = [table for table in tables if table.metric in MAIN]
    for table in shown:
        _print_grid(f"{table.dataset}  {table.metric}", text.table_grid(table), console)
    quoted = any(not column.ours for table in shown for column in table.columns)
    print_lines(text.CELLS_NOTE, *([text.PUBLISHED_NOTE] if quoted else []), console=console)
    said = remarks(collected.rows)
    print_lines(*(f"{name}: {remark}" for name in said for remark in said[name]), console=console)
    able, too_few = ([c for c in compared if math.isnan(c.p) == lacks] for lacks in (False, True))
    for dataset, metric, found in text.by_metric(able):
        _print_grid(f"{dataset}  {metric}, compared", text.comparison_grid(shortened(found)), console)
    gained = gains_by_dataset(collected.rows)
    for dataset, grid in gained.items():
        _print_grid(f"{dataset}  chosen on the test images", grid, console)
    lines = [*([text.COMPARED_NOTE] if able else []), *([CHOSEN_NOTE] if gained else [])]
    if too_few:
        lines.append(f"too few runs: {len(too_few)} comparisons, listed in report.md")
    lines += [*notes, *alarms(compared)]
    lines.append(f"{len(collected.rows)} finished runs; left out: {collected.left_out_line()}")
    print_lines(*lines, *map(str, collected.left_out), f"written to {target}", console=console)


def _print_grid(title: str, grid: Grid, console: Console) -> None:
    print_lines(title, console=console, style="bold")
    print_table(grid.cells, grid.sides, console, grid.rule)


def print_table(
    cells: Sequence[Sequence[str | Text]],
    sides: str,
    console: Console | None = None,
    rule: int | None = None,
    **options: Any,
) -> None:
    """Print a table: its headings, then its lines.

    sides: `l` or `r` for each column.  rule: the line, counted from 0, above which a rule is drawn; none above the
    first.  options: of `rich.table.Table`.
    """
    from rich.console import Console
    from rich.text import Text

    headings, *lines = cells
    table = new_table([str(heading) for heading in headings], sides, **options)
    for column, heading in zip(table.columns, headings, strict=True):
        column.min_width = 15 if heading == "verdict" else None  # `distinguishable` on one line
    for i, line in enumerate(lines, 1):
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in line), end_section=i == rule)
    (console or Console()).print(table)
