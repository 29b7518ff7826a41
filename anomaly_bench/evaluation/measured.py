"""Measure with a progress bar; print warnings as lines and metrics as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from anomaly_bench.console import track, warnings_in_lines
from anomaly_bench.metrics import Measurement, measure
from anomaly_bench.runs.json_files import strict


def measure_with_progress(
    name: str,
    scores: np.ndarray,
    labels: np.ndarray,
    maps: Sequence[np.ndarray] | None,
    masks: Sequence[np.ndarray] | None,
    ignored: Sequence[np.ndarray] | None = None,
    **options: Any,
) -> Measurement:
    """Call `measure` with a progress bar, and print its warnings on standard error in one line each after `name`."""
    with warnings_in_lines(f"{name}: "):
        return measure(scores, labels, maps, masks, ignored, track=track, **options)


def print_json(found: dict[str, Measurement]) -> None:
    """Print {name: {"metrics", "intervals", "bounds", "how"}}; NaN, which JSON lacks, becomes null."""
    keys = ("metrics", "intervals", "bounds", "how")
    value = {name: {key: getattr(m, key) for key in keys} for name, m in found.items()}
    sys.stdout.write(json.dumps(strict(value), indent=1, ensure_ascii=False) + "\n")
