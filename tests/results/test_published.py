from __future__ import annotations

from collections import Counter
from statistics import fmean
from typing import Any

import pytest

from anomaly_bench import config as configuration
from anomaly_bench.results.aggregate import METRICS
from anomaly_bench.results.published import (
    BASELINE,
    EPOCHS,
    TEXTURES,
    applies,
    baselines,
    categories,
    differences,
    figures,
    published,
)

OBJECTS = {"bottle", "cable", "capsule", "hazelnut", "metal_nut", "pill", "screw", "toothbrush", "transistor", "zipper"}
METHODS = {"us", "glf", "rd", "csflow", "us_shallow", "padim", "patchcore", "stfpm", "simplenet"}
NOT_HERE = {"l2_ae", "vae", "ssim_ae", "anogan", "ocgan", "feature_dictionary"}  # baselines that only a paper has run
CROPPED = {"padim", "patchcore", "simplenet"}  # the middle of larger images, which no key says: applies to no run
KINDS = {"paper", "paper baseline", "authors' code", "other implementation"}
SLIP = "the printed mean is not that of the printed column"


def test_every_figure_is_a_known_metric_with_a_source() -> None:
    assert len(figures()) > 1000
    assert {row.method for row in figures()} == METHODS | NOT_HERE
    for row in figures():
        assert row.metric in METRICS
        assert 0 <= row.value <= 1
        assert row.kind in KINDS
        assert row.confidence in {"seen", "secondary", "unverified", "doubtful"}
        assert row.source
        assert row.variant


def test_which_epoch_a_figure_is_of_is_unknown_unless_a_source_says_so() -> None:
    for row in figures():
        assert row.chosen in EPOCHS
        assert bool(row.chosen_source) == (row.chosen in ("last", "best-on-test"))
        assert row.origin.startswith(row.source)
        assert (row.chosen == "none") == (row.method in {"padim", "patchcore", "us_shallow"})  # nothing is trained
    said = {(row.method, row.variant): row.chosen for row in figures() if row.chosen not in ("unknown", "none")}
    assert said == {
        ("rd", "independent rerun of official code, last epoch"): "last",
        ("simplenet", "paper WRN50-2 (cropped; epoch chosen on test images)"): "best-on-test",
    }


def test_every_data_set_and_category_is_ours() -> None:
    with configuration.hydra_context() as loader:
        names = {name if "/" in name else f"{name}/{name}" for name in configuration.options(loader, "dataset")}
    for row in figures():
        whole = row.category.startswith("mean") and any(name.startswith(f"{row.dataset}/") for name in names)
        assert whole or f"{row.dataset}/{row.category}" in names, row


def test_conditions_name_keys_of_the_method() -> None:
    """A key that was renamed in the yaml would silently make a figure apply to no run."""
    with configuration.hydra_context() as loader:
        here = (METHODS - CROPPED) & set(configuration.options(loader, "method"))
    assert len(here) >= 5
    for method in here:
        cfg = configuration.compose([f"method={method}", "dataset=mtd"])
        known = {key.removeprefix("method.") for key in configuration.flatten(cfg)}
        settings = {row.setting for row in figures() if row.method == method}
        keys = {text.split("=")[0].rstrip("!") for setting in settings for text in setting.split(";") if text}
        assert keys - known == set() != keys


def test_no_figure_is_given_twice() -> None:
    keys = Counter((row.method, row.variant, row.dataset, row.category, row.metric) for row in figures())
    assert set(keys.values()) == {1}


@pytest.mark.parametrize(
    ("line", "names"), [("mean", TEXTURES | OBJECTS), ("mean_textures", TEXTURES), ("mean_objects", OBJECTS)]
)
def test_stated_means_are_the_means_of_the_categories(line: str, names: set[str]) -> None:
    """A slip in one of the values would show, unless a second one cancels it."""
    rows = {((row.method, row.variant, row.dataset, row.metric), row.category): row for row in figures()}
    checked = 0
    for key, category in rows:
        parts = [rows[key, name] for name in names if (key, name) in rows]
        if category == line and parts:
            assert len(parts) == len(names)
            off = abs(fmean(part.value for part in parts) - rows[key, line].value)
            doubtful = any(part.confidence == "doubtful" for part in parts)
            assert (off > 0.005) == doubtful, key  # that the mean is off is why they are called doubtful
            cut = 0.001 if rows[key, line].kind == BASELINE else 0.00075  # one paper cuts means of unrounded values off
            assert doubtful or (off < cut) == (SLIP not in rows[key, line].source), key
            checked += 1
    assert checked == (59 if line == "mean" else 9)


