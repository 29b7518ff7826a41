"""`bench threshold`: calibrate a finished run's thresholds on normal images that its training has not seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from anomaly_bench import config
from anomaly_bench.checksums import remembered
from anomaly_bench.datasets.checks import check_names
from anomaly_bench.errors import UserError
from anomaly_bench.files import sha256_of, unreadable
from anomaly_bench.former_names import present_method
from anomaly_bench.inference.load import load_without_thresholds
from anomaly_bench.inference.sources import images_below, why_no_file
from anomaly_bench.loading.frame import Frame
from anomaly_bench.loading.image_files import expand_user, is_folder
from anomaly_bench.loading.image_list import read_list
from anomaly_bench.paths import cache_at
from anomaly_bench.records import Record
from anomaly_bench.runs.calibration import (
    CalibrationRow,
    Maps,
    read_rows,
    stored_thresholds,
    threshold_entry,
    write_rows,
)
from anomaly_bench.runs.find import find_data, require_same_data
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.ignored import stored_ignore
from anomaly_bench.runs.promise import CONFIDENCE, FALSE_ALARMS, LEVELS, WAYS
from anomaly_bench.runs.runner import run
from anomaly_bench.runs.stored_config import set_places, stored_config
from anomaly_bench.runs.stored_run import CALIBRATION, CALIBRATIONS, CHECKED, FOLDS, IGNORE, IMAGES, LARGE, NORMALS


@dataclass(frozen=True)
class ThresholdRequest:
    """What a threshold is to promise, and from which images.

    At most one of `normals` and `folds`; with neither, the images that the training held out or, where there are none,
    those of an earlier call.
    """

    rate: float = FALSE_ALARMS  # of false alarms, in (0, 1)
    confidence: float = CONFIDENCE  # in (0, 1)
    levels: Sequence[str] = LEVELS
    normals: Path | None = None  # a folder of normal images
    folds: int | None = None  # parts of the training images, each scored by a model trained on the others
    device: str = "auto"
    config_dir: Path | None = None  # where the class of a method of your own lies
    overrides: Mapping[str, str] = field(default_factory=dict)  # of the folds' trainings: dataset.root=DIR


def set_threshold(run_folder: Path | str, request: ThresholdRequest) -> dict[str, dict[str, Any]]:
    """Calibrate the thresholds, store them in the run's manifest, and return those that were set, by level.

    Raises UserError for a folder that is no finished run or a damaged one, for calibration images that the run was
    trained or measured on, and where there are none.
    """
    folder = RunFolder(run_folder)
    folder.require_done()
    if request.config_dir:
        config.allow_folder(request.config_dir)
    if request.normals and request.folds:
        raise UserError("bench threshold", "--normals and --folds exclude each other", "leave out one of them")
    made = NORMALS if request.normals else FOLDS if request.folds else ""
    folder.require_undamaged([name for name in (*CHECKED, *LARGE) if name != made])
    if request.normals:
        name, rows = NORMALS, score_normals(folder, request.normals, request)
    elif request.folds:
        name, rows = FOLDS, score_folds(folder, request.folds, request)
    else:
        name = stored_name(folder)
        rows = read_rows(folder, name)
    levels = [level for level in request.levels if rows[0].at(level) is not None or len(request.levels) == 1]
    with folder.locked():
        request_of_level = (rows, name, request.rate, request.confidence, folder.scores)
        maps, ignored = tested_maps(folder)
        found = {level: threshold_entry(level, *request_of_level, maps, None, ignored) for level in levels}
        if made:
            write_rows(folder, name, rows)
        manifest = folder.manifest  # as it is now
        files = {"files": {**manifest["files"], name: folder.digest(name)}} if "files" in manifest else {}  # format 1
        stored: dict[str, dict[str, Any]] = {}
        with suppress(UserError):  # damaged, and about to be set anew
            stored = stored_thresholds(manifest)
        for level, entry in found.items():  # what masks were needed for stays, where it is of the same threshold
            former = stored.get(level, {})
            if former.get("threshold") == entry["threshold"] and maps is None and folder.maps is not None:
                entry |= {"test": former["test"]} if "test" in former else {}
            if former.get("threshold") == entry["threshold"] and "seg_f1" in former.get("test", {}) and "test" in entry:
                entry["test"]["seg_f1"] = former["test"]["seg_f1"]
        kept = {level: entry for level, entry in stored.items() if entry["file"] != made}
        folder.update(thresholds={**kept, **found}, **files)
    return found


def tested_maps(folder: RunFolder) -> tuple[Maps | None, list[np.ndarray] | None]:
    """Return the maps [N, H, W] of a run's test images, and what is ignored in each without their masks.

    None and None where masks say what is ignored: they are not read here.
    """
    ignore, maps = stored_ignore(folder, folder.manifest), folder.maps
    if ignore is None or maps is None:
        return maps, None
    if ignore.value is not None:
        return None, None
    region = replace(Frame.stored(folder.manifest, maps[0].shape), ignore=ignore).ignored_region
    return maps, None if region is None else [region] * len(maps)


def stored_name(folder: RunFolder) -> str:
    """Return the file of the calibration scores that a run has.  Raises UserError where it has none."""
    for name in CALIBRATIONS:
        if (folder.path / name).is_file():
            return name
    raise UserError(str(folder.path), "has no calibration images, and a threshold needs some", WAYS)


def score_normals(folder: RunFolder, place: Path, request: ThresholdRequest) -> list[CalibrationRow]:
    """Score a folder of normal images.

    Raises UserError for one that cannot be used, and for images that the run was trained or measured on: with them the
    promise would not hold.
    """
    root = expand_user(str(place))
    if not is_folder(root):
        raise UserError("--normals", f"no such folder: {place}")
    if not (paths := images_below(root)):
        raise UserError("--normals", f"{place} holds no image")
    check_names(Record(str(path), "good", path) for path in paths)
    refuse_known(folder, paths)
    model = load_without_thresholds(folder.path, request.device, request.config_dir)
    rows = []
    for result in model.predict(list(paths)):
        if result.error:
            raise UserError(result.path, result.error, "remove it, or mend it")
        peak = None if result.map is None else float(result.map.max())
        rows.append(CalibrationRow(result.path, str(place), result.score, peak))
    return rows


def refuse_known(folder: RunFolder, paths: Sequence[Path]) -> None:
    """Raise UserError where calibration images are, by content, images of the run, or the same image twice."""
    known = {}
    if (file := folder.path / IMAGES).is_file():  # runs of format 1 have no list
        folder.require_undamaged([IMAGES])
        known = {entry.image: f"{entry.split}/{entry.path}" for entry in read_list(file.read_text(encoding="utf-8"))}
    shared = []
    for path in paths:
        if why := why_no_file(path):
            raise UserError(str(path), why, "remove it, or mend it")
        try:
            digest = sha256_of(path)
        except OSError as error:
            raise unreadable(path, error) from error
        if other := known.setdefault(digest, str(path)):
            shared += [(str(path), other)] if other != str(path) else []
    if shared:
        raise UserError(
            "--normals",
            f"{len(shared)} of {len(paths)} images are already images of the run, or there twice, by content "
            f"(first: {shared[0][0]} is {shared[0][1]})",
            "a promise needs normal images that were not seen before",
        )


def score_folds(folder: RunFolder, folds: int, request: ThresholdRequest) -> list[CalibrationRow]:
    """Train the run's method on all but one of each of `folds` parts of its training images, and score that part.

    The trainings are runs in <run>/folds; finished ones are not repeated.
    """
    cfg = fold_config(folder, request.overrides)
    if folds > (count := count_training_images(folder, config.validate(cfg))):
        raise UserError("--folds", f"{folds} given for {count} training images", "at most one for each")
    rows = []
    for k in range(1, folds + 1):
        cfg.calibration_fold = f"{k}/{folds}"
        held_out = [row for row in read_rows(run(cfg), CALIBRATION) if row.source == "held out"]
        rows += [CalibrationRow(row.path, f"{folds} folds", row.score, row.map_max) for row in held_out]
    return rows


def count_training_images(folder: RunFolder, settings: config.Settings) -> int:
    """Return the number of normal images that the folds divide.  Raises UserError unless they are those of the run."""
    with cache_at(settings.cache_dir), remembered():
        data = find_data(settings)
    if folder.manifest.get("format") != 1:  # such a run knows its images by their sizes only
        require_same_data(folder, data)
    return len(data.train)


def fold_config(folder: RunFolder, overrides: Mapping[str, str]) -> DictConfig:
    """Return a run's configuration for the trainings of its folds; what an earlier version had not is as by default.

    overrides: of where things are.  Raises UserError for any other.
    """
    stored = stored_config(folder)
    set_places(stored, overrides, "bench threshold")
    values: dict[str, Any] = OmegaConf.to_container(stored)  # type: ignore[assignment]
    values["method"] = present_method(values["method"])
    defaults: dict[str, Any] = OmegaConf.to_container(config.compose(["method=us_fast", "dataset=mtd"]))  # type: ignore[assignment]
    fixed: dict[str, Any] = {"calibration_share": 0, "calibration_fold": None, "output_dir": str(folder.path / "folds")}
    fixed |= {"logger": {}, "resamples": 0}
    fixed |= dict.fromkeys(("force", "save_heatmaps", "save_maps", "track_test"), False)
    hardware = {**defaults["hardware"], **values.get("hardware", {})}
    if (folder.path / IGNORE).is_file():
        values["dataset"]["ignore_mask"] = str(folder.path / IGNORE)
    return OmegaConf.create({**defaults, **values, "hardware": hardware, **fixed})
