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
from anomaly_bench.runs.mistakes import AMONG, Mistake, find_mistakes
from anomaly_bench.runs.promise import promise

MOST = 500  # normal test images, and as many anomalous ones: the worst mistakes of any run


def gallery(runs: Sequence[Run], target: Path, pool: Executor) -> tuple[dict[str, Any], Callable[[], None]]:
    """Return the data of a category's gallery, and a function that waits until its pictures are drawn into `target`.

    That function notes in the data which pictures there are.
    """
    mistakes = [{m.row.path: m for m in find_mistakes(run.scores())} for run in runs]
    worst = _worst_mistakes([m for found in mistakes for m in found.values()])
    names = {path: thumbnails.image_name(runs[0].row.data, path) for path in worst}
    images = [{"file": names[p], "path": p, "kind": m.row.kind, "label": m.row.label} for p, m in worst.items()]
    entries, drawn, names_by_index = [], [], []
    for run, found in zip(runs, mistakes, strict=True):
        entries.append(_run_entry(run, found, worst))
        names_by_index.append({i: names[path] for i, path in enumerate(found) if path in names})
        labels = [m.row.label for m in found.values()]
        drawn.append(pool.submit(thumbnails.draw_maps, run.folder, labels, list(names_by_index[-1]), target))
    cropped = pool.submit(_crop_images, [run.folder for run in runs], names_by_index, target / "images")

    def finish() -> None:
        cropped.result()
        for image in images:
            for key, name in {"drawn": "{}.jpg", "outlined": "{}_o.png"}.items():
                image[key] = (target / "images" / name.format(image["file"])).exists()
        for entry, maps in zip(entries, drawn, strict=True):
            entry["maps"] = maps.result()

    total = len(set().union(*mistakes))
    return {"images": images, "runs": entries, "total": total, "among": AMONG}, finish


def sample(data: dict[str, Any], runs: Sequence[Run]) -> dict[str, str]:
    """Return the files, below `pictures`, of one defect for an overview: image, outline, map; empty without pictures.

    It is of middling difficulty, the median by how many normal images score as high; its map is that of the run with
    the highest image AUROC.
    """
    shown = [i for i, image in enumerate(data["images"]) if image["drawn"] and image["label"]]
    if not shown:
        return {}

    def mean_wrong(i: int) -> float:
        found = [entry["wrong"][i] for entry in data["runs"] if entry["wrong"][i] is not None]
        return sum(found) / max(len(found), 1)

    middle = sorted(shown, key=mean_wrong)[len(shown) // 2]
    image = data["images"][middle]
    files = {"image": f"images/{image['file']}.jpg", "path": image["path"], "map": "", "head": ""}
    files["outline"] = f"images/{image['file']}_o.png" if image["outlined"] else ""
    pairs = zip(data["runs"], runs, strict=True)
    if drawn := [(entry, run) for entry, run in pairs if entry["maps"] and entry["at"][middle] is not None]:
        entry, _ = max(drawn, key=lambda pair: pair[1].row.metrics.get("image_auroc", -1.0))
        files |= {"map": f"{entry['maps']}/{entry['at'][middle]}.png", "head": entry["head"]}
    return files


def _crop_images(folders: Sequence[RunFolder], names: Sequence[dict[int, str]], target: Path) -> None:
    """Crop the images from one run after the other: the first that has a picture of an image provides it."""
    for folder, names_of_run in zip(folders, names, strict=True):
        thumbnails.crop_images(folder, names_of_run, target)


def _worst_mistakes(mistakes: Sequence[Mistake]) -> dict[str, Mistake]:
    """Path -> the worst mistake that any run makes of it, sorted by path; at most MOST of either class."""
    worst: dict[str, Mistake] = {}
    for m in mistakes:
        if m.row.path not in worst or m.share > worst[m.row.path].share:
            worst[m.row.path] = m
    kept: list[Mistake] = []
    for label in (0, 1):
        kept += sorted((m for m in worst.values() if m.row.label == label), key=lambda m: -m.share)[:MOST]
    return {m.row.path: m for m in sorted(kept, key=lambda m: m.row.path)}


def _run_entry(run: Run, mistakes: dict[str, Mistake], shown: dict[str, Mistake]) -> dict[str, Any]:
    """Return what the gallery shows of a run: index, score and rank of each image that is `shown`, the scores of all
    test images by label, and its threshold."""
    index = {path: i for i, path in enumerate(mistakes)}
    scores = [sorted(m.row.score for m in mistakes.values() if m.row.label == label) for label in (0, 1)]
    mistakes_shown = [mistakes.get(path) for path in shown]
    threshold = run.row.thresholds.get("image")
    return {
        "head": run.heading,
        "name": run.row.method,
        "colour": run.style.colour,
        "marker": run.style.marker,
        "seed": run.row.seed,
        "scores": scores,
        "threshold": threshold and [threshold["threshold"], promise(threshold)],
        "at": [index.get(path) for path in shown],
        "score": [m and m.row.score for m in mistakes_shown],
        "rank": [m and m.rank for m in mistakes_shown],
        "wrong": [m and m.wrong for m in mistakes_shown],
    }


def script(data: dict[str, Any]) -> str:
    """Return the data as a script, which a page that was opened from disk may load, unlike JSON."""
    return f"window.GALLERY = {json.dumps(data, ensure_ascii=False, separators=(',', ':'))};\n"
