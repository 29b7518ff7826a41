"""Paper versus ours, against figures computed by hand."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from anomaly_bench.results.collect import Measured, Row
from anomaly_bench.results.published import TEXTURES, figures
from anomaly_bench.results.reproduction import LEAST, TableRequest, Versus, compare_with_published
from anomaly_bench.results.reproduction_text import (
    line_cells,
    overview,
    versus_csv,
    versus_latex,
    versus_markdown,
    write_versus,
)
from anomaly_bench.results.seed_means import SeedMean

PAPER = "paper WRN50-2 256px"
NAMES = sorted({f.category for f in figures() if f.variant == PAPER} - {"mean", "mean_textures", "mean_objects"})
PUBLISHED = {f.category: f.value for f in figures() if (f.variant, f.metric) == (PAPER, "image_auroc")}


def row(category: str, seed: int, value: float, setting: str = "aaaaaaaa", data: str = "") -> Row:
    names = {"setting": setting, "label": "rd", "method": "rd", "dataset": "mvtec", "category": category}
    metrics = {"image_auroc": value}
    return Row(**names, seed=seed, metrics=metrics, seconds=1, peak_memory_mb=1, path=Path(), config={},
               measured=Measured(), data=data)  # type: ignore[arg-type]  # fmt: skip


def asked(paper: dict[str, Any], **changes: Any) -> TableRequest:
    places = {name: ("mvtec", name) for name in NAMES}
    why = {("mvtec", "bottle"): "not run: data set missing"}
    settings = {"mvtec": "aaaaaaaa"}
    return TableRequest("rd_mvtec", "Of 100 & one", "rd", "mvtec", settings, {**paper, **changes}, paper, places, why)


def of_paper(tables: list[Versus], metric: str = "image_auroc") -> Versus:
    return next(table for table in tables if (table.variant, table.metric) == (PAPER, metric))


def everywhere(shift: dict[int, float]) -> list[Row]:
    """Each category's published value, shifted by its seed."""
    return [row(name, seed, PUBLISHED[name] + by) for name in NAMES for seed, by in shift.items()]


def test_every_published_column_of_the_setting_has_a_table(paper: dict[str, Any]) -> None:
    tables = compare_with_published([asked(paper)], [])
    assert {(table.variant, table.metric) for table in tables} == {
        (variant, metric)
        for variant in (PAPER, "independent rerun of official code, last epoch")
        for metric in ("image_auroc", "pixel_auroc", "pro_per_image")
    }
    assert all(line.inside is None for table in tables for line in table.lines)
    notes = {line.category: line.ours.note for line in of_paper(tables).lines}
    assert notes["bottle"] == "not run: data set missing"
    assert notes["carpet"] == "not run"
    assert notes["mean"] == "0 of 15 categories"


def test_mean_deviation_delta_and_tolerance_by_hand(paper: dict[str, Any]) -> None:
    rows = [row("screw", seed, value) for seed, value in enumerate([0.95, 0.96, 0.94])]
    (line,) = [
        line for line in of_paper(compare_with_published([asked(paper)], rows)).lines if line.category == "screw"
    ]
    assert line.ours.value == pytest.approx(0.95)
    assert line.ours.std == pytest.approx(0.01)  # of 0.95, 0.96, 0.94
    assert line.tolerance == pytest.approx(0.02)
    assert line.delta == pytest.approx(0.95 - 0.97)
    assert line.inside
    assert line_cells(line) == [
        "screw",
        "0.970 (unverified)",
        "0.9500 ± 0.0100 (n=3)",
        "-0.0200",
        "0.0200",
        "inside",
        "–",
    ]


@pytest.mark.parametrize(
    ("value", "verdict"), [(0.98, "inside"), (0.981, "outside"), (0.96, "inside"), (0.95, "outside")]
)
def test_a_single_seed_has_the_least_tolerance(value: float, verdict: str, paper: dict[str, Any]) -> None:
    (line,) = [
        x
        for x in of_paper(compare_with_published([asked(paper)], [row("screw", 0, value)])).lines
        if x.category == "screw"
    ]
    assert line.tolerance == LEAST == 0.01
    assert line_cells(line)[2:] == [f"{value:.4f} (n=1)", f"{value - 0.97:+.4f}", "0.0100", verdict, "–"]


