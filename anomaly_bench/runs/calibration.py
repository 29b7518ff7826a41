"""Scores of normal images that a run was not trained on, and the thresholds that they give.  Reading needs no torch."""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_bench.errors import UserError
from anomaly_bench.files import csv_text
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.promise import CONFIDENCE, FALSE_ALARMS, LEVELS, SCORED, promise, test_line
from anomaly_bench.runs.stored_run import CALIBRATION, CALIBRATIONS, FOLDS, MANIFEST, ScoreRow, deciding_checksum

log = logging.getLogger("anomaly_bench")
Maps = Sequence[np.ndarray] | np.ndarray  # [H, W] of each image


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
    maps: Maps | None,
    masks: Sequence[np.ndarray] | None = None,
    ignored: Sequence[np.ndarray] | None = None,
) -> dict[str, Any]:
    """Return what the manifest holds of a threshold: its promise, where it comes from, and figures of the test images.

    name: the file of the calibration scores.  maps: [H, W] of each test image; None where they are not stored.  masks:
    bool of the same shapes; None where they are not at hand.  ignored: likewise, pixels that do not count.  Raises
    UserError where the method has no such scores.
    """
    from anomaly_bench.metrics.calibration import calibrate  # with scipy, which takes long to import

    values = np.array([value for row in rows if (value := row.at(level)) is not None])
    if not len(values):
        raise UserError("--per", f"'{level}' given, but the method gives no maps", "--per image")
    found = calibrate(values, rate, confidence)
    source = " and ".join(dict.fromkeys(row.source for row in rows))
    entry = {**found._asdict(), "file": name, "source": source}
    if name == FOLDS:  # each was scored by a model that had seen fewer images than this one
        entry |= {"promised": min(1.0, 2 * found.promised), "approximate": True}
    return {**entry, **_tested(level, found.threshold, test, maps, masks, ignored)}


def _tested(
    level: str,
    threshold: float,
    test: Sequence[ScoreRow],
    maps: Maps | None,
    masks: Sequence[np.ndarray] | None,
    ignored: Sequence[np.ndarray] | None,
) -> dict[str, Any]:
    """Return {"test": figures of the test images}, of pixels with `seg_f1` where there are masks.

    Empty at the level of pixels without maps, which are read one after the other.
    """
    if level == "image":
        return {"test": test_figures(test, np.array([row.score for row in test]), threshold)}
    if maps is None:
        return {}
    peaks = [peak(values, None if ignored is None else ignored[i]) for i, values in enumerate(maps)]
    figures = test_figures(test, np.array(peaks, np.float64), threshold)
    if masks is not None and any(mask.any() for mask in masks):
        from anomaly_bench.metrics import seg_f1

        figures["seg_f1"] = seg_f1(maps, masks, threshold, ignored=ignored)
    return {"test": figures}


def peak(values: np.ndarray, ignored: np.ndarray | None) -> float:
    """Return the largest value of a map [H, W] that is not ignored (bool [H, W], or None); -inf where all are."""
    return float(values.max() if ignored is None else values.max(where=~ignored, initial=-np.inf))


def test_figures(rows: Sequence[ScoreRow], values: np.ndarray, threshold: float) -> dict[str, Any]:
    """Return the false alarms among normal test images with their Clopper-Pearson interval, and the defects found.

    values: [N], what is compared with the threshold.  `found` has (found, all) of each kind of defect.
    """
    from anomaly_bench.metrics.calibration import clopper_pearson

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


def calibrate_run(
    folder: RunFolder,
    maps: Maps | None,
    masks: Sequence[np.ndarray] | None,
    rows: Sequence[CalibrationRow],
    ignored: Sequence[np.ndarray] | None = None,
) -> None:
    """Store the scores of the images that were held out, if there are any, and the thresholds of every level.

    maps, masks, ignored: [H, W] of each test image; None without.
    """
    if not rows:
        return
    write_rows(folder, CALIBRATION, rows)
    levels = [level for level in LEVELS if rows[0].at(level) is not None]
    request = (CALIBRATION, FALSE_ALARMS, CONFIDENCE)
    found = {level: threshold_entry(level, rows, *request, folder.scores, maps, masks, ignored) for level in levels}
    folder.update(thresholds=found)
    for level, entry in found.items():
        log.info("threshold of the %s: %s; %s", SCORED[level], promise(entry), test_line(entry))


def tested_anew(
    folder: RunFolder, masks: Sequence[np.ndarray] | None, ignored: Sequence[np.ndarray] | None
) -> dict[str, Any]:
    """Return {"thresholds": ...} as in a run's manifest, with the figures of its test images as they are stored now.

    masks, ignored: bool [H, W] of each test image; None where there are none.  Empty where the run has no threshold.
    Raises UserError for thresholds that no run can have written.
    """
    manifest = folder.manifest
    if not (found := stored_thresholds(manifest, folder.path / MANIFEST)):
        return {}
    maps = folder.maps
    for level, entry in found.items():
        tested = _tested(level, entry["threshold"], folder.scores, maps, masks, ignored)
        found[level] = manifest["thresholds"][level] | tested
    return {"thresholds": found}


def stored_thresholds(manifest: Mapping[str, Any], file: Path | str = MANIFEST) -> dict[str, dict[str, Any]]:
    """Return what a manifest holds of each level's threshold, as `threshold_entry` makes it; empty without thresholds.

    file: the manifest's, for the message.  Raises UserError for thresholds that no run can have written.
    """
    if manifest.get("deciding_checksum", deciding_checksum(manifest)) != deciding_checksum(manifest):
        what = "its thresholds, or the ranges of its training images, were changed or damaged after they were written"
        raise UserError(str(file), what, "bench threshold sets them anew; force=true trains the run anew")
    try:
        stored = manifest.get("thresholds", {})
        if unknown := [*stored.keys() - set(LEVELS)]:
            raise ValueError(f"'{unknown[0]}' is no level")
        return {level: _checked(stored[level]) for level in LEVELS if level in stored}
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(str(file), f"its thresholds are damaged: {what}", "bench threshold sets them anew") from error


def _checked(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry whose values have the types and ranges that they must have; raises an error otherwise."""
    numbers = {key: float(entry[key]) for key in ("threshold", "rate", "confidence", "promised")}
    sound = {key: 0 < numbers[key] < 1 for key in ("rate", "confidence")}
    sound |= {"threshold": math.isfinite(numbers["threshold"]), "promised": 0 <= numbers["promised"] <= 1}
    sound["file"] = entry["file"] in CALIBRATIONS
    if wrong := [key for key, holds in sound.items() if not holds]:
        raise ValueError(f"{wrong[0]} {entry[wrong[0]]!r}")
    found = {**entry, **numbers, "n": int(entry["n"]), "source": str(entry["source"])}
    if "test" in entry:
        test = entry["test"]
        low, high = map(float, test["interval"])
        kinds = {str(kind): (int(some), int(every)) for kind, (some, every) in test["found"].items()}
        counts = {key: int(test[key]) for key in ("false_alarms", "normal")}
        f1 = {"seg_f1": float(test["seg_f1"])} if "seg_f1" in test else {}
        if not all(0 <= value <= 1 for value in f1.values()):
            raise ValueError(f"seg_f1 {test['seg_f1']!r}")
        found["test"] = {**counts, "interval": (low, high), "found": kinds, **f1}
    return found
