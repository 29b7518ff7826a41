"""What a threshold promises, in words, and what it promises where nothing else is requested.  Imports neither torch nor
NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FALSE_ALARMS, CONFIDENCE = 0.05, 0.95  # where nothing else is requested
SCORED = {"image": "images' scores", "pixel": "maps' pixels"}  # what is compared with the threshold of each level
LEVELS = tuple(SCORED)
WAYS = (
    "train with calibration_share=0.1, or put normal images into the data set's validation/good, or call "
    "`bench threshold RUN --normals DIR`; for very few images --folds 5"
)


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


def side_of(score: float, entry: Mapping[str, Any]) -> str:
    """Return on which side of a threshold a score lies, and what that promises: `above the threshold that ...`."""
    side = "above" if score > entry["threshold"] else "below"
    return f"{side} the threshold that promises {promised_text(entry)} false alarms at most"


def stated_rate(entry: Mapping[str, Any]) -> float:
    """Return the share of false alarms that a threshold promises at most: the requested one, or what could be kept."""
    return max(entry["rate"], entry["promised"])


def test_line(entry: Mapping[str, Any]) -> str:
    """Return `on the test images: 2 of 41 normals (0.6-16.5 %), 87 of 119 defects found`, and what contradicts it.

    For the threshold of pixels, also SegF1 where it was measured.
    """
    if "test" not in entry:
        return "its maps of the test images are not stored"
    found, total = defects_found(entry["test"])
    line = f"on the test images: {alarms_text(entry['test'])}, {found} of {total} defects found"
    if "seg_f1" in entry["test"]:
        line += f", SegF1 {entry['test']['seg_f1']:.4f}"
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