def test_means_are_over_all_their_categories_or_not_compared(paper: dict[str, Any]) -> None:
    rows = everywhere({0: 0.01, 1: -0.01})
    lines = {line.category: line for line in of_paper(compare_with_published([asked(paper)], rows)).lines}
    assert list(lines)[-3:] == ["mean", "mean_textures", "mean_objects"]
    assert lines["mean"].ours.value == pytest.approx(sum(PUBLISHED[n] for n in NAMES) / 15)
    assert lines["mean"].ours.std == pytest.approx(0.02 / math.sqrt(2))  # both seeds' means lie 0.01 from their mean
    assert lines["mean_textures"].ours.value == pytest.approx(sum(PUBLISHED[n] for n in TEXTURES) / 5)
    assert lines["mean"].inside
    fewer = [r for r in rows if r.category != "screw"]
    lines = {line.category: line for line in of_paper(compare_with_published([asked(paper)], fewer)).lines}
    assert line_cells(lines["mean"])[2:] == [
        f"{lines['mean'].ours.value:.4f} ± 0.0141 (n=2, 14 of 15 categories)",
        *"––––",
    ]
    assert lines["mean_textures"].inside  # screw is no texture
    assert lines["mean_objects"].inside is None


def test_categories_with_other_seeds_leave_the_mean_without_a_deviation(paper: dict[str, Any]) -> None:
    rows = [r for r in everywhere({0: 0.0, 1: 0.0}) if (r.category, r.seed) != ("screw", 1)]
    (mean,) = [line for line in of_paper(compare_with_published([asked(paper)], rows)).lines if line.category == "mean"]
    assert math.isnan(mean.ours.std)
    assert mean.ours.seeds == 0
    assert mean.inside  # with the least tolerance


def test_runs_of_another_setting_or_of_other_files_are_not_mixed_in(paper: dict[str, Any]) -> None:
    rows = [row("screw", 0, 0.97), row("screw", 1, 0.1, setting="bbbbbbbb"), row("carpet", 0, 0.9, data="x")]
    lines = {line.category: line for line in of_paper(compare_with_published([asked(paper)], rows)).lines}
    assert (lines["screw"].ours.value, lines["screw"].ours.seeds) == (0.97, 1)
    rows.append(row("carpet", 1, 0.9, data="y"))
    lines = {line.category: line for line in of_paper(compare_with_published([asked(paper)], rows)).lines}
    assert lines["carpet"].inside is None
    assert "seeds on different files" in line_cells(lines["carpet"])[2]
    assert lines["mean"].ours.note == "2 of 15 categories"


def test_an_undefined_metric_is_not_compared(paper: dict[str, Any]) -> None:
    (line,) = [
        x
        for x in of_paper(compare_with_published([asked(paper)], [row("screw", 0, math.nan)])).lines
        if x.category == "screw"
    ]
    assert line.ours == SeedMean(note="undefined")
    assert line.inside is None


def test_another_setting_is_compared_with_what_the_experiment_is_meant_for_and_says_so(paper: dict[str, Any]) -> None:
    table = of_paper(compare_with_published([asked(paper, epochs=3, weights="random")], [row("screw", 0, 0.97)]))
    assert table.differences == ["weights=random", "epochs=3 in place of 200"]
    assert "Ours differs from what was published: weights=random, epochs=3 in place of 200." in versus_markdown([table])
    ablation = compare_with_published([asked(paper, backbone="resnet18")], [])  # this setting has figures of its own
    assert {t.variant for t in ablation} == {"paper backbone ablation ResNet18"}
    assert ablation[0].differences == []


def test_stand_ins(paper: dict[str, Any]) -> None:
    base = asked(paper)
    places = dict.fromkeys(NAMES, ("mvtec", "carpet"))
    table = of_paper(
        compare_with_published([TableRequest(**{**vars(base), "places": places})], [row("carpet", 0, 0.9)])
    )
    assert all(line.ours.value == pytest.approx(0.9) and line.inside is not None for line in table.lines)


def test_the_baseline_stands_beside_and_moves_nothing(paper: dict[str, Any]) -> None:
    rows = everywhere({0: 0.01, 1: -0.01})
    floors = [replace(row(name, 0, i / 100, "bbbbbbbb"), baseline=True) for i, name in enumerate(NAMES)]
    request = replace(asked(paper), baselines={"mvtec": "bbbbbbbb"})
    alone, beside = (of_paper(compare_with_published([request], each)).lines for each in (rows, [*rows, *floors]))
    assert [replace(line, baseline=0.0) for line in alone] == [replace(line, baseline=0.0) for line in beside]
    values = {line.category: line.baseline for line in beside}
    assert [values[name] for name in NAMES] == [i / 100 for i in range(15)]
    assert values["mean"] == pytest.approx(0.07)
    textures = [NAMES.index(name) / 100 for name in TEXTURES]
    assert values["mean_textures"] == pytest.approx(sum(textures) / 5)
    assert line_cells(beside[0])[-1] == "0.0000"
    fewer = {line.category: line for line in of_paper(compare_with_published([request], [*rows, *floors[1:]])).lines}
    assert line_cells(fewer["mean"])[-1] == "–"  # no mean over fewer categories than that of ours
    assert math.isnan(alone[0].baseline)


