"""Run folders -> one long table of finished runs, and a list of the folders that had to be left out."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from anomaly_bench.errors import UserError, check_name
from anomaly_bench.results.labels import one_category_each, one_label_each
from anomaly_bench.runs.calibration import stored_thresholds
from anomaly_bench.runs.confounds import Confound, strongest
from anomaly_bench.runs.folder import find
from anomaly_bench.runs.index import Index, IndexedFolder, indexed, state
from anomaly_bench.runs.stored_run import MANIFEST

CONFIG = "config.yaml"
RUN_NAME = re.compile(r"s\d+-[0-9a-f]{8}")  # s<seed>-<id>


@dataclass(frozen=True)
class Measured:
    """How a run's metrics were computed, and how sure they are."""

    how: str = "exact"  # exact | streaming
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)  # bootstrap over test images
    bounds: dict[str, float] = field(default_factory=dict)  # the largest possible error of each streamed value
    level: float = 0.95  # of the intervals
    resamples: int = 0  # behind the intervals
    maps: str = ""  # float16: the metrics are of maps that were stored so

    def __str__(self) -> str:
        text = "exact metrics" if self.how == "exact" else "pixel metrics in one pass, each with its largest error"
        interval = f"; intervals: {self.level:.0%}, {self.resamples} bootstrap resamples of the test images"
        return text + (interval if self.intervals else "") + (f"; of maps stored as {self.maps}" if self.maps else "")


@dataclass(frozen=True)
class Row:
    """A finished run."""

    setting: str  # 8 hex digits: the same for all seeds and categories
    label: str  # the setting for people: method and overrides
    method: str
    dataset: str
    category: str
    seed: int
    metrics: dict[str, float]  # in [0, 1]; nan where undefined
    seconds: float  # of all stages together, scoring included; nan where not measured
    peak_memory_mb: float  # highest peak of any stage; nan where not measured
    path: Path
    config: dict[str, Any] = field(repr=False)  # the method's part of the configuration
    measured: Measured = field(repr=False)
    data: str = field(default="", repr=False)  # checksum of the data set's files
    thresholds: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)  # as `stored_thresholds` returns
    place: str = field(default="", repr=False)  # the folder of images, where the data set is `folder`
    baseline: bool = False  # its method is no paper's, but a floor
    foreign: bool = False  # another program made its maps
    confound: Confound | None = field(default=None, repr=False)  # what separates the test images without a method
    learning: str = field(default="", repr=False)  # a warning where the run learned next to nothing
    oracle: dict[str, Any] = field(default_factory=dict, repr=False)  # as `oracle_of` returns it
    train_s: float = math.nan  # seconds of all stages but the scoring; nan where not measured
    ms_per_image: float = math.nan  # to score a test image; nan where not measured
    images: dict[str, int] = field(default_factory=dict, repr=False)  # how many, by what they are for
    precision: str = field(default="", repr=False)  # of training and scoring; empty where both were in float32


@dataclass(frozen=True)
class LeftOut:
    """A run folder that is not in the table."""

    status: str  # running, interrupted, failed, damaged, copy, or another status that is not `done`
    path: Path
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.status}: {self.path}" + (f" ({self.reason})" if self.reason else "")


@dataclass(frozen=True)
class Collected:
    """The runs below an output folder."""

    rows: list[Row]  # sorted by path
    left_out: list[LeftOut]

    def left_out_line(self) -> str:
        """Return how many were left out by status, `1 failed, 2 running`, or `none`."""
        counts = Counter(item.status for item in self.left_out)
        return ", ".join(f"{n} {status}" for status, n in sorted(counts.items())) or "none"


def collect(outputs: Path | str) -> Collected:
    """Read every run folder below `outputs`.  Unfinished, damaged and copied ones are named, and make no row.

    Raises UserError where there is no such folder.
    """
    outputs = Path(outputs)
    with indexed(outputs, _paths(outputs)) as folders:
        return _collected(folders)


def collect_runs(paths: Iterable[Path]) -> Collected:
    """Read these run folders as `collect` does; what is not there yet makes no row and is not named."""
    index_of = cache(Index)
    there = [path for path in dict.fromkeys(paths) if path.is_dir()]
    return _collected([IndexedFolder(path, index_of(path.parents[3])) for path in there])


