"""Scores of normal images that a run was not trained on, and the thresholds that they give.  Reading needs no torch."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np

from anomaly_bench.errors import UserError
from anomaly_bench.files import csv_text
from anomaly_bench.metrics.calibration import calibrate, clopper_pearson, normals_needed
from anomaly_bench.runs.folder import CALIBRATION, FOLDS, RunFolder, ScoreRow

FALSE_ALARMS, CONFIDENCE = 0.05, 0.95  # where nothing else is requested
SCORED = {"image": "images' scores", "pixel": "maps' pixels"}  # what is compared with the threshold of each level
LEVELS = tuple(SCORED)
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


def threshold_entry(
    level: str,
    rows: Sequence[CalibrationRow],
    name: str,
    rate: float,
    confidence: float,
    test: Sequence[ScoreRow],
    peaks: np.ndarray | None,
) -> dict[str, Any]:
    """Return what the manifest holds of a threshold: its promise, where it comes from, and figures of the test images.

    name: the file of the calibration scores.  peaks: the largest value of each test image's map, [N]; None where they
    are not stored.  Raises UserError where the method has no such scores.
    """
    values = np.array([value for row in rows if (value := row.at(level)) is not None])
    if not len(values):
        raise UserError("--per", f"'{level}' given, but the method gives no maps", "--per image")
    found = calibrate(values, rate, confidence)
    source = " and ".join(dict.fromkeys(row.source for row in rows))
    entry = {**found._asdict(), "file": name, "source": source}
    if name == FOLDS:  # each was scored by a model that had seen fewer images than this one
        entry |= {"promised": min(1.0, 2 * found.promised), "approximate": True}
    tested = np.array([row.score for row in test]) if level == "image" else peaks
    return entry if tested is None else {**entry, "test": test_figures(test, tested, found.threshold)}


def test_figures(rows: Sequence[ScoreRow], values: np.ndarray, threshold: float) -> dict[str, Any]:
    """Return the false alarms among normal test images with their Clopper-Pearson interval, and the defects found.

    values: [N], what is compared with the threshold.  `found` has (found, all) of each kind of defect.
    """
    above = values > threshold
    alarms = [bool(a) for a, row in zip(above, rows, strict=True) if not row.label]
    found: dict[str, list[int]] = {}
    for a, row in zip(above, rows, strict=True):
        if row.label:
            counts = found.setdefault(row.kind, [0, 0])
            counts[0] += int(a)
            counts[1] += 1
    interval = clopper_pearson(sum(alarms), len(alarms)) if alarms else (0.0, 1.0)
    return {"false_alarms": sum(alarms), "normal": len(alarms), "interval": list(interval), "found": found}


def calibrate_run(folder: RunFolder, peaks: np.ndarray | None, rows: Sequence[CalibrationRow]) -> None:
    """Store the scores of the images that were held out, if there are any, and the thresholds of every level.

    peaks: the largest value of each test image's map, [N]; None without maps.
    """
    if not rows:
        return
    write_rows(folder, CALIBRATION, rows)
    levels = [level for level in LEVELS if rows[0].at(level) is not None]
    request = (CALIBRATION, FALSE_ALARMS, CONFIDENCE)
    found = {level: threshold_entry(level, rows, *request, folder.scores, peaks) for level in levels}
    folder.update(thresholds=found)
    for level, entry in found.items():
        log.info("threshold of the %s: %s; %s", SCORED[level], promise(entry), test_line(entry))


def promise(entry: Mapping[str, Any]) -> str:
    """Return in one sentence what a threshold promises and, where that is less than requested, what that would take."""
    rate, confidence, n = percent(entry["rate"]), percent(entry["confidence"]), entry["n"]
    images = f"{n} normal images"
    if entry.get("approximate"):
        most = percent(entry["promised"])
        return f"about {most} false alarms at most, without a guarantee ({images}, {entry['source']})"
    if entry["promised"] <= entry["rate"]:
        return f"at most {rate} false alarms ({confidence} confidence, {images})"
    needed = normals_needed(entry["rate"], entry["confidence"])
    promised = percent(entry["promised"])
    return f"{rate} at {confidence} needs {needed} normal images, you have {n}: what {n} can promise is {promised}"


def test_line(entry: Mapping[str, Any]) -> str:
    """Return `on the test images: 2 of 41 normals (0.6-16.5 %), 87 of 119 defects found`."""
    if "test" not in entry:
        return "its maps of the test images are not stored"
    test = entry["test"]
    low, high = (f"{100 * bound:.1f}" for bound in test["interval"])
    found, total = (sum(counts) for counts in zip(*test["found"].values(), strict=True)) if test["found"] else (0, 0)
    alarms = f"{test['false_alarms']} of {test['normal']} normals ({low}-{high} %)"
    return f"on the test images: {alarms}, {found} of {total} defects found"


def percent(share: float) -> str:
    """Return a share in percent, with two digits, close to all with four.

    >>> percent(0.05), percent(0.0893), percent(0.001), percent(0.995)
    ('5 %', '8.9 %', '0.1 %', '99.5 %')
    """
    return f"{100 * share:.{4 if share > 0.9 else 2}g} %"
