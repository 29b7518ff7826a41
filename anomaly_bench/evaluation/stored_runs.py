"""Measure finished runs anew, without their models: from stored maps and scores, and the masks of the data set."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from omegaconf import DictConfig, OmegaConf

from anomaly_bench import __version__, config
from anomaly_bench.checksums import remembered
from anomaly_bench.console import say, warnings_in_lines
from anomaly_bench.datasets.checks import checked_records
from anomaly_bench.errors import UserError
from anomaly_bench.evaluation.measured import measure_with_progress, print_json
from anomaly_bench.evaluation.options import MEMORY_MB, RESAMPLES, EvalOptions
from anomaly_bench.loading.anomaly_maps import LazySequence, RoundedMaps, open_stored_maps
from anomaly_bench.loading.frame import Frame
from anomaly_bench.loading.image_cache import CachedMasks, cached_rows, has_masks, ignored_pixels
from anomaly_bench.loading.image_files import fingerprint
from anomaly_bench.loading.image_list import list_images
from anomaly_bench.loading.resize import RESIZE_RULE
from anomaly_bench.loading.row_file import RowFile
from anomaly_bench.metrics import Measurement
from anomaly_bench.paths import cache_at, cache_root
from anomaly_bench.records import Dataset, Record
from anomaly_bench.runs.calibration import tested_anew
from anomaly_bench.runs.find import data_checksums, image_changes
from anomaly_bench.runs.folder import RunFolder, now
from anomaly_bench.runs.ignored import stored_ignore
from anomaly_bench.runs.spro import spro_of_records
from anomaly_bench.runs.stored_config import ANEW, set_places, stored_config
from anomaly_bench.runs.stored_run import CHECKED, LARGE, MEASURED, ScoreRow

ROUNDED = "maps are stored as float16: pixel metrics are of the rounded maps, image metrics of scores.csv"


@dataclass(frozen=True)
class Stored:
    """What is needed to measure a run; maps and masks stay on disk."""

    folder: RunFolder
    cfg: DictConfig  # of the run, but for the folders of data and cache
    records: list[Record]  # of the test images, in the order of scores and maps
    maps: LazySequence | None  # float32 [H, W]; None where the method has none
    rows: RowFile | None  # uint8 [H * W * 3 or 4] each: the image as resized for the run, and its mask
    masks: Sequence[np.ndarray] | None  # bool [H, W]; None where the data set has none
    frame: Frame | None  # of maps, images and masks; None where there are no maps
    ignored: Sequence[np.ndarray] | None = None  # bool [H, W]; None where nothing is


def eval_runs(options: EvalOptions, show: Callable[[RunFolder], None]) -> None:
    """Measure every run anew, store the metrics in its folder and print them.  show: prints a run's table.

    Raises UserError where a run is not finished, has no maps, or its data set is not what it was.
    """
    found: dict[str, Measurement] = {}
    for stored in [open_run(path, options) for path in options.runs]:
        folder, m = stored.folder, measure_run(stored, options)
        changes = _changes(_stored_metrics(folder), m.metrics)
        with folder.locked():
            rounded = {"maps": "float16"} if isinstance(stored.maps, RoundedMaps) else {}
            measurement = {**m.record(), **rounded, "measured": now(), "anomaly_bench": __version__}
            folder.replace_metrics(
                m.metrics, m.curves, measurement, **tested_anew(folder, stored.masks, stored.ignored)
            )
        found[str(folder.path)] = m
        if not options.json:
            show(folder)
        out = sys.stderr if options.json else sys.stdout
        notes = [ROUNDED] if rounded else []
        out.write("".join(f"{line}\n" for line in [*(changes or ["the stored metrics are confirmed"]), *notes]))
    if options.json:
        print_json(found)


def open_run(path: Path, options: EvalOptions) -> Stored:
    """Return a finished run and the data set that it was measured on, after checking that they fit each other.

    Raises UserError for a file that is not as the run wrote it, unless changes are accepted or it is computed anew.
    """
    folder = RunFolder(path)
    folder.require_done()
    if not options.accept_changes:
        folder.require_undamaged([name for name in (*CHECKED, *LARGE) if name not in MEASURED])
    cfg = stored_config(folder)
    set_places(cfg, options.overrides, "bench eval")
    with cache_at(Path(cfg.cache_dir) if cfg.cache_dir else None):
        return _open(folder, cfg)


def _open(folder: RunFolder, cfg: DictConfig) -> Stored:
    records = _test_images(folder, cfg)
    maps = _maps(folder, cfg, len(records))
    if maps is None:
        return Stored(folder, cfg, records, None, None, None, None)
    frame = replace(Frame.stored(folder.manifest, maps[0].shape), ignore=stored_ignore(folder, folder.manifest))
    rows = cached_rows(records, frame, cache_root())
    masks = CachedMasks(rows, frame.size) if has_masks(records) else None
    if masks and (rule := folder.manifest.get("resize_rule", 1)) != RESIZE_RULE:
        what = f"the run has resize rule {rule}, its masks are now resized by rule {RESIZE_RULE}"
        say(f"{folder.path}: {what} (docs/metrics.md)")
    return Stored(folder, cfg, records, maps, rows, masks, frame, ignored_pixels(rows, records, frame))


def _test_images(folder: RunFolder, cfg: DictConfig) -> list[Record]:
    """Return the test images.  Raises UserError unless they are those that the run was measured on."""
    dataset = _dataset(cfg)
    with warnings_in_lines():
        train, records = checked_records(dataset, "train"), checked_records(dataset, "test")
    where = f"its files are not those that {folder.path} was measured on"
    if folder.manifest.get("format") == 1:  # images are identified by their sizes
        same, changes = fingerprint(train + records) == folder.manifest["checksums"]["data"], ""
    else:
        with remembered():
            entries = list_images(train, records, checked_records(dataset, "validation"))
        changes = image_changes(folder, entries, data_checksums(entries, records))
        same, changes = not changes, f": {changes}" if changes else ""
    if not same or [(r.path, r.kind) for r in records] != [(row.path, row.kind) for row in _scores(folder)]:
        raise UserError("dataset", where + changes, "dataset.root=DIR names another place")
    return records


def measure_run(stored: Stored, options: EvalOptions) -> Measurement:
    """Return the metrics, with the run's own memory and number of resamples unless the options say otherwise."""
    memory_mb = OmegaConf.select(stored.cfg, "hardware.metrics_memory_mb", default=MEMORY_MB)
    resamples = OmegaConf.select(stored.cfg, "resamples", default=RESAMPLES)
    scores = np.array([row.score for row in stored.folder.scores], np.float32)
    labels = np.array([record.label for record in stored.records])
    try:
        found = measure_with_progress(
            *(str(stored.folder.path), scores, labels, stored.maps, stored.masks, stored.ignored),
            **options.measuring(memory_mb, resamples),
        )
        if stored.frame:
            found.metrics.update(spro_of_records(stored.records, stored.maps, stored.frame))
        return found
    except ValueError as error:  # maps or scores that no run can have written
        raise UserError(str(stored.folder.path), f"is damaged: {error}", ANEW) from error


