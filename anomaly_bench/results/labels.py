"""One name for each category and each setting of many runs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from anomaly_bench.errors import NAME
from anomaly_bench.files import sha256

if TYPE_CHECKING:
    from anomaly_bench.results.collect import Row


def one_category_each(rows: list[Row]) -> list[Row]:
    """Return the rows; image folders of one name in different places become the categories lineA_parts, lineB_parts."""
    places: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in rows:
        places[row.dataset, row.category].add(row.place)

    def category_of(row: Row) -> str:
        others = places[row.dataset, row.category]
        if len(others) == 1:
            return row.category
        parent = Path(row.place).parent.name
        if len({Path(place).parent.name for place in others}) < len(others) or not NAME.fullmatch(parent):
            parent = sha256(row.place)[:6]
        return f"{parent}_{row.category}"[:64]

    return [replace(row, category=category_of(row)) for row in rows]


def one_label_each(rows: list[Row]) -> list[Row]:
    """Return the rows with the `setting_labels` of their data set."""
    datasets: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        datasets[row.dataset].append(row)
    labels = {dataset: setting_labels(found) for dataset, found in datasets.items()}
    return [replace(row, label=labels[row.dataset][row.setting]) for row in rows]


def setting_labels(rows: Iterable[Row]) -> dict[str, str]:
    """Return one label for each setting: the shortest that was typed for one of its runs.

    Different settings with equal labels (a default or a weights file has changed) are told apart by their checksum.
    """
    labels: dict[str, str] = {}
    for row in rows:
        labels[row.setting] = min(labels.get(row.setting, row.label), row.label, key=lambda label: (len(label), label))
    counts = Counter(labels.values())
    return {key: f"{label} #{key}" if counts[label] > 1 else label for key, label in labels.items()}
