"""Thresholds of runs as text: what they promise, and what became of the test images at them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from anomaly_bench.files import records_csv
from anomaly_bench.results.aggregate import settings
from anomaly_bench.results.collect import Row
from anomaly_bench.results.grid import ABSENT, Grid
from anomaly_bench.runs.promise import defects_found, percent, promised_text

DECISIONS_NOTE = (
    "Promised: at most this share of normal images is above the threshold, with this confidence. Test: what became "
    "of the test images at that threshold, which is no part of the promise; of several seeds the mean (lowest to "
    "highest). SegF1: F1 of all their pixels at that threshold."
)


def decisions_csv(rows: Sequence[Row]) -> str:
    """Return a CSV with one line for each run and level that has a threshold."""
    names = ["setting", "label", "method", "dataset", "category", "seed"]
    return records_csv(
        [
            {name: getattr(row, name) for name in names} | {"level": level} | _decision_record(entry)
            for row in rows
            for level, entry in row.thresholds.items()
        ]
    )


def _decision_record(entry: Mapping[str, Any]) -> dict[str, object]:
    """Return a threshold, its promise, and the figures of the test images where there are any."""
    record: dict[str, object] = {key: entry[key] for key in ("threshold", "n", "rate", "confidence", "promised")}
    record["source"] = entry["source"]
    if test := entry.get("test"):
        low, high = test["interval"]
        found, defects = defects_found(test)
        record |= {"false_alarms": test["false_alarms"], "normals": test["normal"], "low": low, "high": high}
        record |= {"found": found, "defects": defects} | ({"seg_f1": test["seg_f1"]} if "seg_f1" in test else {})
        for kind, (found, defects) in test["found"].items():
            record |= {f"{kind} found": found, f"{kind} defects": defects}
    return record


def decision_grid(rows: Sequence[Row]) -> Grid:
    """Return a line for each setting, category and level that has a threshold: means over the seeds."""
    cells = [
        [
            *("setting", "category", "level", "seeds", "promised", "confidence"),
            *("test: false alarms", "test: defects found", "test: SegF1"),
        ]
    ]
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for heading, runs in settings(rows).items():
        for row in sorted(runs, key=lambda row: row.category):
            for level, entry in row.thresholds.items():
                groups[heading, row.category, level].append(entry)
    for names, entries in groups.items():
        promised = dict.fromkeys(map(promised_text, entries))
        sure = dict.fromkeys(ABSENT if e.get("approximate") else percent(e["confidence"]) for e in entries)
        tests = [entry["test"] for entry in entries if "test" in entry]
        alarms = share_text([(test["false_alarms"], test["normal"]) for test in tests])
        found = share_text([defects_found(test) for test in tests])
        f1 = [test["seg_f1"] for test in tests if "seg_f1" in test]
        said = [" or ".join(promised), " or ".join(sure), alarms, found, _mean_text(f1)]
        cells.append([*names, str(len(entries)), *said])
    if all(line[-1] == ABSENT for line in cells[1:]):  # no masks, or measured by an earlier version
        cells = [line[:-1] for line in cells]
    return Grid(cells, "lllrrrrrr"[: len(cells[0])])


def _mean_text(values: Sequence[float]) -> str:
    """Return the mean of values in [0, 1]: `0.4312` of one run, `0.4312 (0.4101 to 0.4522)` of several."""
    if not values:
        return ABSENT
    return f"{fmean(values):.4f}" + (f" ({min(values):.4f} to {max(values):.4f})" if len(values) > 1 else "")


def share_text(counts: Sequence[tuple[int, int]]) -> str:
    """Return the mean of the shares: `2 of 41 (4.9 %)` of one run, `5.2 % (4.1 % to 6.3 %)` of several."""
    if not counts or not all(every for _, every in counts):
        return ABSENT
    shares = [some / every for some, every in counts]
    if len(counts) == 1:
        return f"{counts[0][0]} of {counts[0][1]} ({percent(shares[0])})"
    return f"{percent(fmean(shares))} ({percent(min(shares))} to {percent(max(shares))})"
