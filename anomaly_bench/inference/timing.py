"""`bench time`: how long finished runs take from a file to a decision, each measurement in a process of its own."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from anomaly_bench import __version__, config
from anomaly_bench.console import say
from anomaly_bench.datasets.checks import checked_records
from anomaly_bench.errors import UserError, none_of
from anomaly_bench.inference.exported import is_exported, load_exported
from anomaly_bench.inference.load import WEIGHTS
from anomaly_bench.inference.runtimes import RUNTIMES
from anomaly_bench.inference.sources import images_below
from anomaly_bench.inference.timing_sizes import SIZES
from anomaly_bench.loading.decode import read_image
from anomaly_bench.loading.image_files import expand_user, is_folder
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.json_files import write_json
from anomaly_bench.runs.manifest import PACKAGES, cpu_model, version
from anomaly_bench.runs.stored_config import stored_config
from anomaly_bench.runs.stored_run import TIMING

DEVICES, PROTOCOLS = ("cpu", "gpu"), ("line", "mvtec")
ALL, BEST = "all", "best"
RUNTIME_PACKAGES = ("onnxruntime", "openvino")  # of the other runtimes, where they are installed
MOST_IMAGES = 100  # of a folder, evenly spread


@dataclass(frozen=True)
class TimingRequest:
    """What is to be timed."""

    runs: Sequence[Path]  # folders, and files of `bench export`
    images: Path | None = None  # a folder; None: the runs' own test images
    threads: Sequence[int | str] = (1, ALL)
    batches: Sequence[int | str] = (1, BEST)
    devices: Sequence[str] = ("cpu",)
    runtimes: Sequence[str] = ("eager",)
    protocols: Sequence[str] = ("line",)
    seconds: float = 10.0  # for one measurement, besides its warm-up
    maps: bool = False  # bring each map to its image's own size too
    config_dir: Path | None = None  # where the class of a method of your own lies


@dataclass(frozen=True)
class Setting:
    """How a run is timed."""

    run: str  # its folder, or an exported file
    runtime: str
    device: str
    threads: int


def machine() -> dict[str, Any]:
    """Return processor, its threads, accelerator, versions and date."""
    return {
        "cpu": cpu_model(),
        "cpu_threads": every_thread(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": {
            "python": platform.python_version(),
            "anomaly_bench": __version__,
            **{package: version(package) for package in PACKAGES},
            **{package: version(package) for package in RUNTIME_PACKAGES if find_spec(package)},
        },
        "date": date.today().isoformat(),
    }


def every_thread() -> int:
    """Return how many threads of the CPU this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check(request: TimingRequest) -> None:
    """Raise UserError for a name that is not known, a GPU that is not there, and a run that cannot be used."""
    for option, given, known in (
        ("--runtime", request.runtimes, RUNTIMES),
        ("--device", request.devices, DEVICES),
        ("--protocol", request.protocols, PROTOCOLS),
    ):
        for name in given:
            if name not in known:
                raise none_of(option, name, known)
    if "gpu" in request.devices and not torch.cuda.is_available():
        raise UserError("--device", "gpu given, but PyTorch finds no CUDA device", "--device cpu")
    for path in request.runs:
        if is_exported(path):
            load_exported(path, "cpu")
            if not request.images:
                raise UserError(str(path), "an exported file comes without images", "--images DIR")
        else:
            RunFolder(path).require_done()
            RunFolder(path).require_undamaged(["config.yaml", WEIGHTS])
    if request.config_dir:
        config.allow_folder(request.config_dir)


