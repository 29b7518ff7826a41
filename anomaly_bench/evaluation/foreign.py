"""The measured maps of another program as a run folder, so that `bench report` lists them as a method."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from omegaconf import OmegaConf

from anomaly_bench import __version__
from anomaly_bench.errors import UserError, check_name, none_of
from anomaly_bench.evaluation.match_masks import Pair
from anomaly_bench.files import sha256, write_atomic
from anomaly_bench.loading.anomaly_maps import read_map
from anomaly_bench.metrics import Measurement
from anomaly_bench.runs.folder import RunFolder, find
from anomaly_bench.runs.stored_run import ScoreRow

KEYS = ("dataset", "output_dir", "seed")  # as of `bench train`


@dataclass(frozen=True)
class ForeignMethod:
    """Where a measurement of foreign maps is stored: the method's name, the data set, and the folder of runs."""

    name: str
    dataset: str
    category: str  # empty: the names of the folders of maps
    outputs: Path
    seed: int

    @classmethod
    def of(cls, name: str, overrides: dict[str, str]) -> ForeignMethod:
        """Return what `--as NAME dataset=DATASET[/CATEGORY]` requests.  Raises UserError for another or a wrong key."""
        check_name("--as", name)
        for key in overrides:
            if key not in KEYS:
                raise none_of("bench eval --as", key, KEYS)
        if not overrides.get("dataset"):
            raise UserError(
                "--as", "is given without the data set of the maps", "dataset=mvtec or dataset=mvtec/bottle"
            )
        dataset, _, category = overrides["dataset"].partition("/")
        for part in (dataset, category) if category else (dataset,):
            check_name("dataset", part)
        seed = overrides.get("seed", "0")
        if not seed.isdecimal():
            raise UserError("seed", f"'{seed}' given; a whole number of 0 and more is needed")
        return cls(name, dataset, category, Path(overrides.get("output_dir", "outputs")), int(seed))

    def category_of(self, found: Sequence[str]) -> dict[str, str]:
        """Return the category of each folder of maps.  Raises UserError where one is named and there are several."""
        if self.category and len(found) > 1:
            what = f"names one category, and there are maps of {', '.join(found)}"
            raise UserError("dataset", what, f"dataset={self.dataset}")
        for name in found:
            check_name("category", name)
        return {name: self.category or name for name in found}

    def store(self, category: str, pairs: Sequence[Pair], scores: np.ndarray, found: Measurement, command: str) -> str:
        """Write the run folder of a category, over an earlier one of the same name and seed.  Returns lines on it.

        scores: [N], of the images of `pairs`.  command: as it was typed.  Maps are kept where all have one size.
        """
        identity = [self.name, self.dataset, category, self.seed]
        run, setting = sha256(json.dumps(identity))[:8], sha256(json.dumps([self.name, "foreign maps"]))[:8]
        folder = RunFolder(self.outputs / self.name / self.dataset / category / f"s{self.seed}-{run}")
        twin = self._same_images(category, pairs)
        paths = _paths(twin) if twin else {_key(pair): f"{pair.kind}/{pair.map.name}" for pair in pairs}
        kept = len({read_map(pair.map).shape for pair in pairs}) == 1
        anomalous = sum(pair.kind != "good" for pair in pairs)
        manifest = {
            **{"method": self.name, "label": self.name, "dataset": self.dataset, "category": category},
            **{"seed": self.seed, "id": run, "setting": setting, "foreign": True, "command": command},
            "versions": {"anomaly_bench": __version__},
            "images": {"test_good": len(pairs) - anomalous, "test_anomalous": anomalous},
            "checksums": twin.manifest["checksums"] if twin else {},
            "protocol": ["foreign maps: another program made them; their largest value is an image's score"],
        }
        with folder.locked():
            folder.start(manifest, OmegaConf.to_yaml({"method": {"name": self.name}}), [], afresh=True)
            rows = zip(pairs, scores, strict=True)
            folder.write_scores(ScoreRow(paths[_key(p)], p.kind, int(p.kind != "good"), float(s)) for p, s in rows)
            if kept:
                write_atomic(folder.path / "maps.npy", lambda file: _write_maps(file, pairs))
            folder.write_text("curves.json", json.dumps(found.curves))
            folder.update(measurement=found.record())
            folder.write_metrics(found.metrics)
            folder.finish()
        alone = "" if twin else f"; no run of {self.dataset}/{category} in {self.outputs} has images of these names"
        return f"{folder.path}: `bench report` lists it as {self.name}" + alone

    def _same_images(self, category: str, pairs: Sequence[Pair]) -> RunFolder | None:
        """Return a finished run whose test images have the kinds and names of the maps; None where there is none."""
        wanted, folders = sorted(map(_key, pairs)), find(self.outputs) if self.outputs.is_dir() else ()
        return next((f for f in folders if _is_of(f, self.dataset, category) and sorted(_paths(f)) == wanted), None)


def _is_of(folder: RunFolder, dataset: str, category: str) -> bool:
    """Return whether a folder is a finished and undamaged run of a category, not of foreign maps."""
    with suppress(UserError):
        manifest, place = folder.manifest, {"dataset": dataset, "category": category, "status": "done"}
        return place.items() <= manifest.items() and not manifest.get("foreign") and not folder.damage(["scores.csv"])
    return False


def _key(pair: Pair) -> tuple[str, str]:
    return pair.kind, pair.map.stem


def _paths(folder: RunFolder) -> dict[tuple[str, str], str]:
    """Return the path of each test image by its kind and stem."""
    return {(row.kind, Path(row.path).stem): row.path for row in folder.scores}


def _write_maps(file: IO[bytes], pairs: Sequence[Pair]) -> None:
    """Write a .npy of float32 [N, H, W], one map after the other."""
    shape = (len(pairs), *read_map(pairs[0].map).shape)
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    for pair in pairs:
        file.write(read_map(pair.map).astype("<f4").tobytes())
