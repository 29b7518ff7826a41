from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import get_args

import pytest
from omegaconf import OmegaConf

from anomaly_bench.config import compose, conf_dir
from anomaly_bench.datasets import textures
from anomaly_bench.datasets.folder import DEFAULTS
from anomaly_bench.datasets.mvtec import Category
from anomaly_bench.datasets.one_class import CATEGORIES
from anomaly_bench.errors import UserError

CONF = conf_dir() / "dataset"
OURS = sorted([CONF / "mtd.yaml", CONF / "folder.yaml", *CONF.glob("*/*.yaml")])


def test_every_category_has_its_file() -> None:
    assert [path.stem for path in OURS if path.parent.name == "demo"] == sorted(textures.CATEGORIES)
    sets = {"mvtec": get_args(Category), **CATEGORIES}
    for name, categories in sets.items():
        assert [path.stem for path in OURS if path.parent.name == name] == sorted(categories)
        assert list(OmegaConf.load(conf_dir() / "download" / f"{name}.yaml").counts) == list(categories)


@pytest.mark.parametrize("path", OURS, ids=lambda path: str(path.relative_to(CONF)))
def test_the_keys_are_the_arguments(path: Path) -> None:
    values = OmegaConf.to_container(OmegaConf.load(path))
    module, _, name = values.pop("_target_").rpartition(".")
    target = getattr(importlib.import_module(module), name)
    assert values.pop("name") in (path.parent.name, path.stem)
    assert list(values) == list(inspect.signature(target).parameters)
    assert values.get("category", path.stem) == path.stem
    target(**values)


def test_what_counts_as_given_in_a_folder_is_what_differs_from_its_file() -> None:
    values = OmegaConf.load(CONF / "folder.yaml")
    assert {key: values[key] for key in DEFAULTS} == DEFAULTS


def test_a_choice_is_the_group_dataset() -> None:
    with pytest.raises(UserError, match=r"dataset: 'mvtec/botle' is none of .*did you mean 'mvtec/bottle'"):
        compose(["dataset=mvtec/botle"])
