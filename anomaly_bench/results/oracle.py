"""How `oracle` is shown: beside a run's figures and below the tables, never as a result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from anomaly_bench.results.aggregate import four, short
from anomaly_bench.results.collect import Row


def oracle_line(oracle: Mapping[str, Any]) -> str:
    """Return what a manifest's `oracle` is, for below the run's figures."""
    return (
        f"oracle: {oracle['state']}, the best of {oracle['of']} states of this training, chosen on the test images as "
        "the authors' code does; no result"
    )


def oracle_notes(rows: Sequence[Row]) -> list[str]:
    """Return a line for each run that has an `oracle`, for below the tables."""
    notes = []
    for row in rows:
        if row.oracle:
            place = "/".join(dict.fromkeys((row.dataset, row.category)))
            chosen, own = row.oracle["metrics"]["image_auroc"], row.metrics["image_auroc"]
            notes.append(
                f"oracle, chosen on test images, in no table: {short(row.label)} {place} seed {row.seed}: image_auroc "
                f"{four(chosen)} at {row.oracle['state']}, the best of {row.oracle['of']} states; last {four(own)}"
            )
    return notes
