"""What choosing on the test images gains, method by method: python scripts/protocol_audit.py OUT... [--write [PLACE]].

OUT: folders of finished runs, trained with `track_test=true` and, for the thresholds, with `calibration_share=0.2`.
A line for each method and figure, a column for each data set, then the mean over all of them.  --write: into
docs/results.md, between its marks of this name (audit).
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pages
from write_results import PLACE, replace_between

from anomaly_bench.results.collect import Row, collect
from anomaly_bench.results.grid import Grid, markdown_table
from anomaly_bench.results.oracle import CHOSEN_NOTE, Gain, gains

HEADINGS = ("method", "chosen", "figure")
TOTALS = ("own, mean of all", "chosen, mean of all", "gain, mean of all", "runs")


def main() -> None:
    """Collect the runs and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outputs", nargs="+")
    parser.add_argument("--write", nargs="?", const="audit", metavar="PLACE")
    arguments = parser.parse_args()
    rows = [row for folder in arguments.outputs for row in collect(folder).rows]
    notes = [CHOSEN_NOTE, "", *setting_lines(rows), pages.provenance("torch")]
    text = "\n".join([*markdown_table(audit(rows)), "", *notes])
    print(text)
    if arguments.write:
        replace_between(f"<!-- {arguments.write}: begin -->", f"<!-- {arguments.write}: end -->", lambda _: text)


def audit(rows: Sequence[Row]) -> Grid:
    """Return a line for each setting and figure: the gain on each data set, then the means over all of them."""
    labels = Counter(label.partition(" ")[0] for label in {row.label for row in rows})
    heads = [row.label.partition(" ")[0] for row in rows]
    named = [
        replace(row, label=name, setting=name)
        for row, head in zip(rows, heads, strict=True)
        for name in [head if labels[head] == 1 else PLACE.sub("", row.label)]
    ]
    places = list(dict.fromkeys((row.dataset, row.category) for row in sorted(rows, key=lambda row: row.dataset)))
    each = [by_figure([row for row in named if (row.dataset, row.category) == place]) for place in places]
    cells = [[*HEADINGS, *(category for _, category in places), *TOTALS]]
    for key, gain in by_figure(named).items():
        totals = [f"{gain.own:.3f}", f"{gain.chosen:.3f}", gain_text(gain), str(gain.runs)]
        cells.append([*key, *(gain_text(found[key]) if key in found else "" for found in each), *totals])
    return Grid(cells, "lll" + "r" * (len(places) + len(TOTALS)))


def by_figure(rows: Sequence[Row]) -> dict[tuple[str, str, str], Gain]:
    """Return method, choice and figure -> what the choice gains."""
    return {(gain.setting, gain.choice, gain.metric): gain for gain in gains(rows)}


def gain_text(gain: Gain) -> str:
    """Return a gain with its interval, which a single run does not have."""
    return f"{gain.gain:+.3f}" + ("" if math.isnan(gain.low) else f" [{gain.low:+.3f}, {gain.high:+.3f}]")


def setting_lines(rows: Sequence[Row]) -> list[str]:
    """Return what each method was trained with, and how many points of its training were scored."""
    points: dict[str, set[int]] = {}
    for row in rows:
        points.setdefault(PLACE.sub("", row.label), set()).update({row.oracle["of"]} if row.oracle else ())
    told = {label: f"{max(counts)} points" if counts else "no training" for label, counts in points.items()}
    return [f"- `{label}`: {told[label]}" for label in sorted(told)]


if __name__ == "__main__":
    main()
