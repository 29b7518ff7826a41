from __future__ import annotations

from collections import Counter
from statistics import fmean
from typing import Any

import pytest

from anomaly_bench.report.paper import applies, categories, figures, published
from anomaly_bench.report.summary import METRICS

TEXTURES = ["carpet", "grid", "leather", "tile", "wood"]
OBJECTS = ["bottle", "cable", "capsule", "hazelnut", "metal_nut", "pill", "screw", "toothbrush", "transistor", "zipper"]


def test_every_figure_is_a_known_metric_with_a_source() -> None:
    assert len(figures()) > 150
    for row in figures():
        assert row.metric in METRICS
        assert 0 <= row.value <= 1
        assert row.kind in {"paper", "other implementation"}
        assert row.confidence in {"seen", "secondary", "unverified"}
        assert row.source
        assert row.variant


def test_no_figure_is_given_twice() -> None:
    keys = Counter((row.variant, row.dataset, row.category, row.metric) for row in figures())
    assert set(keys.values()) == {1}


@pytest.mark.parametrize(
    ("line", "names"), [("mean", TEXTURES + OBJECTS), ("mean_textures", TEXTURES), ("mean_objects", OBJECTS)]
)
def test_stated_means_are_the_means_of_the_categories(line: str, names: list[str]) -> None:
    """A slip in one of the values would show, unless a second one cancels it."""
    values = {((row.variant, row.dataset, row.metric), row.category): row.value for row in figures()}
    checked = 0
    for key, category in values:
        parts = [values[key, name] for name in names if (key, name) in values]
        if category == line and parts:
            assert len(parts) == len(names)
            assert fmean(parts) == pytest.approx(values[key, line], abs=0.00051), key
            checked += 1
    assert checked == (8 if line == "mean" else 3)  # paper and re-run three metrics each, another implementation two


def test_categories_are_mvtecs_fifteen() -> None:
    assert categories("mvtec") == {*TEXTURES, *OBJECTS}
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
