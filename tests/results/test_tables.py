from __future__ import annotations

import csv
import io
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from rich.console import Console

from anomaly_bench.commands.report import write_report
from anomaly_bench.errors import UserError
from anomaly_bench.results.aggregate import Table, summarise
from anomaly_bench.results.collect import collect
from anomaly_bench.results.latex import escape
from anomaly_bench.results.published import categories, figures
from anomaly_bench.results.terminal import print_run
from anomaly_bench.results.text import BASELINES_NOTE
from anomaly_bench.runs.folder import RunFolder

Run = Callable[..., RunFolder]
R18 = {"backbone": "resnet18", "epochs": 20}
R18_LABEL = "rd method.backbone=resnet18 method.epochs=20"
RERUN = "independent rerun of official code, last epoch"


def written(outputs: Path) -> tuple[Path, str]:
    """The report's folder and what was printed."""
    console = Console(file=io.StringIO(), width=200)
    folder = write_report(outputs, console=console)
    return folder, console.file.getvalue()  # type: ignore[attr-defined]


def table(outputs: Path, metric: str) -> Table:
    (found,) = [table for table in summarise(collect(outputs).rows) if table.metric == metric]
    return found


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def two_settings(run: Run) -> None:
    """Setting A: screw with seeds 0.90, 0.94 and grid with 0.80, 0.82.  Setting B: screw alone."""
    for seed, screw, grid in ((0, 0.90, 0.80), (1, 0.94, 0.82)):
        run("screw", seed, image_auroc=screw)
        run("grid", seed, image_auroc=grid)
    run("screw", 0, label=R18_LABEL, method=R18, image_auroc=0.7, pixel_auroc=0.6)


@pytest.mark.usefixtures("two_settings")
def test_long_csv_has_a_line_for_each_run(tmp_path: Path) -> None:
    folder, _ = written(tmp_path)
    rows = lines(folder / "runs.csv")
    assert len(rows) == 5
    assert {(r["category"], r["seed"], r["image_auroc"], r["pixel_auroc"]) for r in rows if r["label"] == "rd"} == {
        ("screw", "0", "0.9", ""),
        ("screw", "1", "0.94", ""),
        ("grid", "0", "0.8", ""),
        ("grid", "1", "0.82", ""),
    }
    assert float(rows[0]["seconds"]) == pytest.approx(13.34)


@pytest.mark.usefixtures("two_settings")
def test_costs_stand_below_the_tables_of_a_data_set_and_in_runs_csv(run: Run, tmp_path: Path) -> None:
    for seed, seconds, score in ((0, 100.0, 40.0), (1, 50.0, 20.0)):
        stages = {
            "student": {"seconds": seconds, "peak_memory_mb": 712 + seconds},
            "fit": {"seconds": 10.0},
            "score": {"seconds": 3.0, "ms_per_image": score, "peak_memory_mb": 400.0},
        }
        run("mtd", seed, dataset="mtd", label="us", image_auroc=0.9).update(stages=stages)
    folder, _ = written(tmp_path)
    below = (folder / "report.md").read_text().split("## mtd\n")[1].split("\n## ")[0]
    assert "| us | 2 | 97.3 | 30.0 | 812 |" in below.split("### costs")[1]
    rows = [row for row in lines(folder / "runs.csv") if row["dataset"] == "mtd"]
    assert [float(row["seconds"]) - float(row["train_s"]) for row in rows] == pytest.approx([3.0, 3.0])
    assert [float(row["train_s"]) for row in rows] == pytest.approx([122.34, 72.34])  # with 12.34 of another stage
    assert [row["ms_per_image"] for row in rows] == ["40.0", "20.0"]


@pytest.mark.usefixtures("two_settings")
def test_wide_csv_holds_means_deviations_and_seeds(tmp_path: Path) -> None:
    folder, _ = written(tmp_path)
    rows = {r["category"]: r for r in lines(folder / "table_mvtec.csv") if r["metric"] == "image_auroc"}
    assert list(rows) == ["grid", "screw", "mean of 2"]
    assert float(rows["screw"]["rd"]) == pytest.approx(0.92)
    assert float(rows["screw"]["rd std"]) == pytest.approx(0.04 / math.sqrt(2))
    assert rows["screw"]["rd seeds"] == "2"
    assert float(rows["mean of 2"]["rd"]) == pytest.approx(0.865)
    assert float(rows["mean of 2"]["rd std"]) == pytest.approx(stdev([0.85, 0.88]))  # the seeds' means over categories
    assert rows["screw"][f"rd / {RERUN}"] == "0.989"
    assert rows["screw"][f"rd / {RERUN} confidence"] == "seen"
    assert rows["screw"]["rd / paper WRN50-2 256px confidence"] == "unverified"
    other = "rd backbone=resnet18 epochs=20"
    assert (rows["grid"][other], rows["screw"][other], rows["screw"][f"{other} std"]) == ("", "0.7", "")
    assert rows["mean of 2"][f"{other} note"] == "1 of 2 categories"


