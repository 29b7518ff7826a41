"""Figures for print: which there are, that they show what the page shows, and what they need."""

from __future__ import annotations

import re
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from rich.console import Console
from synthetic import synthetic

from anomaly_bench.commands.main import main
from anomaly_bench.commands.report import write_report
from anomaly_bench.html_report import figures
from anomaly_bench.html_report.charts import COLOURS, MARKERS, Axis, Chart, Dot, nth_style, spanning
from anomaly_bench.html_report.run_data import runs_by_category
from anomaly_bench.results.collect import collect
from anomaly_bench.runs.folder import RunFolder, find

Run = Callable[..., RunFolder]
CURVES = ("roc-of-images", "roc-of-pixels", "pro-overlap-of-regions")
needs_matplotlib = pytest.mark.skipif(not figures.find_spec("matplotlib"), reason="pip install matplotlib")


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One category, two methods, two seeds."""
    outputs = tmp_path_factory.mktemp("outputs")
    synthetic(outputs, categories=1, methods=2, seeds=2)
    return outputs


def drawn(outputs: Path, format: str) -> dict[str, bytes]:
    """`bench report --figures`, and the content of each figure by its name."""
    target = write_report(outputs, console=Console(file=StringIO()), figures=format)
    return {file.name: file.read_bytes() for file in (target / "figures").iterdir()}


@needs_matplotlib
def test_there_is_a_figure_for_each_chart_fit_for_print(outputs: Path) -> None:
    printed = drawn(outputs, "pdf")
    place = "synthetic-category00"
    costs = [f"synthetic-image-auroc-over-{cost}" for cost in ("training-time", "time-per-image")]
    seeds = [f"synthetic-seeds-{metric}" for metric in ("image_auroc", "pixel_auroc", "aupro_0.3")]
    losses = [f"{place}-training-{method}-loss" for method in ("csflow", "rd")]
    names = {*(f"{place}-{curve}" for curve in CURVES), *costs, *seeds, *losses}
    assert set(printed) == {f"{name}.pdf" for name in names}
    assert all(content.startswith(b"%PDF") and b"Type3" not in content for content in printed.values())
    width, height = re.findall(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", printed[f"{place}-{CURVES[0]}.pdf"])[0]
    assert (float(width), float(height)) == pytest.approx((72 * 3.4, 72 * (2.5 + 0.22)), abs=0.5)


@needs_matplotlib
def test_a_chart_has_the_page_s_lines_axes_and_colours() -> None:
    axis = Axis("false-positive rate", 0, 0.3)
    dots = [Dot(nth_style(i), "", 10.0**i, 0.5 + 0.1 * i, 0.5 + 0.05 * i, 0.5 + 0.15 * i) for i in range(3)]
    chart = Chart(
        "", spanning("p99 latency, ms", [1, 100], log=True), Axis("image_auroc", 0, 1), dots=dots, front=[(1.0, 0.5)]
    )
    (axes,) = figures._draw_chart(chart, {str(i): nth_style(i) for i in range(3)}).axes
    assert (axes.get_xscale(), axes.get_xlabel(), axes.get_ylabel()) == ("log", "p99 latency, ms", "image AUROC")
    assert axes.get_xlim() == pytest.approx((chart.x.low, chart.x.high))
    assert axes.get_xticks().tolist() == chart.x.ticks()
    points = [
        (line.get_xdata()[0], line.get_ydata()[0], line.get_color())
        for line in axes.lines
        if line.get_marker() in figures.MARKS[:3]
    ]
    css = (Path(figures.__file__).parent / "static" / "report.css").read_text()
    light = css[: css.index("@media")]
    assert points[:3] == [(d.x, d.y, re.findall(rf"--c{i}: (#\w+)", light)[0]) for i, d in enumerate(dots)]
    assert len(figures._colours()) == COLOURS
    assert len(set(figures.MARKS)) == len(MARKERS)
    (other,) = figures._draw_chart(Chart("", axis, axis, diagonal=True), {}).axes
    assert other.get_xlim() == pytest.approx((0, 0.3))


def test_a_point_of_the_seeds_is_the_mean_over_all_categories(run: Run, tmp_path: Path) -> None:
    for seed, values in enumerate([(0.9, 0.7), (0.8, 0.5)]):
        for category, value in zip(("grid", "screw"), values, strict=True):
            run(category, seed, image_auroc=value)
    run("grid", 2, image_auroc=0.1)  # a seed without the other category
    run("grid", 0, label="rd other", image_auroc=0.2)
    categories = runs_by_category(collect(tmp_path).rows)["mvtec"]
    found = figures._seeds("image_auroc", categories, [each for runs in categories.values() for each in runs])
    assert found is not None
    assert list(found.rows) == ["rd"]
    np.testing.assert_allclose(sorted(found.rows["rd"][1]), [fmean([0.8, 0.5]), fmean([0.9, 0.7])])
    assert figures._seeds("pixel_auroc", categories, []) is None


@needs_matplotlib
def test_old_figures_go_equal_runs_give_equal_files_and_equal_names_stay_apart(run: Run, tmp_path: Path) -> None:
    run("screw", label="rd a=1", image_auroc=0.9)
    run("grid", label="rd a-1", image_auroc=0.9)
    for folder in find(tmp_path):
        (folder.path / "training.csv").write_text("stage,epoch,loss\nstudent,0,1.0\nstudent,1,0.5\n")
    old = tmp_path / "report" / "figures" / "old.pdf"
    old.parent.mkdir(parents=True)
    old.write_text("")
    found = drawn(tmp_path, "svg")
    assert all(content.startswith(b"<?xml") for content in found.values())
    assert "old.pdf" not in found
    assert drawn(tmp_path, "svg") == found
    assert {"mvtec-screw-student-rd-a-1-loss.svg", "mvtec-grid-student-rd-a-1-loss.svg"} <= set(found)
    taken = {tmp_path / "x.pdf", tmp_path / "x-2.pdf"}
    assert figures._free(tmp_path / "x.pdf", taken).name == "x-3.pdf"


def test_without_matplotlib_the_command_says_how_to_get_it(
    outputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(figures, "find_spec", lambda name: None)
    assert main(["report", str(outputs), "--figures", "pdf"]) == 2
    said = capsys.readouterr().err
    assert "--figures pdf: matplotlib is not installed (pip install 'anomaly_bench[figures]')" in said
    assert len(said.splitlines()) == 1