def test_texts(paper: dict[str, Any], tmp_path: Path) -> None:
    tables = compare_with_published([asked(paper)], [row("screw", 0, 0.97), row("metal_nut", 0, 0.9)])
    write_versus(tables, tmp_path, "Only 100% a test_.")
    assert {file.name for file in tmp_path.iterdir()} == {"versus.md", "versus.csv", "versus.tex"}
    text = (tmp_path / "versus.md").read_text()
    assert text.count("**Only 100% a test_.**") == len(tables) + 1
    assert "| screw | 0.970 (unverified) | 0.9700 (n=1) | +0.0000 | 0.0100 | inside | – |" in text
    assert "| metal nut | 1.000 (unverified) | 0.9000 (n=1) | -0.1000 | 0.0100 | outside | – |" in text
    assert "| bottle | 1.000 (unverified) | not run: data set missing | – | – | – | – |" in text
    assert "- unverified: CVPR2022 paper Tables 1-2 (recalled)" in text
    assert overview(tables)[1][-1] == "1 of 2 inside, 16 not compared"  # 15 categories and three means
    tex = (tmp_path / "versus.tex").read_text()
    assert r"Only 100\% a test\_. rd\_mvtec, mvtec image\_auroc: paper WRN50-2 256px" in tex
    assert r"screw & 0.970 (unverified) & 0.9700 (n=1) & +0.0000 & 0.0100 & inside & -- \\" in tex
    assert tex.count(r"\begin{table}") == tex.count(r"\midrule") / 2 == len(tables)
    assert "Only" not in versus_latex(tables)


def test_baselines_of_a_metric_stand_below_the_tables_and_are_compared_with_nothing(paper: dict[str, Any]) -> None:
    assert "baselines" not in versus_markdown(compare_with_published([asked(paper)], []))  # none for AUROC and own PRO
    request = TableRequest(**{**vars(asked(paper)), "places": {"zipper": ("mvtec", "zipper")}})
    columns = [of_paper(compare_with_published([request], []))]
    text = versus_markdown([Versus(request, "p", "aupro_0.3", columns[0].lines, [])])
    _, _, below = text.partition("### mvtec aupro_0.3: baselines")
    heading, _, zipper, mean, *_ = (line for line in below.splitlines() if line.startswith("|"))
    assert heading.startswith("| category | paper 1-NN p=65 | paper OC-SVM p=65 | paper K-Means p=65 |")
    assert zipper.startswith("| zipper | 0.512 (seen) | 0.355 (seen) | 0.253 (seen) |")
    assert mean.startswith("| mean | 0.640 (seen) |")
    assert "- seen: Bergmann et al. CVPR 2020" in below
    assert versus_csv([Versus(request, "p", "aupro_0.3", [], [])]).count("\n") == 1


def test_the_long_table_has_every_cell(paper: dict[str, Any]) -> None:
    tables = compare_with_published([asked(paper, epochs=3)], [row("screw", 0, 0.97), row("screw", 1, 0.99)])
    records = list(csv.DictReader(versus_csv(tables).splitlines()))
    assert len(records) == sum(len(table.lines) for table in tables)
    (screw,) = [r for r in records if (r["variant"], r["metric"], r["category"]) == (PAPER, "image_auroc", "screw")]
    assert (screw["published"], screw["confidence"], screw["seeds"], screw["inside"]) == (
        "0.97",
        "unverified",
        "2",
        "true",
    )
    assert float(screw["ours"]) == pytest.approx(0.98)
    assert float(screw["delta"]) == pytest.approx(0.01)
    assert float(screw["tolerance"]) == pytest.approx(2 * 0.02 / math.sqrt(2))
    assert screw["differences"] == "epochs=3 in place of 200"
    (bottle,) = [r for r in records if (r["variant"], r["metric"], r["category"]) == (PAPER, "image_auroc", "bottle")]
    assert (bottle["ours"], bottle["note"], bottle["delta"], bottle["inside"]) == (
        "",
        "not run: data set missing",
        "",
        "",
    )
