"""Measuring with a progress bar, and what is said of it: a table for people, JSON for programs."""

from __future__ import annotations

import json
import math
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from statistics import fmean
from typing import Any

import numpy as np

from anomaly_bench.metrics import Measurement, measure


def progress() -> Any:
    """rich's `track` on standard error, silent unless that is a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return partial(track, console=console, transient=True, disable=not console.is_terminal)


def measured(
    name: str,
    scores: np.ndarray,
    labels: np.ndarray,
    maps: Sequence[np.ndarray] | None,
    masks: Sequence[np.ndarray] | None,
    **options: Any,
) -> Measurement:
    """`measure` with a progress bar, and its warnings on standard error in one line each after `name`."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        measurement = measure(scores, labels, maps, masks, track=progress(), **options)
    for message in dict.fromkeys(str(warning.message) for warning in caught):
        sys.stderr.write(f"bench: {name}: {message}\n")
    return measurement


def print_json(found: dict[str, Measurement]) -> None:
    """{name: {"metrics", "intervals", "bounds", "how"}}; NaN, which JSON lacks, becomes null."""
    value = {
        name: {"metrics": m.metrics, "intervals": m.intervals, "bounds": m.bounds, "how": m.how}
        for name, m in found.items()
    }
    plain = json.loads(json.dumps(value), parse_constant=lambda _: None)
    sys.stdout.write(json.dumps(plain, indent=1, ensure_ascii=False) + "\n")


def print_table(found: dict[str, Measurement], lines: Sequence[str]) -> None:
    """A line for each metric of one category, or for each of several categories and their mean; then `lines`."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    heads, *rows = _of_one(next(iter(found.values()))) if len(found) == 1 else _of_many(found)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, int(len(found) == 1)))  # ten metrics fit into 80 columns
    for i, head in enumerate(heads):
        table.add_column(Text(head), justify="right" if i else "left", overflow="fold")
    for i, row in enumerate(rows, 2):
        table.add_row(*map(Text, row), end_section=len(found) > 1 and i == len(rows))  # a rule above the mean
    if not console.is_terminal:  # a file or a pipe has no width
        console.width = 200
    console.print(table)
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _of_one(m: Measurement) -> list[list[str]]:
    heads = ["metric", "value"]
    heads += [f"{m.level:.0%} interval"] if m.intervals else []
    heads += ["largest error"] if m.bounds else []
    rows = [heads]
    for name, value in m.metrics.items():
        row = [name, _four(value)]
        if m.intervals:
            row.append(" – ".join(map(_four, m.intervals[name])) if name in m.intervals else "")
        if m.bounds:
            row.append(at_most(m.bounds.get(name, 0)))
        rows.append(row)
    return rows


def _of_many(found: dict[str, Measurement]) -> list[list[str]]:
    names = list(dict.fromkeys(name for m in found.values() for name in m.metrics))
    rows = [["category", *(name.replace("_", "\n") for name in names)]]
    rows += [[category, *(_four(m.metrics[name]) for name in names)] for category, m in found.items()]
    means = [_four(fmean(m.metrics[name] for m in found.values())) for name in names]
    return [*rows, ["mean", *means]]


def at_most(bound: float) -> str:
    """A bound to one digit, rounded up."""
    if np.isnan(bound) or not bound:
        return "undefined" if bound else "0"
    digits = math.floor(math.log10(bound))
    return f"{math.ceil(bound / 10.0**digits)}e{digits}"


def _four(value: float) -> str:
    return "undefined" if np.isnan(value) else f"{value:.4f}"