def images_to_time(request: TimingRequest, folder: RunFolder) -> list[Path]:
    """Return the image files that a run, or a file, is timed on.

    Raises UserError where there are none, and naming one that cannot be read.
    """
    if request.images:
        place = expand_user(str(request.images))
        if not is_folder(place):
            raise UserError("--images", f"no such folder: {request.images}")
        found = images_below(place)
        if not found:
            raise UserError("--images", f"{request.images} holds no image")
    else:
        values = OmegaConf.to_container(stored_config(folder).dataset)
        records = checked_records(config.build("dataset", config.checked_part("dataset", values)), "test")
        found = [record.image for record in records if isinstance(record.image, Path)]
        if not found:
            raise UserError(str(folder.path), "its test images are no files", "--images DIR")
    chosen = found[:: -(-len(found) // MOST_IMAGES)]
    for path in chosen:
        read_image(path)
    return chosen


def time_runs(request: TimingRequest) -> Iterator[dict[str, Any]]:
    """Yield a cell for each measurement as soon as it is done; each run's cells are stored in its folder.

    A cell says how it was measured, and either the figures or, under `error`, why there are none.  Raises UserError
    before anything is measured.
    """
    check(request)
    images = {path: images_to_time(request, RunFolder(path)) for path in request.runs}
    about = machine()
    for path, paths in images.items():
        runtimes = [f"its {path.suffix[1:]}"] if is_exported(path) else request.runtimes
        cells: list[dict[str, Any]] = []
        threads = dict.fromkeys(every_thread() if each == ALL else int(each) for each in request.threads)
        for runtime, device, count in product(runtimes, request.devices, threads):
            setting = Setting(str(path), runtime, device, count)
            for cell in _cells(setting, request, paths):
                cells.append({"protocol": "line", **about_run(path), **asdict(setting), **cell})
                yield cells[-1]
        if not is_exported(path):
            timing = {"machine": about, "seconds": request.seconds, "images": len(paths), "cells": cells}
            store(RunFolder(path), timing)


def about_run(path: Path) -> dict[str, Any]:
    """Return a run's method, data set, category and size of images; of a file, of what it was made of."""
    manifest = load_exported(path, "cpu").manifest if is_exported(path) else RunFolder(path).manifest
    return {key: manifest.get(key) for key in ("method", "dataset", "category", "seed", "id", "image_size")}


def _cells(setting: Setting, request: TimingRequest, paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Yield the cells of one setting: a size of batches each, then MVTec's sizes."""
    fixed = {
        **asdict(setting),
        "config_dir": None if request.config_dir is None else str(request.config_dir),
        "seconds": request.seconds,
        "maps": request.maps,
        "images": list(map(str, paths)),
    }
    if "line" in request.protocols:
        best: dict[str, Any] = {}
        if BEST in request.batches:
            probed = ask({**fixed, "task": "probe"})
            done = {each["batch"]: each["images_per_second"] for each in probed if "batch" in each}
            best = {"probed": done, "best": max(done, key=lambda size: done[size])} if done else probed[-1]
        if "error" in best:
            yield {"batch": BEST, **best}
        for size in dict.fromkeys(best.get("best") if each == BEST else int(each) for each in request.batches):
            if size is not None:
                more = {"probed": best["probed"]} if size == best.get("best") else {}
                yield {"batch": size, **more, **ask({**fixed, "task": "line", "batch": size})[-1]}
    if "mvtec" in request.protocols:
        for height, width in SIZES:
            found = ask({**fixed, "task": "size", "size": (height, width)})[-1]
            yield {"protocol": "mvtec", "batch": 1, "size": [height, width], **found}


def ask(request: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what a new process answers, at least one answer; the last one has an `error` where it could not go on."""
    threads = str(request["threads"])
    done = subprocess.run(
        [sys.executable, "-m", "anomaly_bench.inference.timing_worker"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode or not found:
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        said = done.stderr.strip().rpartition("\n")[2] if done.returncode > 0 else "out of memory?"
        found.append({"error": f"the process ended with {how}: {said}"})
    return found


def store(folder: RunFolder, timing: dict[str, Any]) -> None:
    """Write what was measured into the run's folder, where that can be written."""
    try:
        with folder.locked():
            write_json(folder.path / TIMING, timing)
    except UserError as error:
        say(f"{TIMING} is not written: {error}")
