"""What `bench reproduce` is asked for: tables, a preset, overrides for their runs."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from omegaconf import OmegaConf

from anomaly_bench import config
from anomaly_bench.errors import UserError, nearest
from anomaly_bench.former_names import renamed

Place = tuple[str, str]  # data set and category of a run


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    experiments: list[str]
    overrides: list[str]  # KEY=VALUE, for each run whose method or data set has that key
    outputs: str
    preset: Mapping[str, Any]  # empty: none
    plan_only: bool

    @property
    def warning(self) -> str:
        """What stands above each table of a preset."""
        return str(self.preset.get("warning", ""))

    def overrides_of(self, experiment: str) -> list[str]:
        """The preset's overrides, in their place its overrides for this experiment, and in theirs the user's."""
        typed = [each for each in self.overrides if has_key(experiment, each)]
        preset = [*self.preset.get("overrides", []), *self.preset.get("experiments", {}).get(experiment, [])]
        last = {key_of(each): each for each in [*preset, *typed]}
        return [f"experiment={experiment}", *last.values(), f"output_dir={self.outputs}"]


def request_of(arguments: Namespace) -> Request:
    """Return the request that the command line makes.  Raises UserError for a key that none of the experiments has."""
    preset: Any = {}
    if name := arguments.keys.get("preset"):
        preset = OmegaConf.to_container(OmegaConf.load(config.conf_dir() / "preset" / f"{name}.yaml"))
    outputs = arguments.keys.get("outputs") or arguments.keys.get("output_dir") or preset.get("outputs", "outputs")
    chosen = list(dict.fromkeys(arguments.experiment)) or list(experiments())
    for override in arguments.overrides:
        if not any(has_key(experiment, override) for experiment in chosen):
            known = {key for experiment in chosen for key in keys_of(experiment)}
            hint = renamed(key_of(override), known) or nearest(key_of(override), known)
            raise UserError(key_of(override), f"no such key in {', '.join(chosen)}", hint)
    return Request(chosen, arguments.overrides, outputs, preset, arguments.plan)


def presets() -> list[str]:
    """Return the names that `preset=` takes."""
    return sorted(file.stem for file in (config.conf_dir() / "preset").glob("*.yaml"))


def experiments() -> Iterator[str]:
    """Yield the published tables: experiments with a matrix."""
    for file in sorted((config.conf_dir() / "experiment").glob("*.yaml")):
        if matrix(file.stem):
            yield file.stem


@cache
def matrix(experiment: str) -> dict[str, str]:
    """Return the keys that an experiment's file gives several values, and these."""
    file = OmegaConf.load(config.conf_dir() / "experiment" / f"{experiment}.yaml")
    return {str(key): str(values) for key, values in (OmegaConf.select(file, "hydra.sweeper.params") or {}).items()}


@cache
def places(experiment: str) -> tuple[Place, ...]:
    """Return each data set and category that an experiment's file names."""
    found: list[Place] = []
    with config.hydra_context() as loader:
        for value in filter(None, matrix(experiment).get("dataset", "").split(",")):
            name, _, category = value.strip().partition("/")
            every = config.options(loader, f"dataset/{name}") if category == "all" else [category or name]
            found += [(name, each) for each in every]
    return tuple(found) or (where(written(experiment)),)


def where(cfg: Any) -> Place:
    """Return the data set and the category of a configuration; a set without categories is its own."""
    return str(cfg.dataset.name), str(cfg.dataset.get("category") or cfg.dataset.name)


@cache
def written(experiment: str) -> Any:
    """Return the configuration of an experiment as its file has it."""
    return config.compose([f"experiment={experiment}"])


def keys_of(experiment: str) -> frozenset[str]:
    """Return the keys of an experiment's configuration in dotted form."""
    return frozenset(config.flatten(written(experiment)))


def has_key(experiment: str, override: str) -> bool:
    """Return whether an override fits an experiment.  Only keys of methods and data sets differ between experiments."""
    return not key_of(override).startswith(("method.", "dataset.")) or key_of(override) in keys_of(experiment)


def key_of(override: str) -> str:
    """Return the key of KEY=VALUE."""
    return override.partition("=")[0].lstrip("+~")