def test_what_a_paper_measured_of_others_is_no_figure_of_the_papers_method() -> None:
    rows = [row for row in figures() if row.kind == BASELINE]
    assert len(rows) == 134
    assert {row.method for row in rows} == NOT_HERE | {"us_shallow"}
    assert {row.confidence for row in rows} == {"seen", "secondary"}
    assert not any(row.setting for row in figures() if row.method in NOT_HERE | CROPPED)
    table = baselines("mvtec", "aupro_0.3")
    assert {column["mean"].value for column in table.values()} == {0.64, 0.479, 0.423, 0.79, 0.639, 0.694, 0.443, 0.515}
    assert all(len(column) == 16 for column in table.values())
    assert baselines("mvtec", "pixel_auroc") == {}


def test_categories_are_mvtecs_fifteen() -> None:
    assert categories("mvtec") == TEXTURES | OBJECTS
    assert categories("cifar10") == frozenset()  # only a mean is known


def test_the_papers_setting_gets_the_paper_first_then_the_rerun(paper: dict[str, Any]) -> None:
    rows = [row for row in published("rd", paper, "mvtec", "screw") if row.metric == "image_auroc"]
    assert [(row.kind, row.value, row.confidence) for row in rows] == [
        ("paper", 0.97, "unverified"),
        ("other implementation", 0.989, "seen"),
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 1},
        {"image_size": 128},
        {"backbone": "resnet34"},
        {"backbone": "wide_resnet50_2.racm_in1k"},  # the same network, trained another way
        {"flatten_loss": False},
        {"betas": [0.9, 0.999]},
    ],
)
def test_another_setting_gets_nothing(paper: dict[str, Any], change: dict[str, Any]) -> None:
    assert published("rd", {**paper, **change}, "mvtec", "screw") == []
    assert published("rd", {}, "mvtec", "screw") == []


def test_a_backbone_without_a_tag_is_the_same_network(paper: dict[str, Any]) -> None:
    without_tag = {**paper, "backbone": "wide_resnet50_2", "betas": (0.5, 0.999)}
    assert published("rd", without_tag, "mvtec", "screw") == published("rd", paper, "mvtec", "screw")


def test_the_ablation_applies_to_its_backbone_only(paper: dict[str, Any]) -> None:
    means = published("rd", {**paper, "backbone": "resnet18"}, "mvtec", "mean")
    assert {row.variant for row in means} == {"paper backbone ablation ResNet18"}


def test_figures_of_an_unknown_setting_are_never_shown(paper: dict[str, Any]) -> None:
    assert any(not row.setting for row in figures())
    assert not applies("", paper)
    assert published("rd", paper, "cifar10", "mean") == []


def test_differences_say_what_is_in_place_of_what(paper: dict[str, Any]) -> None:
    setting = "epochs=200;betas=[0.5,0.999];weights!=null;backbone=resnet18.tv_in1k;teacher.file!=null"
    config = {**paper, "epochs": 3, "weights": "file", "backbone": "resnet34"}
    expected = ["epochs=3 in place of 200", "backbone=resnet34 in place of resnet18.tv_in1k", "teacher.file=null"]
    assert differences(setting, config) == expected
    assert not applies(setting, config)
    assert differences("epochs=200", paper) == []


def test_a_teacher_that_saw_no_imagenet_is_another_setting() -> None:
    us = dict(configuration.compose(["method=us", "method.patch_sizes=[33]", "dataset=mtd"]).method)
    assert published("us", us, "mvtec", "leather") == []
    distilled = {**us, "teacher": {**us["teacher"], "images": "imagenet"}}
    (row,) = published("us", distilled, "mvtec", "leather")
    assert (row.value, row.confidence) == (0.956, "secondary")
    (row,) = published("us", distilled, "mvtec", "carpet")
    assert row.confidence == "doubtful"


def test_a_setting_that_an_earlier_version_wrote_is_the_same_setting() -> None:
    us = dict(configuration.compose(["method=us", "method.patch_sizes=[33]", "dataset=mtd"]).method)
    block = us.pop("teacher")
    former = {**us, **{f"teacher_{key}": value for key, value in block.items() if key != "file"}, "teacher": None}
    assert published("us", former, "mvtec", "leather") == []
    (row,) = published("us", {**former, "teacher_images": "imagenet"}, "mvtec", "leather")
    assert row.value == 0.956
    assert published("us", {**former, "teacher_images": "imagenet", "teacher": "random"}, "mvtec", "leather") == []


@pytest.mark.parametrize("key", ["weights", "teacher.file"])
def test_random_weights_are_nobodys_setting(key: str, paper: dict[str, Any]) -> None:
    assert published("rd", {**paper, key: "some file"}, "mvtec", "screw")
    assert published("rd", {**paper, key: "random"}, "mvtec", "screw") == []
