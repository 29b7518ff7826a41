"""`bench report`: every table of finished runs, printed, as files and as a page."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from rich.console import Console

from anomaly_bench.console import print_lines
from anomaly_bench.errors import UserError
from anomaly_bench.files import write_text
from anomaly_bench.html_report.build import write_html
from anomaly_bench.html_report.figures import FOLDER, require_matplotlib, write_figures
from anomaly_bench.results.aggregate import Table, summarise
from anomaly_bench.results.collect import Collected, collect
from anomaly_bench.results.comparisons import Comparison, compare_settings, skipped
from anomaly_bench.results.decisions import decisions_csv
from anomaly_bench.results.latex import report_latex
from anomaly_bench.results.markdown import report_markdown
from anomaly_bench.results.remarks import remarks
from anomaly_bench.results.terminal import print_report
from anomaly_bench.results.text import comparisons_csv, runs_csv, tables_csv


def report_command(arguments: Namespace) -> int:
    """Run `bench report`."""
    options = {"margin": arguments.margin, "one_table": arguments.one_table, "figures": arguments.figures}
    write_report(arguments.outputs, **options)
    return 0


def write_report(
    outputs: Path | str,
    target: Path | str | None = None,
    console: Console | None = None,
    margin: float = 0.0,
    one_table: bool = False,
    figures: str | None = None,
) -> Path:
    """`bench report`: tables of all finished runs below `outputs`, printed and written to `target` (<outputs>/report).

    Files: runs.csv (a line for each run), table_<dataset>.csv and .tex, decisions.csv (a line for each threshold),
    comparisons.csv, report.md, report.tex, index.html for a browser and what it needs.  Returns their folder.
    margin: as of `compare_settings`.  one_table: all metrics of a data set in one table of report.md and report.tex, in
    place of a table for each metric.  figures: pdf or svg, to write the charts as files for print too.  Raises
    UserError where there is no finished run, and without what figures need.
    """
    if figures:
        require_matplotlib(figures)
    collected = collect(outputs)
    if not collected.rows:
        raise UserError(str(outputs), f"no finished run; unfinished or damaged: {collected.left_out_line()}")
    tables, target = summarise(collected.rows), Path(target) if target else Path(outputs) / "report"
    compared = compare_settings(collected.rows, margin)
    notes = skipped(collected.rows)
    files = _files(collected, tables, compared, one_table)
    files["report.md"] = report_markdown(tables, collected, compared, notes, one_table)
    for name, content in files.items():
        write_text(target / name, content)
    console = console or Console()
    print_report(console, tables, compared, notes, collected, target)
    page = write_html(collected, tables, compared, notes, target)
    if figures:
        count = write_figures(collected.rows, tables, target, figures)
        print_lines(f"figures: {count} in {target / FOLDER}", console=console)
    print_lines(f"to read in a browser: {page}", console=console)
    return target


def _files(
    collected: Collected, tables: Sequence[Table], compared: Sequence[Comparison], one_table: bool
) -> dict[str, str]:
    """Return the name and content of each CSV and TeX file."""
    said = remarks(collected.rows)

    def latex(some: Sequence[Table], comparisons: Sequence[Comparison]) -> str:
        return report_latex(some, collected.rows, comparisons, said, one_table)

    found = {"runs.csv": runs_csv(collected.rows)}
    if any(row.thresholds for row in collected.rows):
        found["decisions.csv"] = decisions_csv(collected.rows)
    if compared:
        found["comparisons.csv"] = comparisons_csv(compared)
    for dataset, group in groupby(tables, key=lambda table: table.dataset):
        own = list(group)
        found[f"table_{dataset}.csv"] = tables_csv(own)
        found[f"table_{dataset}.tex"] = latex(own, [c for c in compared if c.dataset == dataset])
    return found | {"report.tex": latex(tables, compared)}
