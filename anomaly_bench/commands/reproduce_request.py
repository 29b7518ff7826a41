"""What `bench reproduce WORDS` asks for: tables, a preset, words for their runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from omegaconf import OmegaConf

from anomaly_bench import config
from anomaly_bench.errors import UserError, nearest, none_of

PLAN = ("--plan", "--dry-run")
Place = tuple[str, str]  # data set and category of a run
OWN = ("preset", "outputs", "output_dir")  # keys that are no words of the runs


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    experiments: list[str]
    words: list[str]  # KEY=VALUE, for each run whose method or data set has that key
    outputs: str
    preset: Mapping[str, Any]  # empty: none
    plan_only: bool

    @property
    def warning(self) -> str:
        """What stands above each table of a preset."""
        return str(self.preset.get("warning", ""))

    def words_of(self, experiment: str) -> list[str]:
        """The preset's words, in their place its words for this experiment, and in theirs those that were typed."""
        typed = [word for word in self.words if has_key(experiment, word)]
        preset = [*self.preset.get("words", []), *self.preset.get("experiments", {}).get(experiment, [])]
        last = {key_of(word): word for word in [*preset, *typed]}
        return [f"experiment={experiment}", *last.values(), f"output_dir={self.outputs}"]


def parse(words: Sequence[str]) -> Request:
    """Raises UserError for an unknown option, experiment, preset or key."""
    presets = {file.stem: file for file in (config.conf_dir() / "preset").glob("*.yaml")}
    flags = [word for word in words if word.startswith("-")]
    if wrong := [flag for flag in flags if flag not in PLAN]:
        raise none_of("bench reproduce", wrong[0], PLAN)
    tables = list(experiments())
    names = [word for word in words if "=" not in word and word not in flags]
    if unknown := [name for name in names if name not in tables]:
        raise none_of("bench reproduce", unknown[0], tables)
    given = dict(word.split("=", 1) for word in words if key_of(word) in OWN)
    name = given.get("preset")
    if name and name not in presets:
        raise none_of("preset", name, presets)
    preset: Any = OmegaConf.to_container(OmegaConf.load(presets[name])) if name else {}
    outputs = given.get("outputs") or given.get("output_dir") or preset.get("outputs", "outputs")
    asked = list(dict.fromkeys(names)) or tables
    rest = [word for word in words if "=" in word and key_of(word) not in OWN]
    for word in rest:
        if not any(has_key(experiment, word) for experiment in asked):
            hint = nearest(key_of(word), {key for experiment in asked for key in keys_of(experiment)})
            raise UserError(key_of(word), f"no such key in {', '.join(asked)}", hint)
    return Request(asked, rest, outputs, preset, bool(flags))


def experiments() -> Iterator[str]:
    """The published tables: experiments with a matrix."""
    for file in sorted((config.conf_dir() / "experiment").glob("*.yaml")):
        if matrix(file.stem):
            yield file.stem


@cache
def matrix(experiment: str) -> dict[str, str]:
    """The keys that an experiment's file gives several values, and these."""
    file = OmegaConf.load(config.conf_dir() / "experiment" / f"{experiment}.yaml")
    return {str(key): str(values) for key, values in (OmegaConf.select(file, "hydra.sweeper.params") or {}).items()}


@cache
def places(experiment: str) -> tuple[Place, ...]:
    """Each data set and category that an experiment's file names."""
    found: list[Place] = []
    with config.hydra_context() as loader:
        for value in filter(None, matrix(experiment).get("dataset", "").split(",")):
            name, _, category = value.strip().partition("/")
            every = config.options(loader, f"dataset/{name}") if category == "all" else [category or name]
            found += [(name, each) for each in every]
    return tuple(found) or (where(written(experiment)),)


def where(cfg: Any) -> Place:
    """The data set and the category of a configuration; a set without categories is its own."""
    return str(cfg.dataset.name), str(cfg.dataset.get("category") or cfg.dataset.name)


@cache
def written(experiment: str) -> Any:
    """The configuration of an experiment as its file has it."""
    return config.compose([f"experiment={experiment}"])


def keys_of(experiment: str) -> frozenset[str]:
    return frozenset(config.flatten(written(experiment)))


def has_key(experiment: str, word: str) -> bool:
    """May a word be typed for it?  Only keys of methods and data sets differ between experiments."""
    return not key_of(word).startswith(("method.", "dataset.")) or key_of(word) in keys_of(experiment)


def key_of(word: str) -> str:
    return word.partition("=")[0].lstrip("+~")