@pytest.mark.usefixtures("two_settings")
def test_markdown_and_latex_show_the_same_figures(tmp_path: Path) -> None:
    folder, printed = written(tmp_path)
    markdown, latex = (folder / "report.md").read_text(), (folder / "report.tex").read_text()
    assert "| screw | 0.9200 ± 0.0283 | 0.970 | 0.989 | 0.7000 |" in markdown
    assert "| mean of 2 | 0.8650 ± 0.0212 | – | – | 0.7000 (1 of 2 categories) |" in markdown
    assert r"screw & 0.9200 $\pm$ 0.0283 & 0.970 & 0.989 & 0.7000 \\" in latex
    caption = "Image AUROC on MVTec AD. Mean ± standard deviation over n = 2 seeds."
    assert caption in markdown
    assert rf"\caption{{{escape(caption)}}}" in latex
    assert (
        latex.count(r"\toprule") == latex.count(r"\bottomrule") == 4
    )  # image, pixel AUROC; costs; image AUROC compared
    assert not re.search(r"(?<!\\)[_#%$]", re.sub(r"\$(\\pm|-|<)\$|(?<=[}{])%$|^%.*", "", latex, flags=re.MULTILINE))
    assert "0.9200 ± 0.0283 (n=2)" in printed
    assert "0.970 (unverified)" in printed
    assert str(folder) in printed
    assert f"- {RERUN} (seen): github" in markdown


def test_published_means_stand_only_beside_all_fifteen_categories(run: Run, tmp_path: Path) -> None:
    names = sorted(categories("mvtec"))
    for name in names[:-1]:
        run(name, image_auroc=0.9)
    assert [str(column.cells[-1]) for column in table(tmp_path, "image_auroc").columns] == ["0.9000", "None", "None"]
    run(names[-1], label="rd seen", image_auroc=0.9)  # all 15 are in the table now, but in no setting
    quoted = [column.cells[-1] for column in table(tmp_path, "image_auroc").columns if not column.ours]
    assert quoted == [None] * 4  # the paper and the re-run beside either setting
    run(names[-1], image_auroc=0.9)
    whole = table(tmp_path, "image_auroc")
    assert whole.lines[-1] == "mean of 15"
    assert [str(column.cells[-1]) for column in whole.columns[:3]] == ["0.9000", "0.985 (secondary)", "0.9869 (seen)"]


def test_published_baselines_stand_below_the_table_of_their_metric(run: Run, tmp_path: Path) -> None:
    run("screw", **{"image_auroc": 0.9, "aupro_0.3": 0.9})
    folder, _ = written(tmp_path)
    _, below = (folder / "report.md").read_text().split("### AUPRO@0.3")
    assert BASELINES_NOTE in below
    assert "| screw | 0.604 (seen) | 0.644 (seen) | 0.550 (seen) |" in below
    assert "| mean |" not in below


def test_all_published_categories_arrive_in_the_table(run: Run, tmp_path: Path) -> None:
    for name in categories("mvtec"):
        run(name, image_auroc=0.9)
    found = table(tmp_path, "image_auroc")
    rerun = {f.category: f.value for f in figures() if f.variant == RERUN and f.metric == "image_auroc"}
    (column,) = [column for column in found.columns if column.head == RERUN]
    assert [cell and cell.value for cell in column.cells[:-1]] == [rerun[name] for name in found.lines[:-1]]


def test_undefined_is_a_word_and_leaves_the_mean(run: Run, tmp_path: Path) -> None:
    for seed in (0, 1):
        run("screw", seed, image_auroc=math.nan)
        run("grid", seed, image_auroc=0.8)
    (column, *_) = table(tmp_path, "image_auroc").columns
    assert list(map(str, column.cells)) == [
        "0.8000 ± 0.0000 (n=2)",
        "undefined",
        "0.8000 ± 0.0000 (n=2) (1 of 2 categories)",
    ]
    written(tmp_path)


def test_seeds_that_differ_give_no_deviation_of_the_mean(run: Run, tmp_path: Path) -> None:
    for seed, value in ((0, 0.9), (1, 0.7)):
        run("screw", seed, image_auroc=value)
    run("grid", 0, image_auroc=0.6)
    (column, *_) = table(tmp_path, "image_auroc").columns
    assert str(column.cells[-1]) == "0.7000 (seeds differ)"  # (0.8 + 0.6) / 2: each category counts once
    assert fmean([0.8, 0.6]) == pytest.approx(0.7)


