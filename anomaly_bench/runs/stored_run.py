"""A run as it is stored: the names of its files, what they hold, and which of them are damaged."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anomaly_bench.errors import UserError
from anomaly_bench.files import sha256, sha256_of
from anomaly_bench.runs.json_files import ANEW, parse_json

if TYPE_CHECKING:
    from anomaly_bench.loading.anomaly_maps import RoundedMaps

MANIFEST, FORMAT = "manifest.json", 2  # 2: images by content, result files with their checksums; 1: images by size
IMAGES = "images.csv"  # split, path, kind, checksum of image and mask
IGNORE = "ignore.png"  # the region that all images share and no metric counts: white
CALIBRATION = "calibration.csv"  # path, source, score, map_max of normal images that were held out
TRACK = "test_track.json"  # scores and metrics of the test images at points of the training
NORMALS, FOLDS = "normals.csv", "folds.csv"  # likewise, of `bench threshold --normals` and `--folds`
CALIBRATIONS = (CALIBRATION, NORMALS, FOLDS)
MADE_BY = {NORMALS: "--normals DIR", FOLDS: "--folds K"}
SMALL = ("metrics.json", "scores.csv", "curves.json", "config.yaml", IMAGES)
CHECKED = (*SMALL, *CALIBRATIONS, IGNORE, TRACK)  # whenever a run is read; the latter where it has them
LARGE = ("maps.npy", "weights.safetensors")
MEASURED = ("metrics.json", "curves.json")  # what `bench eval` makes anew
TIMING = "timing.json"  # what the last `bench time` measured; no result
DECIDING = ("thresholds", "training_images")  # what `bench predict` judges by; they have a checksum of their own
STATES = ("running", "done", "failed")


def deciding_checksum(manifest: Mapping[str, Any]) -> str:
    """Return the SHA-256 of those parts of a manifest that decide about new images."""
    return sha256(json.dumps([manifest.get(key) for key in DECIDING], sort_keys=True))


@dataclass(frozen=True)
class ScoreRow:
    """A line of scores.csv."""

    path: str  # of the test image, relative to the data set
    kind: str  # of the defect; `good` where the image is normal
    label: int  # 0 normal, 1 anomalous
    score: float  # larger: more anomalous


class StoredRun:
    """Reads one run: `manifest`, `metrics`, `scores`, `maps`.  Reading needs no torch."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @property
    def manifest(self) -> dict[str, Any]:
        """What manifest.json holds; empty where the run has none yet.

        Raises UserError for a damaged file and for one of a later version.
        """
        manifest, file = self._json(MANIFEST), self.path / MANIFEST
        if manifest.get("format", 1) not in range(1, FORMAT + 1):
            what = f"has the format {manifest['format']}, which this version does not know"
            raise UserError(str(file), what, "the version of anomaly_bench that wrote it")
        if manifest.get("status") not in STATES and (manifest or file.exists()):
            raise UserError(str(file), f"is damaged: its status is {manifest.get('status')!r}", ANEW)
        return manifest

    @property
    def status(self) -> str:
        """`new`, `running`, `done` or `failed`."""
        return str(self.manifest.get("status", "new"))

    def require_done(self) -> dict[str, Any]:
        """Return the manifest of a finished run.  Raises UserError for any other folder."""
        manifest = self.manifest if self.path.is_dir() else {}
        if manifest.get("status") != "done":
            what = f"the run is not finished (status: {self.status})" if manifest else "no run is here"
            raise UserError(str(self.path), what, "`bench list runs` shows where runs are")
        return manifest

    @property
    def metrics(self) -> dict[str, float]:
        """{"image_auroc": 0.991, ...}; undefined values are nan."""
        return {key: math.nan if value is None else value for key, value in self._json("metrics.json").items()}

    @cached_property
    def scores(self) -> list[ScoreRow]:
        """One row for each test image, in the order of the maps."""
        with (self.path / "scores.csv").open(newline="", encoding="utf-8") as file:
            return [ScoreRow(r["path"], r["kind"], int(r["label"]), float(r["score"])) for r in csv.DictReader(file)]

    @property
    def maps(self) -> np.ndarray | RoundedMaps | None:
        """float32 [N, H, W], memory-mapped, or of float16 each when it is accessed; None where the run stored none."""
        file = self.path / "maps.npy"
        if not file.exists():
            return None
        mapped: np.ndarray = np.load(file, mmap_mode="r")
        if mapped.dtype != np.float16:
            return mapped
        from anomaly_bench.loading.anomaly_maps import RoundedMaps, rounding_of

        return RoundedMaps(mapped, rounding_of(file, self.manifest.get("maps")))

    def _json(self, name: str) -> dict[str, Any]:
        file = self.path / name
        try:
            return self._parsed(file, file.read_bytes())
        except FileNotFoundError:
            return {}

    def _parsed(self, file: Path, content: bytes) -> dict[str, Any]:
        return parse_json(file, content)

    def damage(self, names: Iterable[str] = CHECKED) -> list[str]:
        """Return a line for each of these result files that is missing or is not the one that the finished run wrote.

        Runs of format 1 hold no checksums: of them only `metrics.json` must be there.  Empty for an unfinished run.
        """
        return [f"{name} {what}" for name, what in self._damaged(names).items()]

    def _damaged(self, names: Iterable[str]) -> dict[str, str]:
        """Return what is wrong with each file that `damage` has a line for."""
        manifest, found = self.manifest, {}
        expected = manifest.get("files", {"metrics.json": None}) if manifest.get("status") == "done" else {}
        for name in (name for name in names if name in expected):
            digest = self.digest(name)
            if digest is None:
                found[name] = "is missing"
            elif expected[name] not in (None, digest):
                found[name] = "was changed or damaged after the run was done"
        return found

    def digest(self, name: str) -> str | None:
        """Return the SHA-256 of one of the run's files; None where it is missing or cannot be read."""
        try:
            return sha256_of(self.path / name)
        except OSError:
            return None

    def require_undamaged(self, names: Iterable[str] = (*CHECKED, *LARGE)) -> None:
        """Raises UserError naming the first of these files that is not as the run wrote it."""
        for name, what in self._damaged(names).items():
            measured = self._damaged((*CHECKED, *LARGE)).keys() <= set(MEASURED)
            again = f"bench eval {self.path} measures it again" if measured else "force=true trains the run anew"
            if name in MADE_BY:
                again = f"bench threshold {self.path} {MADE_BY[name]} makes it anew"
            raise UserError(str(self.path / name), what, again)
