"""A finished run is found without torch, because what its method came to in its identity is remembered.

To check a method's values its class is imported, and torch with it.  `<cache>/methods/` stores what the values stood
for, by the values themselves and by all that decides which weights are found; those are compared with what they were.
Imports no torch.
"""

from __future__ import annotations

import json
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import anomaly_bench
from anomaly_bench import config
from anomaly_bench.checksums import checksum, remembered
from anomaly_bench.errors import UserError
from anomaly_bench.files import read_sealed, sha256, write_sealed
from anomaly_bench.former_names import present_class
from anomaly_bench.paths import WEIGHTS_VARIABLE, cache_at, cache_root
from anomaly_bench.runs.find import find_data, require_same_data, run_folder
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.stored_run import CHECKED

log = logging.getLogger("anomaly_bench")


def remember_method(cfg: DictConfig, settings: config.Settings) -> None:
    """Store what the method's values stand for; nothing where they name files that are none of its weights."""
    file, files = _file(cfg), config.weight_files(settings)
    if file and not config.names_files(settings.method, files):
        method = json.loads(json.dumps(config.identify_method(settings.method, files), default=str))
        weights = [_state(path) for paths in files.values() for path in paths]
        stored = {"method": method, "weights": weights}
        with suppress(UserError):  # a cache that cannot be written
            if read_sealed(file) != stored:
                write_sealed(file, stored)


def find_done(cfg: DictConfig) -> RunFolder | None:
    """Return the finished run that a configuration describes; None where there is none, or only torch can tell.

    None also with `track_test`, of which a run that was trained without it is spoken of.  Raises
    UserError where its images are not those of the run, or its files are damaged.
    """
    try:
        settings = config.validate(cfg, signatures=False)
        settings.dataset = config.checked_part("dataset", OmegaConf.to_container(cfg.dataset, resolve=True))
    except (UserError, OmegaConfBaseException):  # said by whoever checks all of it
        return None
    with cache_at(settings.cache_dir), remembered():
        file = _file(cfg)
        stored = read_sealed(file) if file and not settings.force and not settings.points else None
        if not stored or any(_state(Path(path)) != [path, *rest] for path, *rest in stored["weights"]):
            return None
        folder = run_folder(settings, config.identify(settings, method=stored["method"]).run)
        if folder.status != "done":
            return None
        require_same_data(folder, find_data(settings))
        folder.require_undamaged(CHECKED)
    folder.clear_leftovers()
    log.info("already done: %s", folder.path)
    return folder


def _file(cfg: DictConfig) -> Path | None:
    """Where a method's values are remembered; None for a class that is not of this package."""
    values: Any = OmegaConf.to_container(cfg.method, resolve=True)
    package = Path(anomaly_bench.__file__).parent
    source = package.parent / Path(*present_class(str(values["_target_"])).split(".")[:-1]).with_suffix(".py")
    if not source.is_relative_to(package) or not source.is_file():
        return None
    folder = os.environ.get(WEIGHTS_VARIABLE)
    there = sorted(path.name for path in Path(folder).glob("*")) if folder else []
    hub = sorted((key, value) for key, value in os.environ.items() if key.startswith("HF_"))
    decisive = [anomaly_bench.__version__, source.stat().st_mtime_ns, values, folder, there, hub]
    return cache_root() / "methods" / f"{sha256(json.dumps(decisive, sort_keys=True, default=str))[:32]}.json"


def _state(path: Path) -> list[str]:
    """Path and checksum of a file of weights, and what the hub's cache says is the newest; empty texts for nothing."""
    newest = path.parents[2] / "refs" / "main" if path.parent.parent.name == "snapshots" else None
    with suppress(UserError, OSError):
        return [str(path), checksum(path), newest.read_text() if newest else ""]
    return [str(path), "", ""]
