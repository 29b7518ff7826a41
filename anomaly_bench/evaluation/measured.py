"""Measuring with a progress bar, warnings in single lines, and the metrics as JSON."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from anomaly_bench.metrics import Measurement, measure
from anomaly_bench.runs.json_files import strict


def progress() -> Any:
    """Return rich's `track` on standard error, silent unless that is a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return partial(track, console=console, transient=True, disable=not console.is_terminal)


def measure_with_progress(
    name: str,
    scores: np.ndarray,
    labels: np.ndarray,
    maps: Sequence[np.ndarray] | None,
    masks: Sequence[np.ndarray] | None,
    **options: Any,
) -> Measurement:
    """Return what `measure` does, with a progress bar; its warnings become lines on standard error, after `name`."""
    with warnings_in_lines(f"{name}: "):
        return measure(scores, labels, maps, masks, track=progress(), **options)


@contextmanager
def warnings_in_lines(name: str = "") -> Iterator[None]:
    """Turn each warning of what is inside into one line on standard error, after `name`."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for message in dict.fromkeys(str(warning.message) for warning in caught):
        sys.stderr.write(f"bench: {name}{message}\n")


def print_json(found: dict[str, Measurement]) -> None:
    """Print {name: {"metrics", "intervals", "bounds", "how"}}; NaN, which JSON lacks, becomes null."""
    value = {
        name: {"metrics": m.metrics, "intervals": m.intervals, "bounds": m.bounds, "how": m.how}
        for name, m in found.items()
    }
    sys.stdout.write(json.dumps(strict(value), indent=1, ensure_ascii=False) + "\n")
