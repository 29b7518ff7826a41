"""Tables to be pasted: what is bold, how often the number of seeds is said, and that LaTeX takes them."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from anomaly_bench.commands.report import write_report
from anomaly_bench.results.aggregate import METRICS, Cell, Column, Table, metric_name
from anomaly_bench.results.comparisons import Comparison
from anomaly_bench.results.grid import Grid
from anomaly_bench.results.latex import latex_file, latex_table
from anomaly_bench.results.paper_tables import best_headings
from anomaly_bench.runs.folder import RunFolder

Run = Callable[..., RunFolder]
NAMES = ("bottle", "cable", "capsule", "carpet", "grid", "hazelnut")
EVIL = r"rd <a> | b_c & 50% $x$ #1 ~ ^ \n {y} ±–× -1 ä"


def comparison(first: str, second: str, distinguishable: bool, check: bool = False) -> Comparison:
    figures = (6, 6, 0.1, 0.05, 0.15, 1.0, 0.01)
    return Comparison("d", "m", first, second, *figures, distinguishable, "", check=check)


COLUMNS = {"a": 0.9, "b": 0.8, "c": 0.7, "floor (baseline)": 0.95, "part": 0.99}


@pytest.mark.parametrize(
    ("compared", "bold"),
    [
        ([comparison("a", "b", False), comparison("c", "a", True)], {"a", "b"}),
        ([comparison("a", "b", True), comparison("c", "a", True)], {"a"}),
        ([comparison("b", "c", False)], set()),  # the best one was compared with none
        ([comparison("a", "a2", False, check=True)], set()),
        ([comparison("floor (baseline)", "a", False), comparison("part", "a", False)], set()),
        ([], set()),
    ],
)
def test_bold_is_the_best_and_what_is_not_told_from_it(compared: list[Comparison], bold: set[str]) -> None:
    columns = [Column(head, [Cell(value), Cell(value)]) for head, value in COLUMNS.items() if head != "part"]
    columns.append(Column("part", [None, Cell(0.99, note="1 of 2 categories")]))  # of the easy category alone
    assert best_headings(Table("d", "m", ["x", "mean of 1"], columns), compared) == bold


def test_every_metric_has_a_name_of_its_own() -> None:
    names = {metric_name(metric) for metric in METRICS}
    assert len(names) == len(METRICS)
    assert not any("_" in name for name in names)


def texts(outputs: Path, **more: Any) -> tuple[str, str]:
    """report.md and report.tex."""
    folder = write_report(outputs, console=Console(file=io.StringIO()), **more)
    return (folder / "report.md").read_text(), (folder / "report.tex").read_text()


@pytest.fixture
def three_settings(run: Run) -> None:
    """On six categories and two seeds: two settings alike, a third far below them; in one category a third seed."""
    for i, name in enumerate(NAMES):
        for seed in (0, 1):
            for label, gain in (("rd", 0.3), ("rd x", 0.3 + 0.02 * (-1) ** i), ("rd y", 0.0)):
                run(name, seed, label=label, image_auroc=0.5 + 0.01 * i + gain + 0.001 * seed, aupro_0__3=0.5)
    run(NAMES[0], 2, label="rd y", image_auroc=0.5)


@pytest.mark.usefixtures("three_settings")
def test_the_best_and_its_equals_are_bold_and_the_seeds_are_named_once(tmp_path: Path) -> None:
    markdown, latex = texts(tmp_path)
    (mean,) = re.findall(r"\| mean of 6 \| .*", markdown.split("### AUPRO")[0])
    cells = [cell.strip() for cell in mean.split("|")[2:-1]]
    assert [cell.split()[0] for cell in cells if cell != "–"] == ["**0.8255**", "**0.8255**", "0.5255"]
    assert r"mean of 6 & \textbf{0.8255} $\pm$ 0.0007" in latex
    caption = next(line for line in markdown.splitlines() if line.startswith("Image AUROC on"))
    assert "over n = 2 seeds where nothing else is said" in caption
    assert "Bold: the best" in caption
    assert markdown.split("### AUPRO")[0].count("(n=") == 1  # the category with a third seed
    labels = re.findall(r"\\label\{(.*)\}", latex)
    assert labels[:2] == ["tab:mvtec:image-auroc", "tab:mvtec:aupro-0.3"]
    assert len(labels) == len(set(labels)) == latex.count(r"\begin{table}")


@pytest.mark.usefixtures("three_settings")
def test_one_table_has_the_means_of_all_metrics_and_the_costs(tmp_path: Path) -> None:
    many, _ = texts(tmp_path)
    markdown, latex = texts(tmp_path, one_table=True)
    means = [line.split("|")[2:] for line in many.splitlines() if line.startswith("| mean of 6")]
    lines = {line.split("|")[1].strip(): line.split("|")[2:] for line in markdown.splitlines() if line[:1] == "|"}
    for name, mean in zip(("image AUROC", "AUPRO@0.3"), means, strict=True):
        ours = [cell for cell in mean if cell.strip() != "–"]
        assert lines[name] == ours
    assert lines["training, s"] == [" 12.3 "] * 3 + [""]
    assert "### image AUROC" not in markdown
    assert "Means over 6 categories." in markdown
    assert latex.count(r"\begin{table}") == 3  # the results; two tables of comparisons
    assert latex.index("AUPRO@0.3 &") < latex.index("training, s &")


def test_each_data_set_has_a_file_of_its_own_tables(run: Run, tmp_path: Path) -> None:
    for dataset in ("mvtec", "visa"):
        for label in ("rd", "rd method.lr=0.1"):
            run("screw", dataset=dataset, label=label, image_auroc=0.9)
    folder = write_report(tmp_path, console=Console(file=io.StringIO()))
    whole, *parts = ((folder / f"{name}.tex").read_text() for name in ("report", "table_mvtec", "table_visa"))
    labels = [re.findall(r"\\label{(.*)}", text) for text in (whole, *parts)]
    assert labels[0]
    assert sorted(labels[0]) == sorted(labels[1] + labels[2])
    assert {label.split(":")[1] for label in labels[1]} == {"mvtec"}


def compiled(place: Path, text: str) -> str:
    """What pdflatex says of a paper that has these tables in it."""
    place.mkdir(exist_ok=True)
    (place / "tables.tex").write_text(text)
    packages = r"\documentclass{article}\usepackage{booktabs,graphicx}"
    (place / "paper.tex").write_text(packages + r"\begin{document}\input{tables}\end{document}")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run([*command], cwd=place, capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == 0, done.stdout[-1500:]
    assert (place / "paper.pdf").read_bytes().startswith(b"%PDF")
    return done.stdout


needs_latex = pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex here: make test-latex")


@needs_latex
@pytest.mark.parametrize("one_table", [False, True])
@pytest.mark.usefixtures("three_settings")
def test_pdflatex_takes_the_tables_and_none_is_wider_than_the_text(run: Run, tmp_path: Path, one_table: bool) -> None:
    for i, name in enumerate(NAMES):
        run(name, 0, label=EVIL, image_auroc=0.5 + 0.01 * i, aupro_0__3=0.5)
    run("screw", image_auroc=0.9).update(learning={"warning": EVIL})
    _, latex = texts(tmp_path, one_table=one_table)
    said = compiled(tmp_path / "paper", latex)
    assert not re.search(r"Overfull|multiply defined|Missing character", said)


@needs_latex
def test_a_table_of_many_columns_is_scaled_down_and_a_narrow_one_is_not(tmp_path: Path) -> None:
    wide = Grid(
        [["category", *(f"heading of setting {i}" for i in range(9))], ["x", *["0.9876 ± 0.0123"] * 9]], "l" + "r" * 9
    )
    narrow = Grid([["category", "rd"], ["a few words " * 5, "0.9876"]], "lr", bold=frozenset({(0, 1)}))
    tables = [latex_table("A caption.", name, grid, ["A note"]) for name, grid in (("wide", wide), ("narrow", narrow))]
    assert ["resizebox" in table for table in tables] == [True, False]
    assert r"\textbf{0.9876} \\" in tables[1]
    assert "Overfull" not in compiled(tmp_path, latex_file(tables))
