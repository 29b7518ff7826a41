"""The report in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from anomaly_bench.results.aggregate import Table, baselines_below, metric_name
from anomaly_bench.results.collect import Collected
from anomaly_bench.results.comparisons import Comparison, alarms
from anomaly_bench.results.decisions import DECISIONS_NOTE, decision_grid
from anomaly_bench.results.grid import markdown_table
from anomaly_bench.results.oracle import CHOSEN_NOTE, gains_by_dataset
from anomaly_bench.results.paper_tables import paper_comparisons, paper_tables
from anomaly_bench.results.remarks import remarks
from anomaly_bench.results.text import COMPARED_NOTE, PUBLISHED_NOTE, baselines_markdown


def report_markdown(
    tables: Sequence[Table],
    collected: Collected,
    compared: Sequence[Comparison] = (),
    notes: Sequence[str] = (),
    one_table: bool = False,
) -> str:
    """Return the whole report: tables, comparisons and notes, sources of published figures, what was left out.

    What the figures of a data set must be read with stands below its first table.  one_table: as of `paper_tables`.
    """
    said = remarks(collected.rows)
    text = ["# Report", "", f"{len(collected.rows)} finished runs; left out: {collected.left_out_line()}.", ""]
    below = {(table.dataset, metric_name(table.metric)): baselines_below(table) for table in tables}
    for dataset, group in groupby(paper_tables(tables, compared, collected.rows, one_table), key=lambda t: t.dataset):
        text += [f"## {dataset}", ""]
        for table in group:
            text += [f"### {table.title}", "", table.caption, "", *markdown_table(table.grid)]
            text += [*(baselines_markdown(found) if (found := below.get((dataset, table.title))) else []), ""]
            text += [line for remark in said.pop(dataset, []) for line in (f"**{remark}.**", "")]
    text += _decisions(collected)
    if gained := gains_by_dataset(collected.rows):
        text += ["## Chosen on the test images", "", CHOSEN_NOTE, ""]
        for name, grid in gained.items():
            text += [f"### {name} chosen", "", *markdown_table(grid), ""]
    text += ["## Comparisons", "", COMPARED_NOTE, ""] if compared else []
    for note in (*notes, *(f"**{alarm}**" for alarm in alarms(compared))):
        text += [note, ""]
    for table in paper_comparisons(compared):
        text += [f"### {table.caption}", "", *markdown_table(table.grid), ""]
    if sources := dict.fromkeys(str(figure) for table in tables for c in table.columns for figure in c.quoted):
        text += ["## Published figures", "", PUBLISHED_NOTE, "", *(f"- {source}" for source in sources), ""]
    if collected.left_out:
        text += ["## Left out", "", *(f"- {item}" for item in collected.left_out), ""]
    return "\n".join(text)


def _decisions(collected: Collected) -> list[str]:
    """Return the lines of the thresholds; none where no run has any."""
    if not any(row.thresholds for row in collected.rows):
        return []
    text = ["## Decisions", "", DECISIONS_NOTE, ""]
    for dataset, rows in groupby(sorted(collected.rows, key=lambda row: row.dataset), key=lambda row: row.dataset):
        if len((grid := decision_grid(list(rows))).cells) > 1:
            text += [f"### {dataset} decisions", "", *markdown_table(grid), ""]
    return text
