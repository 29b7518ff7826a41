"""A run's config.yaml, read back.  Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import shorten

from omegaconf import DictConfig, OmegaConf

from anomaly_bench.errors import UserError, none_of
from anomaly_bench.former_names import added_keys
from anomaly_bench.runs.folder import RunFolder

ANEW = "force=true trains the run anew"


def stored_config(folder: RunFolder) -> DictConfig:
    """Return a run's configuration, every interpolation resolved.

    Raises UserError where it is missing or damaged, and where another program made the maps.
    """
    if folder.manifest.get("foreign"):
        what = "holds maps of another program; there is no model of them"
        raise UserError(str(folder.path), what, "bench eval --maps DIR --masks DIR --as NAME measures them again")
    file = folder.path / "config.yaml"
    try:
        cfg = OmegaConf.load(file) if file.is_file() else None
        if cfg is not None:
            OmegaConf.resolve(cfg)
    except Exception as error:  # a damaged yaml can raise anything in its parser
        raise UserError(str(file), shorten(f"cannot be read as yaml: {error}", 300), ANEW) from error
    if not isinstance(cfg, DictConfig) or not all(isinstance(cfg.get(p), DictConfig) for p in ("method", "dataset")):
        raise UserError(str(file), "is missing or holds no configuration of a run", ANEW)
    cfg.dataset = OmegaConf.merge(added_keys(cfg.dataset), cfg.dataset)
    return cfg


def set_places(cfg: DictConfig, overrides: Mapping[str, str], command: str) -> None:
    """Set keys that say where data and cache are.  Raises UserError, naming the command, for any other key."""
    files = (f"dataset.{key}" for key in cfg.dataset if key in ("root", "file") or str(key).endswith("_file"))
    places = ["cache_dir", *files]
    for key, value in overrides.items():
        if key not in places:
            raise none_of(command, key, places)
        OmegaConf.update(cfg, key, value)
