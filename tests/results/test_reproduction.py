"""Paper versus ours, against figures computed by hand."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

from anomaly_bench.results.collect import Measured, Row
from anomaly_bench.results.published import TEXTURES, figures
from anomaly_bench.results.reproduction import Line, TableRequest, Versus, compare_with_published, published_images
from anomaly_bench.results.reproduction_text import (
    line_cells,
    overview,
    versus_csv,
    versus_latex,
    versus_markdown,
    write_versus,
)
from anomaly_bench.results.seed_means import SeedMean, mean_over_seeds

PAPER = "paper WRN50-2 256px"  # `unverified`
RERUN = "independent rerun of official code, last epoch"  # `seen`
SCREW = next(f.value for f in figures() if (f.variant, f.category, f.metric) == (RERUN, "screw", "image_auroc"))
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


def of_paper(tables: list[Versus], metric: str = "image_auroc", variant: str = PAPER) -> Versus:
    return next(table for table in tables if (table.variant, table.metric) == (variant, metric))


def screw(request: TableRequest, values: Sequence[float], variant: str = RERUN, **more: Any) -> Line:
    rows = [replace(row("screw", seed, value), **more) for seed, value in enumerate(values)]
    lines = of_paper(compare_with_published([request], rows), variant=variant).lines
    return next(line for line in lines if line.category == "screw")


def everywhere(shift: dict[int, float]) -> list[Row]:
    """Each category's published value, shifted by its seed."""
    return [row(name, seed, PUBLISHED[name] + by) for name in NAMES for seed, by in shift.items()]


def test_every_published_column_of_the_setting_has_a_table(paper: dict[str, Any]) -> None:
    tables = compare_with_published([asked(paper)], [])
    assert {(table.variant, table.metric) for table in tables} == {
        (variant, metric) for variant in (PAPER, RERUN) for metric in ("image_auroc", "pixel_auroc", "pro_per_image")
    }
    assert all(line.inside is None for table in tables for line in table.lines)
    notes = {line.category: line.ours.note for line in of_paper(tables).lines}
    assert notes["bottle"] == "not run: data set missing"
    assert notes["carpet"] == "not run"
    assert notes["mean"] == "0 of 15 categories"


def test_the_verdict_is_that_of_the_prediction_interval(paper: dict[str, Any]) -> None:
    line = screw(asked(paper), [0.985, 0.995, 0.975])
    assert line.ours.value == pytest.approx(0.985)
    assert line.ours.std == pytest.approx(0.01)
    assert line.tolerance == pytest.approx(4.302653 * 0.01 * math.sqrt(4 / 3), rel=1e-6)  # Student's t, 2 degrees
    assert line.delta == pytest.approx(0.985 - SCREW)
    assert line.inside
    assert line_cells(line)[2:6] == ["0.9850 ± 0.0100 (n=3)", f"{0.985 - SCREW:+.4f}", "0.0497", "inside"]
    assert screw(asked(paper), [SCREW - 0.06, SCREW - 0.05, SCREW - 0.07]).verdict == "outside"
    assert screw(asked(paper), [SCREW - 0.06, SCREW - 0.03, SCREW - 0.09]).verdict == "inside"


def test_an_identical_method_is_outside_in_one_of_twenty_cases() -> None:
    draw, outside, cases = np.random.default_rng(0), Counter[int](), 4000
    figure = figures()[0]
    for seeds in (3, 5):
        for values in draw.normal(0.9, 0.02, (cases, seeds + 1)):
            line = Line("screw", replace(figure, value=values[0]), mean_over_seeds(values[1:].tolist()))
            outside[seeds] += line.verdict == "outside"
    assert all(0.04 < count / cases < 0.06 for count in outside.values())  # 0.05 +- 3 standard errors


def test_a_published_deviation_is_used() -> None:
    known = replace(figures()[0], value=0.9, std=0.02, seeds=5)
    line = Line("screw", known, SeedMean(0.95, 0.01, 3))
    variances = 0.01**2 / 3, 0.02**2 / 5
    freedom = sum(variances) ** 2 / (variances[0] ** 2 / 2 + variances[1] ** 2 / 4)  # Welch
    assert line.tolerance == pytest.approx(scipy.stats.t.ppf(0.975, freedom) * math.sqrt(sum(variances)))
    assert replace(line, published=replace(known, value=0.95 - line.tolerance * 0.999)).verdict == "inside"
    found = scipy.stats.ttest_ind_from_stats(0.95, 0.01, 3, 0.95 - line.tolerance, 0.02, 5, equal_var=False)
    assert found.pvalue == pytest.approx(0.05)


@pytest.mark.parametrize("values", [[0.97], [0.97, 0.98]])
def test_fewer_than_three_seeds_are_too_few_to_tell(values: list[float], paper: dict[str, Any]) -> None:
    line = screw(asked(paper), values)
    assert line.inside is None
    assert line.verdict == "too few seeds to tell"
    assert line_cells(line)[3:6] == [f"{line.delta:+.4f}", "–", "too few seeds to tell"]


