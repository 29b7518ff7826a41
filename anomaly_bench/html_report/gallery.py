"""The gallery of a category: all settings side by side on the same test image, coloured by one scale."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from anomaly_bench.html_report import thumbnails
from anomaly_bench.html_report.run_data import Run
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.heatmaps import Mistake, find_mistakes

MOST = 500  # normal test images, and as many anomalous ones: those that some run mistakes most


def gallery(runs: Sequence[Run], target: Path, pool: Executor) -> tuple[dict[str, Any], Callable[[], None]]:
    """The data of a category's gallery.  Its pictures are being drawn into `target` when this returns; the second value
    waits for them and notes in the data which there are."""
    mistakes = {id(run): {m.row.path: m for m in find_mistakes(run.scores())} for run in runs}
    shown = _shown([m for found in mistakes.values() for m in found.values()])
    names = {path: thumbnails.image_name(runs[0].row.data, path) for path in shown}
    images = [{"file": names[p], "path": p, "kind": m.row.kind, "label": m.row.label} for p, m in shown.items()]
    entries = [_entry(run, mistakes[id(run)], shown) for run in runs]
    places = [{i: names[path] for i, path in enumerate(mistakes[id(run)]) if path in names} for run in runs]
    drawn = [
        pool.submit(thumbnails.draw_maps, run.folder, [m.row.label for m in mistakes[id(run)].values()], [*at], target)
        for run, at in zip(runs, places, strict=True)
    ]
    cut = pool.submit(_cut, [run.folder for run in runs], places, target / "images")

    def finish() -> None:
        cut.result()
        for image in images:
            image["drawn"] = (target / "images" / f"{image['file']}.jpg").exists()
        for entry, maps in zip(entries, drawn, strict=True):
            entry["maps"] = maps.result()

    return {"images": images, "runs": entries, "total": len(set().union(*mistakes.values()))}, finish


def _cut(folders: Sequence[RunFolder], places: Sequence[dict[int, str]], target: Path) -> None:
    """One run after the other: the first that has a picture of an image gives it."""
    for folder, names in zip(folders, places, strict=True):
        thumbnails.cut_images(folder, names, target)


def _shown(mistakes: Sequence[Mistake]) -> dict[str, Mistake]:
    """Path -> the worst mistake that any run makes of it, sorted by path; at most MOST of either class."""
    worst: dict[str, Mistake] = {}
    for m in mistakes:
        if m.row.path not in worst or m.share > worst[m.row.path].share:
            worst[m.row.path] = m
    kept: list[Mistake] = []
    for label in (0, 1):
        kept += sorted((m for m in worst.values() if m.row.label == label), key=lambda m: -m.share)[:MOST]
    return {m.row.path: m for m in sorted(kept, key=lambda m: m.row.path)}


def _entry(run: Run, found: dict[str, Mistake], shown: dict[str, Mistake]) -> dict[str, Any]:
    """What the gallery knows of a run: of each image its index in the run, its score, and how many it is behind."""
    index = {path: i for i, path in enumerate(found)}
    normal = sum(1 for m in found.values() if not m.row.label)
    mistakes = [found.get(path) for path in shown]
    return {
        "head": run.heading,
        "name": run.row.method,
        "colour": run.style.colour,
        "seed": run.row.seed,
        "others": [len(found) - normal, normal],  # images of the other class, by label
        "at": [index.get(path) for path in shown],
        "score": [m and float(f"{m.row.score:.5g}") for m in mistakes],
        "wrong": [m and m.wrong for m in mistakes],
    }


def script(data: dict[str, Any]) -> str:
    """A file that a page opened from disk may load, unlike JSON."""
    return f"window.GALLERY = {json.dumps(data, ensure_ascii=False, separators=(',', ':'))};\n"
