"""What every method and every data set keeps to: one yaml key for each argument, and a source for each number."""

from __future__ import annotations

import inspect
from functools import cache
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from anomaly_bench.commands import show
from anomaly_bench.config import NOT_ARGUMENTS, Images, compose, conf_dir, flatten, locate
from anomaly_bench.contracts import Dataset, Method

METHODS = sorted((conf_dir() / "method").glob("[!_]*.yaml"))
DATASETS = sorted((conf_dir() / "dataset").rglob("[!_]*.yaml"))
FIRST = {path if path.parent.name == "dataset" else path.parent: path for path in reversed(DATASETS)}  # of each family


def test_there_are_files() -> None:
    assert len(METHODS) >= 1
    assert len(DATASETS) >= 20


@cache
def composed(group: str, path: Path) -> DictConfig:
    """A choice with what it starts from."""
    choice = path.relative_to(conf_dir() / group).with_suffix("").as_posix()
    other = "dataset=mtd" if group == "method" else f"method={METHODS[0].stem}"
    chosen: DictConfig = compose([f"{group}={choice}", other])[group]
    return chosen


def check_arguments(cfg: DictConfig, base: type) -> None:
    """The keys are the constructor's parameters, in both directions, and none is filled in silently."""
    target = locate("_target_", cfg["_target_"])
    assert issubclass(target, base)
    parameters = inspect.signature(target).parameters
    keys = {str(key) for key in cfg} - set(NOT_ARGUMENTS) - (set(Images.model_fields) if base is Dataset else set())
    assert keys == set(parameters), f"only in the yaml or only in the signature: {keys ^ set(parameters)}"
    for p in parameters.values():
        assert p.default is p.empty, f"{p.name} has a default"
        assert p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD), f"{p.name} takes anything"
        assert p.annotation is not p.empty, f"{p.name} has no type"


@pytest.mark.parametrize("path", METHODS, ids=lambda p: p.stem)
def test_method_keys_are_its_arguments(path: Path) -> None:
    cfg = composed("method", path)
    check_arguments(cfg, Method)
    assert cfg["name"] == path.stem


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[] if path in FIRST.values() else pytest.mark.slow) for path in DATASETS],
    ids=lambda p: p.relative_to(conf_dir() / "dataset").as_posix(),
)
def test_dataset_keys_are_its_arguments(path: Path) -> None:
    cfg = composed("dataset", path)
    check_arguments(cfg, Dataset)
    family = path.relative_to(conf_dir() / "dataset").parts[0].removesuffix(".yaml")
    assert cfg["name"] == family
    assert bool(cfg.get("category")) == (family != path.stem)  # of own images it is null
    assert (cfg.get("category") or path.stem) == path.stem


def test_a_category_differs_from_the_first_of_its_family_in_its_name_only() -> None:
    for path in (path for path in DATASETS if path.parent in FIRST):
        own, first = (dict(OmegaConf.load(file)) for file in (path, FIRST[path.parent]))  # type: ignore[arg-type]
        assert own.pop("category") == path.stem
        assert own == {key: value for key, value in first.items() if key != "category"}, path


@pytest.mark.parametrize("path", METHODS, ids=lambda p: p.stem)
def test_each_number_has_a_source(path: Path) -> None:
    every = set(flatten(composed("method", path))) - set(NOT_ARGUMENTS)
    keys = {key for key in every if not any(other.startswith(f"{key}.") for other in every)}  # a block's keys have one
    sources = {key: source for key, (_, source, _) in show.notes_of(path).items()}
    assert {key for key in keys if sources.get(key) not in show.SOURCES} == set()


@pytest.mark.parametrize("path", METHODS, ids=lambda p: p.stem)
def test_no_deviation_is_lost(path: Path) -> None:  # one was, when a formatter joined two lines of the header
    target = str(composed("method", path)["_target_"])
    kinds = [kind for kind, _ in show.remarks(target)]
    for kind in ("Deviation", "Unknown"):
        assert kinds.count(kind) == show.docstring(target).count(f"{kind}:")
