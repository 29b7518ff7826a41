"""A finished run as a model, from its own folder alone: config.yaml, weights.safetensors, manifest.json."""

from __future__ import annotations

import os
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from safetensors import SafetensorError
from safetensors.torch import load_file

from anomaly_bench import config
from anomaly_bench.console import say
from anomaly_bench.contracts import Method, as_size
from anomaly_bench.errors import UserError
from anomaly_bench.former_names import present_method
from anomaly_bench.inference.exported import is_exported, load_exported
from anomaly_bench.inference.predict import Model
from anomaly_bench.loading.resize import RESIZE_RULE
from anomaly_bench.runs.calibration import read_rows, stored_thresholds
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.precision import use_tf32
from anomaly_bench.runs.runner import require_contract, to_memory_format
from anomaly_bench.runs.stored_config import ANEW, stored_config
from anomaly_bench.runs.stored_run import MANIFEST

WEIGHTS = "weights.safetensors"


def load(run_folder: Path | str, device: str = "auto", config_dir: Path | str | None = None) -> Model:
    """Return a finished run, or a file that `bench export` made of one, as a model that scores new images.

    No file but the run's own is opened, and no network is used.  device: `cpu`, `cuda`, `cuda:1` ...; `auto`: a GPU
    where there is one.  config_dir: where the class of a method of your own lies, as of `--config-dir`.  Raises
    UserError for a folder that is no finished run, and naming a file that is missing or not as the run wrote it.
    """
    if is_exported(Path(run_folder)):
        return load_exported(Path(run_folder), device)
    model = load_without_thresholds(run_folder, device, config_dir)
    model.thresholds = stored_thresholds(model.manifest, model.folder.path / MANIFEST)
    if model.thresholds:  # of the images or, where only that was calibrated, of the pixels: both have every score
        entry = model.thresholds.get("image") or next(iter(model.thresholds.values()))
        model.calibration = np.array([row.score for row in read_rows(model.folder, entry["file"])])
    return model


def load_without_thresholds(run_folder: Path | str, device: str, config_dir: Path | str | None) -> Model:
    """Return what `load` does, as a model that scores only, whatever became of the run's calibration."""
    folder = RunFolder(run_folder)
    manifest = folder.require_done()
    folder.require_undamaged(["config.yaml", WEIGHTS])
    if (rule := manifest.get("resize_rule", 1)) != RESIZE_RULE:
        what = f"the run has resize rule {rule}, new images are resized by rule {RESIZE_RULE}"
        say(f"{folder.path}: {what} (docs/metrics.md)")
    if config_dir:
        config.allow_folder(config_dir)
    values: Any = OmegaConf.to_container(stored_config(folder).method)
    parts = config.checked_part("method", present_method(values))
    seen = tuple(manifest.get("image_size", ()))  # `dataset.fit: aspect` chose it
    if seen and "image_size" in parts and as_size(parts["image_size"]) != seen:
        parts["image_size"] = seen
    method: Method = config.build("method", parts)
    require_contract(method)
    _load_weights(method, folder.path / WEIGHTS)
    hardware = manifest.get("hardware", {})  # of earlier versions, without some keys
    to_memory_format(method, str(hardware.get("memory_format")))
    method.scoring_precision = str(hardware.get("scoring_precision"))
    use_tf32(bool(hardware.get("tf32", True)))
    place = _device(device)
    if place.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as in a training: the same algorithms
    method.to(place).eval().requires_grad_(False)
    return Model(folder, manifest, method, {}, None)


def _load_weights(method: Method, file: Path) -> None:
    try:
        method.load_state_dict(load_file(file))
    except (OSError, SafetensorError) as error:
        raise UserError(str(file), f"cannot be read: {error}", ANEW) from error
    except RuntimeError as error:  # other tensors than the method's
        raise UserError(str(file), shorten(f"does not fit {type(method).__qualname__}: {error}", 300), ANEW) from error


def _device(name: str) -> torch.device:
    """Return the device of this name.  Raises UserError for one that PyTorch does not know or has not found."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        what = f"'{name}' cannot be used: {str(error).partition(chr(10))[0]}"
        raise UserError("device", what, "auto, cpu or cuda") from error
    return device