def test_equal_labels_of_different_settings_stay_apart(run: Run, tmp_path: Path) -> None:
    first, second = run("screw", 0, image_auroc=0.9), run("screw", 1, image_auroc=0.5)
    second.update(setting="0000abcd")
    heads = [column.head for column in table(tmp_path, "image_auroc").columns if column.ours]
    assert heads == ["rd #0000abcd", f"rd #{first.manifest['setting']}"]


MEASURED = {"how": "exact", "level": 0.95, "resamples": 1000, "intervals": {"image_auroc": [0.81, 0.955]}}
STREAMED = {"how": "streaming", "bounds": {"aupro_0.3": 2.01e-5}}


def test_a_single_run_has_an_interval_and_several_a_deviation(run: Run, tmp_path: Path) -> None:
    run("screw", 0, image_auroc=0.9, pixel_auroc=0.97, measurement=MEASURED)
    folder, printed = written(tmp_path)
    assert "0.9000 [0.8100, 0.9550]" in printed
    assert "95% interval over the test images" in printed
    (wide,) = [row for row in lines(folder / "table_mvtec.csv") if row["metric"] == "image_auroc"]
    assert (wide["rd low"], wide["rd high"]) == ("0.81", "0.955")
    (long,) = lines(folder / "runs.csv")
    assert (long["image_auroc_low"], long["image_auroc_high"], long["measured"]) == ("0.81", "0.955", "exact")
    assert "pixel_auroc_low" not in long
    run("screw", 1, image_auroc=0.8, measurement=MEASURED)
    assert str(table(tmp_path, "image_auroc").columns[0].cells[0]) == "0.8500 ± 0.0707 (n=2)"


def test_a_value_without_an_interval_stands_alone(run: Run, tmp_path: Path) -> None:
    intervals = {"image_auroc": [0.81, 0.955], "pixel_auroc": [None, None]}
    run("screw", 0, image_auroc=0.9, pixel_auroc=1.0, measurement={**MEASURED, "intervals": intervals})
    folder, printed = written(tmp_path)
    assert "0.9000 [0.8100, 0.9550]" in printed
    assert "| 1.0000 |" in (folder / "report.md").read_text()
    assert "nan" not in printed


