from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import get_args

import pytest
from omegaconf import OmegaConf

from anomaly_bench.config import Images, compose, conf_dir
from anomaly_bench.datasets import autovi, btad, mpdd, mvtec, mvtec_ad2, mvtec_loco, textures, visa
from anomaly_bench.datasets.folder import DEFAULTS
from anomaly_bench.datasets.one_class import CATEGORIES
from anomaly_bench.datasets.prepare import NAMES
from anomaly_bench.errors import UserError

CONF = conf_dir() / "dataset"
OURS = sorted([*(CONF / f"{name}.yaml" for name in ("csv", "folder", "ksdd2", "mtd")), *CONF.glob("*/*.yaml")])
PUBLISHED = (autovi, btad, mpdd, mvtec, mvtec_ad2, mvtec_loco, visa)


def test_every_category_has_its_file() -> None:
    assert [path.stem for path in OURS if path.parent.name == "demo"] == sorted(textures.CATEGORIES)
    sets = {module.__name__.rpartition(".")[2]: get_args(module.Category) for module in PUBLISHED} | CATEGORIES
    for name, categories in sets.items():
        assert [path.stem for path in OURS if path.parent.name == name] == sorted(categories)
        assert list(OmegaConf.load(conf_dir() / "download" / f"{name}.yaml").counts) == list(categories)


@pytest.mark.parametrize("path", OURS, ids=lambda path: str(path.relative_to(CONF)))
def test_the_keys_are_the_arguments(path: Path) -> None:
    values = OmegaConf.to_container(OmegaConf.load(path))
    module, _, name = values.pop("_target_").rpartition(".")
    target = getattr(importlib.import_module(module), name)
    assert values.pop("name") in (path.parent.name, path.stem)
    own = [key for key in values if key not in Images.model_fields]  # of conf/images.yaml: a data set's own default
    assert own == list(inspect.signature(target).parameters)
    assert values.get("category") in (path.stem, None)
    target(**{key: values[key] for key in own})


@pytest.mark.parametrize("name", [name for name in NAMES if name != "demo"])
def test_each_set_says_where_it_is_from(name: str) -> None:
    source = OmegaConf.load(conf_dir() / "download" / f"{name}.yaml")
    assert source.urls or source.page
    assert all(url.startswith(("https://", "http://")) for url in source.urls)
    if name not in (*CATEGORIES, "mtd"):
        assert source.licence.startswith("CC BY")
        assert source.page.startswith("https://")


def test_what_counts_as_given_in_a_folder_is_what_differs_from_its_file() -> None:
    values = OmegaConf.load(CONF / "folder.yaml")
    assert {key: values[key] for key in DEFAULTS} == DEFAULTS


def test_a_choice_is_the_group_dataset() -> None:
    with pytest.raises(UserError, match=r"dataset: 'mvtec/botle' is none of .*did you mean 'mvtec/bottle'"):
        compose(["dataset=mvtec/botle"])


def test_a_submission_has_a_map_for_each_private_image() -> None:
    counts = OmegaConf.load(conf_dir() / "download" / "mvtec_ad2.yaml").counts
    submission = OmegaConf.load(conf_dir() / "benchmark" / "mvtec_ad2.yaml").submission
    assert submission.images.keys() == counts.keys()
    for name, images in submission.images.items():
        assert {counts[name][split] for split in submission.sets} == {images.count}