def _collected(folders: list[IndexedFolder]) -> Collected:
    rows: dict[tuple[str, ...], Row] = {}
    left_out = []
    for folder in folders:
        try:
            if not (manifest := folder.manifest):
                raise ValueError(f"no {MANIFEST}")
            if (status := state(folder)) != "done":
                reason = folder.damage()[0] if status == "damaged" else manifest.get("error") or ""
                left_out.append(LeftOut(status, folder.path, _line(reason)))
                continue
            row = _row(folder, manifest)
        except Exception as error:  # whatever is wrong inside one folder, it must not hide the others
            left_out.append(LeftOut("damaged", folder.path, _reason(error)))
            continue
        first = rows.setdefault((row.method, row.dataset, row.category, str(row.seed), str(manifest["id"])), row)
        if first is not row:  # counted twice, it would pass for a second seed
            left_out.append(LeftOut("copy", folder.path, f"the same run as {first.path}"))
    return Collected(one_label_each(one_category_each(list(rows.values()))), left_out)


def method_config(content: bytes) -> dict[str, Any]:
    """Return the method's part of a run's config.yaml.  Raises ValueError where it has none."""
    from omegaconf import OmegaConf

    config = OmegaConf.to_container(OmegaConf.create(content.decode()))
    method = config.get("method") if isinstance(config, dict) else None
    if not isinstance(method, dict):
        raise ValueError("config.yaml has no method")
    return {str(key): value for key, value in method.items()}


def measurement(manifest: Mapping[str, Any]) -> Measured:
    """Return a manifest's entry on the measurement; the defaults where an earlier version wrote it."""
    entry = manifest.get("measurement", {})
    values = {key: entry[key] for key in ("how", "level", "resamples", "maps") if key in entry}
    intervals = {key: (_number(low), _number(high)) for key, (low, high) in entry.get("intervals", {}).items()}
    return Measured(**values, intervals=intervals, bounds={k: _number(v) for k, v in entry.get("bounds", {}).items()})


def _number(value: float | None) -> float:
    """Return a value of a manifest, in which null stands for NaN."""
    return math.nan if value is None else float(value)


def _paths(outputs: Path) -> list[Path]:
    """Return all run folders, also those whose manifest is missing."""
    paths = {folder.path for folder in find(outputs)}
    paths |= {p for p in outputs.glob("*/*/*/s*") if RUN_NAME.fullmatch(p.name) and p.is_dir()}
    return sorted(paths)


def _row(folder: IndexedFolder, manifest: dict[str, Any]) -> Row:
    metrics = {str(key): float(value) for key, value in folder.metrics.items()}
    if not metrics:
        raise ValueError("no metrics.json, or an empty one")
    names = {key: str(manifest[key]) for key in ("setting", "label", "method", "dataset", "category")}
    for key in ("method", "dataset", "category"):  # they become names of files
        check_name(key, names[key])
    file, stages = folder.path / CONFIG, manifest["stages"]
    seconds = {name: float(s["seconds"]) for name, s in stages.items() if s.get("seconds") is not None}
    training = [value for name, value in seconds.items() if name != "score"]
    memory = [float(s["peak_memory_mb"]) for s in stages.values() if s.get("peak_memory_mb") is not None]
    content = file.read_bytes()
    return Row(
        **names,
        seed=int(manifest["seed"]),
        metrics=metrics,
        seconds=sum(seconds.values()) if seconds else math.nan,
        train_s=sum(training) if training else math.nan,
        ms_per_image=float(stages.get("score", {}).get("ms_per_image") or math.nan),
        peak_memory_mb=max(memory, default=math.nan),
        path=folder.path,
        config=folder.index.parsed(file, content, lambda: method_config(content)),
        measured=measurement(manifest),
        thresholds=stored_thresholds(manifest),
        data=str(manifest.get("checksums", {}).get("data", "")),
        place=str(manifest.get("place", "")),
        baseline=bool(manifest.get("baseline")),
        foreign=bool(manifest.get("foreign")),
        confound=_confound(manifest),
        learning=str(manifest.get("learning", {}).get("warning", "")),
        oracle=manifest.get("oracle", {}),
        images={str(key): int(value) for key, value in manifest.get("images", {}).items() if isinstance(value, int)},
        precision=_precision(manifest),
    )


def _precision(manifest: Mapping[str, Any]) -> str:
    """Return the keys of `hardware` by which a run's networks computed in less than float32, as typed."""
    stored = manifest.get("hardware", {}).items()
    return " ".join(f"hardware.{k}={v}" for k, v in stored if k.endswith("precision") and v != "32-true")


def _confound(manifest: Mapping[str, Any]) -> Confound | None:
    """Return the plain statistic that separates a run's test images; None also where an earlier version wrote it."""
    images = manifest.get("images", {})
    return strongest(manifest.get("confounds", {}), images.get("test_good", 0), images.get("test_anomalous", 0))


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"{MANIFEST} has no {error}"
    return _line(error if isinstance(error, (UserError, ValueError)) else f"{type(error).__name__}: {error}")


def _line(text: object) -> str:
    """Return a text on one line of 300 characters at most: a Hydra or CUDA error can fill a screen."""
    line = " ".join(str(text).split())
    return line if len(line) <= 300 else line[:299] + "…"