def test_streamed_values_say_so_with_a_bound_that_is_rounded_up(run: Run, tmp_path: Path) -> None:
    folder = run("screw", 0, image_auroc=0.9, aupro_0__3=0.5, measurement=STREAMED)
    assert str(table(tmp_path, "aupro_0.3").columns[0].cells[0]) == "0.5000 (streaming, off by 3e-5 at most)"
    assert str(table(tmp_path, "image_auroc").columns[0].cells[0]) == "0.9000"
    console = Console(file=io.StringIO(), width=200)
    print_run(folder, console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert re.search(r"aupro_0.3 +│ 0.5000 │ +3e-5 ", printed)
    assert re.search(r"image_auroc +│ 0.9000 │ +0 ", printed)
    assert "measured: pixel metrics in one pass, each with its largest error" in printed


def test_print_run_shows_intervals_undefined_ones_as_absent(run: Run) -> None:
    intervals = {"image_auroc": [0.81, 0.955], "image_ap": [None, None]}
    folder = run("screw", 0, image_auroc=0.9, image_ap=math.nan, measurement={**MEASURED, "intervals": intervals})
    console = Console(file=io.StringIO(), width=200)
    print_run(folder, console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "95% interval" in printed
    assert re.search(r"image_auroc +│ +0.9000 │ 0.8100 – 0.9550 │", printed)
    assert re.search(r"image_ap +│ undefined │ +– │", printed)
    assert "measured: exact metrics; intervals: 95%, 1000 bootstrap resamples of the test images" in printed


def test_one_category_needs_no_mean(run: Run, tmp_path: Path) -> None:
    run("mtd", dataset="mtd", image_auroc=0.9)
    assert table(tmp_path, "image_auroc").lines == ["mtd"]


def test_unfinished_runs_are_left_out_and_named(run: Run, tmp_path: Path) -> None:
    run("screw", 0, image_auroc=0.9)
    running = run("screw", 1, image_auroc=0.1, finish=False)
    folder, printed = written(tmp_path)
    for text in (printed, (folder / "report.md").read_text()):
        assert "left out: 1 interrupted" in text
        assert f"interrupted: {running.path}" in text
    assert [r["image_auroc"] for r in lines(folder / "runs.csv")] == ["0.9"]


def test_a_report_without_a_finished_run_is_a_user_error(run: Run, tmp_path: Path) -> None:
    run("screw", 0, image_auroc=0.9, finish=False)
    with pytest.raises(UserError, match=f"{re.escape(str(tmp_path))}: no finished run.*1 interrupted"):
        write_report(tmp_path)
    assert not (tmp_path / "report").exists()


def test_a_report_can_be_written_twice_and_elsewhere(run: Run, tmp_path: Path) -> None:
    run("screw", image_auroc=0.9)
    folder, _ = written(tmp_path)
    first = {path.name: path.read_bytes() for path in folder.glob("*.[mtc]*")}  # the pages say when they were made
    target = write_report(tmp_path, tmp_path / "elsewhere", Console(file=io.StringIO()))
    assert sorted(first) == ["report.md", "report.tex", "runs.csv", "table_mvtec.csv", "table_mvtec.tex"]
    assert first == {path.name: path.read_bytes() for path in target.glob("*.[mtc]*")}
    assert (target / "index.html").is_file()


def test_escape_covers_what_latex_would_choke_on() -> None:
    assert escape(r"a_b & 5% #1 {x} $ ~ ^ \ ±") == (
        r"a\_b \& 5\% \#1 \{x\} \$ \textasciitilde{} \textasciicircum{} \textbackslash{} $\pm$"
    )


def shown(folder: RunFolder) -> str:
    console = Console(file=io.StringIO(), width=120)
    print_run(folder, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_print_run_shows_ours_beside_the_published(run: Run) -> None:
    folder = run("screw", image_auroc=0.98765, pixel_auroc=math.nan, aupro_0__3=0.5)
    text = shown(folder)
    assert re.search(r"image_auroc\W+0\.9877\W+0\.970 \(unverified\)\W+0\.989 \(seen\)", text.replace("\n", " "))
    assert re.search(r"pixel_auroc\W+undefined\W+0\.996 \(unverified\)", text)
    assert re.search(r"aupro_0\.3\W+0\.5000\W+–", text)  # nobody published it: only the authors' own PRO
    assert "paper WRN50-2 256px (unverified): CVPR2022" in text
    assert "protocol: last epoch, nothing chosen on test data" in text
    assert "distillation: 12.3 s, peak memory 812 MB" in text
    assert text.rstrip().endswith(f"run: {folder.path}")
    assert "pro_per_image" not in text  # published, but not measured


def test_print_run_shows_parts_of_the_score_beside_it(run: Run) -> None:
    folder = run("screw", label=R18_LABEL, method=R18, image_auroc=0.9, pixel_auroc=0.8)
    folder.update(parts={"near": {"image_auroc": 0.25, "pixel_auroc": None}, "far": {"image_auroc": 0.75}})
    text = shown(folder)
    assert re.search(r"metric\W+ours\W+near alone\W+far alone", text)
    assert re.search(r"image_auroc\W+0\.9000\W+0\.2500\W+0\.7500\W", text)
    assert re.search(r"pixel_auroc\W+0\.8000\W+undefined\W+undefined\W", text)


def test_print_run_says_that_nothing_was_published_for_a_setting(run: Run) -> None:
    text = shown(run("screw", label=R18_LABEL, method=R18, image_auroc=0.9))
    assert "rd backbone=resnet18 epochs=20  mvtec/screw  seed 0" in text
    assert "no published figures for this setting" in text
    assert "0.970" not in text


def test_print_run_without_a_run_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run is here"):
        shown(RunFolder(tmp_path))


def test_print_run_names_a_data_set_of_one_category_once(run: Run) -> None:
    assert "rd  mtd  seed 0" in shown(run("mtd", dataset="mtd", image_auroc=0.9))


def test_print_run_keeps_brackets_in_paths_and_protocols(run: Run) -> None:
    folder = run("screw", image_auroc=0.9)
    folder.update(protocol=["metrics at [256, 256]"], stages={"score": {"seconds": 2.0}})
    assert "protocol: metrics at [256, 256]" in shown(folder)
    assert "score: 2.0 s\n" in shown(folder)


def test_the_report_needs_no_torch(run: Run, tmp_path: Path) -> None:
    image = {"threshold": 1.5, "n": 60, "rate": 0.05, "confidence": 0.95, "promised": 0.049}
    image |= {"file": "calibration.csv", "source": "held out"}
    run("screw", image_auroc=0.9).update(thresholds={"image": image})
    code = (
        "import sys\nimport anomaly_bench.runs.heatmaps\nfrom anomaly_bench.commands.report import write_report\n"
        f"write_report({str(tmp_path)!r})\nassert not {{'torch', 'scipy', 'hydra'}} & set(sys.modules)"
    )
    done: Any = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
