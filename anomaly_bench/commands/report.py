"""`bench report`: every table of finished runs, printed, as files and as a page."""

from __future__ import annotations

from argparse import Namespace
from itertools import groupby
from operator import methodcaller
from pathlib import Path

from rich.console import Console

from anomaly_bench.errors import UserError
from anomaly_bench.files import write_atomic
from anomaly_bench.html_report.build import write_html
from anomaly_bench.results import text
from anomaly_bench.results.aggregate import summarise
from anomaly_bench.results.collect import collect
from anomaly_bench.results.comparisons import comparisons, skipped
from anomaly_bench.results.terminal import print_report


def report_command(arguments: Namespace) -> int:
    """Run `bench report`."""
    write_report(arguments.outputs or "outputs")
    return 0


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
    files = {"runs.csv": text.long_csv(collected.rows), "report.tex": text.latex(tables, compared)}
    files["report.md"] = text.markdown(tables, collected, compared, notes)
    if compared:
        files["comparisons.csv"] = text.comparisons_csv(compared)
    for dataset, group in groupby(tables, key=lambda table: table.dataset):
        files[f"table_{dataset}.csv"] = text.wide_csv(list(group))
    for name, content in files.items():
        write_atomic(target / name, methodcaller("write", content.encode()))
    console = console or Console()
    print_report(console, tables, compared, notes, collected, target)
    page = write_html(collected, tables, compared, notes, target)
    console.print(f"to read in a browser: {page}", markup=False, highlight=False, soft_wrap=True)
    return target