def test_no_verdict_where_the_two_are_not_of_the_same_thing(paper: dict[str, Any]) -> None:
    values = [0.9, 0.91, 0.92]
    assert screw(asked(paper), values, PAPER).verdict == "unverified"
    assert screw(asked(paper, epochs=3), values).verdict == "other setting"
    assert screw(replace(asked(paper), stand_in=True), values).verdict == "stand-ins"
    whole = {"train": 300, "val": 20, "test_good": 41, "test_anomalous": 119}
    assert screw(asked(paper), values, images=whole).verdict == "outside"
    line = screw(asked(paper), values, images={**whole, "test_good": 40})
    assert line.verdict == "part of the data set"
    assert line.inside is None
    assert line_cells(line)[3] == f"{0.91 - SCREW:+.4f}"  # the difference is shown all the same
    assert published_images("mnist", "3") == 6131 + 10000
    assert published_images("mtd", "mtd") == 952 + 115 + 85 + 57 + 32 + 103
    assert published_images("folder", "own") == 0


def test_means_are_over_all_their_categories_or_not_compared(paper: dict[str, Any]) -> None:
    rows = everywhere({0: 0.01, 1: -0.01})
    lines = {line.category: line for line in of_paper(compare_with_published([asked(paper)], rows)).lines}
    assert list(lines)[-3:] == ["mean", "mean_textures", "mean_objects"]
    assert lines["mean"].ours.value == pytest.approx(sum(PUBLISHED[n] for n in NAMES) / 15)
    assert lines["mean"].ours.std == pytest.approx(0.02 / math.sqrt(2))  # both seeds' means lie 0.01 from their mean
    assert lines["mean_textures"].ours.value == pytest.approx(sum(PUBLISHED[n] for n in TEXTURES) / 5)
    assert lines["mean"].verdict == "too few seeds to tell"
    again = of_paper(compare_with_published([asked(paper)], everywhere({0: 0.01, 1: -0.01, 2: 0.0})), variant=RERUN)
    assert again.lines[-1].category == "mean"
    assert again.lines[-1].tolerance == pytest.approx(4.302653 * 0.01 * math.sqrt(4 / 3), rel=1e-6)
    assert again.lines[-1].verdict == "inside"
    fewer = [r for r in rows if r.category != "screw"]
    lines = {line.category: line for line in of_paper(compare_with_published([asked(paper)], fewer)).lines}
    assert line_cells(lines["mean"])[2:] == [
        f"{lines['mean'].ours.value:.4f} ± 0.0141 (n=2, 14 of 15 categories)",
        *"––––",
    ]
    assert not math.isnan(lines["mean_textures"].delta)  # screw is no texture
    assert lines["mean_objects"].verdict == ""


def test_categories_with_other_seeds_leave_the_mean_without_a_deviation(paper: dict[str, Any]) -> None:
    rows = [r for r in everywhere({0: 0.0, 1: 0.0}) if (r.category, r.seed) != ("screw", 1)]
    (mean,) = [line for line in of_paper(compare_with_published([asked(paper)], rows)).lines if line.category == "mean"]
    assert math.isnan(mean.ours.std)
    assert mean.ours.seeds == 0
    assert math.isnan(mean.tolerance)
    assert mean.inside is None


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
    assert overview([table])[1][1] == f"mvtec image_auroc: {PAPER} (other setting)"
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
    assert all(line.ours.value == pytest.approx(0.9) and not math.isnan(line.delta) for line in table.lines)


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
    tables = compare_with_published(
        [asked(paper)], [row("screw", 0, 0.97), *(row("metal_nut", i, 0.9 + i / 100) for i in range(3))]
    )
    write_versus(tables, tmp_path, "Only 100% a test_.")
    assert {file.name for file in tmp_path.iterdir()} == {"versus.md", "versus.csv", "versus.tex"}
    text = (tmp_path / "versus.md").read_text()
    assert text.count("**Only 100% a test_.**") == len(tables) + 1
    assert "| screw | 0.970 (unverified) | 0.9700 (n=1) | +0.0000 | – | unverified | – |" in text
    assert "| metal nut | 1.000 (seen) | 0.9100 ± 0.0100 (n=3) | -0.0900 | 0.0497 | outside | – |" in text
    assert "| screw | 0.989 (seen) | 0.9700 (n=1) | -0.0190 | – | too few seeds to tell | – |" in text
    assert "| bottle | 1.000 (unverified) | not run: data set missing | – | – | – | – |" in text
    assert "- unverified: CVPR2022 paper Tables 1-2 (recalled)" in text
    assert overview(tables)[1][-1] == "0 of 0 inside, 18 without a verdict"  # 15 categories and three means
    tex = (tmp_path / "versus.tex").read_text()
    assert r"Only 100\% a test\_. rd\_mvtec, mvtec image\_auroc: paper WRN50-2 256px" in tex
    assert r"screw & 0.970 (unverified) & 0.9700 (n=1) & +0.0000 & -- & unverified & -- \\" in tex
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
    assert (screw["published"], screw["confidence"], screw["seeds"], screw["verdict"]) == (
        "0.97",
        "unverified",
        "2",
        "other setting",
    )
    assert float(screw["ours"]) == pytest.approx(0.98)
    assert float(screw["delta"]) == pytest.approx(0.01)
    assert screw["tolerance"] == ""
    assert screw["differences"] == "epochs=3 in place of 200"
    (bottle,) = [r for r in records if (r["variant"], r["metric"], r["category"]) == (PAPER, "image_auroc", "bottle")]
    assert (bottle["ours"], bottle["note"], bottle["delta"], bottle["verdict"]) == (
        "",
        "not run: data set missing",
        "",
        "",
    )
