"""Scores of normal images that a run was not trained on, and the thresholds that they give.  Reading needs no torch."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np

from anomaly_bench.errors import UserError
from anomaly_bench.files import csv_text
from anomaly_bench.metrics.calibration import Threshold, calibrate, normals_needed
from anomaly_bench.runs.folder import CALIBRATION, RunFolder

FALSE_ALARMS, CONFIDENCE = 0.05, 0.95  # where nothing else is requested
LEVELS = ("image", "pixel")  # what is compared with a threshold: an image's score, or the pixels of its map
log = logging.getLogger("anomaly_bench")


@dataclass(frozen=True)
class CalibrationRow:
    """A line of calibration.csv: a normal image that took no part in the training."""

    path: str
    source: str  # `held out`, `validation`, or the folder or fold that it comes from
    score: float
    map_max: float | None  # the largest value of its map; None where the method has no maps

    def at(self, level: str) -> float | None:
        """Return what is compared with the threshold of a level; pixels are not independent, an image's maximum is."""
        return self.score if level == "image" else self.map_max


def write_rows(folder: RunFolder, name: str, rows: Iterable[CalibrationRow]) -> None:
    """Write a file of calibration scores, with every digit."""
    lines = ([*(("" if v is None else repr(v) if isinstance(v, float) else v) for v in astuple(row))] for row in rows)
    folder.write_text(name, csv_text([["path", "source", "score", "map_max"], *lines]))


def read_rows(folder: RunFolder, name: str) -> list[CalibrationRow]:
    """Return the rows of such a file.  Raises UserError where it is missing or damaged."""
    file = folder.path / name
    try:
        folder.require_undamaged([name])
        with file.open(newline="", encoding="utf-8") as opened:
            return [
                CalibrationRow(r["path"], r["source"], float(r["score"]), float(r["map_max"]) if r["map_max"] else None)
                for r in csv.DictReader(opened)
            ]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(str(file), f"is missing or damaged: {error}", "bench threshold makes it anew") from error


def thresholds_of(rows: Sequence[CalibrationRow], rate: float, confidence: float) -> dict[str, Threshold]:
    """Return the threshold of each level that the rows have a value for."""
    values = {level: np.array([value for row in rows if (value := row.at(level)) is not None]) for level in LEVELS}
    return {level: calibrate(each, rate, confidence) for level, each in values.items() if len(each)}


def threshold_entry(threshold: Threshold, name: str, source: str) -> dict[str, Any]:
    """Return what the manifest holds of a threshold.  name: the file of the calibration scores.  source: of them."""
    return {**threshold._asdict(), "file": name, "source": source}


def calibrate_run(folder: RunFolder, rows: Sequence[CalibrationRow]) -> None:
    """Store the run's own calibration scores, if there are any, and the thresholds of every level."""
    if not rows:
        return
    source = " and ".join(dict.fromkeys(row.source for row in rows))
    write_rows(folder, CALIBRATION, rows)
    found = thresholds_of(rows, FALSE_ALARMS, CONFIDENCE)
    folder.update(thresholds={level: threshold_entry(t, CALIBRATION, source) for level, t in found.items()})
    for level, threshold in found.items():
        log.info("threshold of %s scores: %s", level, promise(threshold))


def promise(t: Threshold) -> str:
    """Return in one sentence what a threshold promises, and where that is less than requested, what that would take."""
    if t.kept:
        return (
            f"{t.threshold:.6g}, at most {percent(t.rate)} false alarms "
            f"({percent(t.confidence)} confidence, {t.n} normal images)"
        )
    needed = normals_needed(t.rate, t.confidence)
    return (
        f"{percent(t.rate)} at {percent(t.confidence)} needs {needed} normal images, you have {t.n}: "
        f"what {t.n} can promise is {percent(t.promised)} (threshold {t.threshold:.6g})"
    )


def percent(share: float) -> str:
    """Return a share in percent, with two digits at most.

    >>> percent(0.05), percent(0.0893), percent(0.001)
    ('5 %', '8.9 %', '0.1 %')
    """
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.4g} %"
