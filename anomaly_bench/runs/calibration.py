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
from anomaly_bench.runs.folder import CALIBRATION, CALIBRATIONS, FOLDS, MANIFEST, RunFolder, ScoreRow

FALSE_ALARMS, CONFIDENCE = 0.05, 0.95  # where nothing else is requested
SCORED = {"image": "images' scores", "pixel": "maps' pixels"}  # what is compared with the threshold of each level
LEVELS = tuple(SCORED)
WAYS = (
    "train with calibration_share=0.1, or put normal images into the data set's validation/good, or call "
    "`bench threshold RUN --normals DIR`; for very few images --folds 5"
)
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
    from anomaly_bench.metrics.calibration import calibrate  # with scipy, which takes long to import

    values = np.array([value for row in rows if (value := row.at(level)) is not None])
    if not len(values):
        raise UserError("--per", f"'{level}' given, but the method gives no maps", "--per image")
    found = calibrate(values, rate, confidence)
    source = " and ".join(dict.fromkeys(row.source for row in rows))
    entry = {**found._asdict(), "file": name, "source": source}
    if name == FOLDS:  # each was scored by a model that had seen fewer images than this one
        entry |= {"promised": min(1.0, 2 * found.promised), "approximate": True}
    return {**entry, **_tested(level, found.threshold, test, peaks)}


def _tested(level: str, threshold: float, test: Sequence[ScoreRow], peaks: np.ndarray | None) -> dict[str, Any]:
    """Return {"test": figures of the test images}; empty at the level of pixels without `peaks`."""
    tested = np.array([row.score for row in test]) if level == "image" else peaks
    return {} if tested is None else {"test": test_figures(test, tested, threshold)}


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


def tested_anew(folder: RunFolder) -> dict[str, Any]:
    """Return {"thresholds": ...} as in a run's manifest, with the figures of its test images as they are stored now.

    Empty where the run has no threshold.  Raises UserError for thresholds that no run can have written.
    """
    manifest = folder.manifest
    if not (found := stored_thresholds(manifest, folder.path / MANIFEST)):
        return {}
    peaks = folder.peaks()
    for level, entry in found.items():
        found[level] = manifest["thresholds"][level] | _tested(level, entry["threshold"], folder.scores, peaks)
    return {"thresholds": found}


def stored_thresholds(manifest: Mapping[str, Any], file: Path | str = MANIFEST) -> dict[str, dict[str, Any]]:
    """Return what a manifest holds of each level's threshold, as `threshold_entry` makes it; empty without thresholds.

    file: the manifest's, for the message.  Raises UserError for thresholds that no run can have written.
    """
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
        found["test"] = {**counts, "interval": (low, high), "found": kinds}
    return found


def promise(entry: Mapping[str, Any]) -> str:
    """Return in one sentence what a threshold promises and, where that is less than requested, what that would take."""
    rate, confidence, n = percent(entry["rate"]), percent(entry["confidence"]), entry["n"]
    images = f"{n} normal images"
    if entry.get("approximate"):
        most = percent(entry["promised"])
        return f"about {most} false alarms at most, without a guarantee ({images}, {entry['source']})"
    if entry["promised"] <= entry["rate"]:
        return f"at most {rate} false alarms ({confidence} confidence, {images})"
    from anomaly_bench.metrics.calibration import normals_needed

    needed = normals_needed(entry["rate"], entry["confidence"])
    promised = percent(entry["promised"])
    return f"{rate} at {confidence} needs {needed} normal images, you have {n}: what {n} can promise is {promised}"


def promised_text(entry: Mapping[str, Any]) -> str:
    """Return the share of false alarms that a threshold promises at most: `5 %`."""
    return f"about {percent(entry['promised'])}" if entry.get("approximate") else percent(stated_rate(entry))


def stated_rate(entry: Mapping[str, Any]) -> float:
    """Return the share of false alarms that a threshold promises at most: the requested one, or what could be kept."""
    return max(entry["rate"], entry["promised"])


def test_line(entry: Mapping[str, Any]) -> str:
    """Return `on the test images: 2 of 41 normals (0.6-16.5 %), 87 of 119 defects found`, and what contradicts it."""
    if "test" not in entry:
        return "its maps of the test images are not stored"
    found, total = defects_found(entry["test"])
    line = f"on the test images: {alarms_text(entry['test'])}, {found} of {total} defects found"
    return "; ".join(filter(None, [line, exceeded(entry)]))


def alarms_text(test: Mapping[str, Any]) -> str:
    """Return the false alarms with their interval: `2 of 41 normals (0.6-16.5 %)`."""
    low, high = (f"{100 * bound:.1f}" for bound in test["interval"])
    return f"{test['false_alarms']} of {test['normal']} normals ({low}-{high} %)"


def defects_found(test: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many anomalous test images are above the threshold, and how many there are."""
    counts = test["found"].values()
    return sum(found for found, _ in counts), sum(every for _, every in counts)


def exceeded(entry: Mapping[str, Any]) -> str:
    """Return a sentence where the interval of the false alarms excludes what was promised; else an empty one."""
    if "test" not in entry or entry["test"]["interval"][0] <= stated_rate(entry):
        return ""
    at_least = percent(entry["test"]["interval"][0])
    return (
        f"the normal test images score higher than the calibration images promise: at least {at_least} of such images "
        f"are above the threshold, at most {percent(stated_rate(entry))} were promised"
    )


def threshold_lines(level: str, entry: Mapping[str, Any]) -> list[str]:
    """Return a threshold with its promise, the figures of the test images, and the source of its calibration images."""
    head = f"{SCORED[level]}: above {entry['threshold']:.6g} is anomalous: {promise(entry)}"
    return [head, f"  {test_line(entry)}", f"  calibrated on normal images: {entry['source']}"]


def percent(share: float) -> str:
    """Return a share in percent, with two digits, close to all with four.

    >>> percent(0.05), percent(0.0893), percent(0.001), percent(0.995)
    ('5 %', '8.9 %', '0.1 %', '99.5 %')
    """
    return f"{100 * share:.{4 if share > 0.9 else 2}g} %"