def _scores(folder: RunFolder) -> list[ScoreRow]:
    try:
        return folder.scores
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(str(folder.path / "scores.csv"), f"is missing or damaged: {error}", ANEW) from error


def _dataset(cfg: DictConfig) -> Dataset:
    dataset: Dataset = config.build("dataset", config.checked_part("dataset", OmegaConf.to_container(cfg.dataset)))
    return dataset


def _maps(folder: RunFolder, cfg: DictConfig, count: int) -> LazySequence | None:
    file = folder.path / "maps.npy"
    if not file.exists():
        if not cfg.get("save_maps", True):
            raise UserError(str(file), "is missing: the run was made with save_maps=false", "force=true save_maps=true")
        if any(name.startswith("pixel_") for name in _stored_metrics(folder)):
            raise UserError(str(file), "is missing", ANEW)
        return None
    maps = open_stored_maps(file, folder.manifest.get("maps"))
    height, width = maps[0].shape
    if len(maps) != count or Frame.stored(folder.manifest, (height, height)).size != (height, width):
        what = f"holds {len(maps)} maps of {width} x {height} pixels; the run has {count} test images"
        raise UserError(str(file), what, ANEW)
    return maps


def _stored_metrics(folder: RunFolder) -> dict[str, float]:
    try:
        return folder.metrics
    except UserError:  # damaged, and about to be written anew
        return {}


def _changes(old: dict[str, float], new: dict[str, float]) -> list[str]:
    """Return a line for each metric that differs, with every digit."""
    pairs = {name: (str(old.get(name, "none")), str(new.get(name, "none"))) for name in {**old, **new}}
    return [f"{name}: {before} -> {after}" for name, (before, after) in pairs.items() if before != after]
