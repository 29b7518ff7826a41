"""What stands below the tables of a data set: once, and in every form of the report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from test_tables import written

from anomaly_bench.results.collect import collect
from anomaly_bench.results.remarks import remarks
from anomaly_bench.runs.confounds import MEANS
from anomaly_bench.runs.folder import RunFolder

Run = Callable[..., RunFolder]
IMAGES = {"test_good": 50, "test_anomalous": 50}
WARNING = "learned next to nothing in 64 steps: the loss fell by 1.2 %"


def told(folder: RunFolder, **values: object) -> None:
    folder.update(**values)


def confounds(**aurocs: float) -> dict[str, float]:
    return {name: aurocs.get(name.split()[0], 0.5) for name in MEANS}


def test_one_category_has_the_sentence_of_its_runs(run: Run, tmp_path: Path) -> None:
    for seed in (0, 1):
        told(run("screw", seed, image_auroc=0.9), images=IMAGES, confounds=confounds(mean=0.02, sharpness=0.6))
    told(run("screw", 0, label="rd b", image_auroc=0.9), images=IMAGES, confounds=confounds(mean=0.02, sharpness=0.99))
    line, rule = remarks(collect(tmp_path).rows)["mvtec"]
    assert rule.startswith("MVTec AD as its authors measure it: AUPRO up to a false-positive rate of 0.3; ")
    assert line.startswith("sharpness alone separates normal from anomalous test images with AUROC 0.990: ")


def test_several_categories_share_one_sentence(run: Run, tmp_path: Path) -> None:
    told(run("screw", 0, image_auroc=0.9), images=IMAGES, confounds=confounds(mean=0.02))
    told(run("grid", 0, image_auroc=0.9), images=IMAGES, confounds=confounds(file=0.8))
    run("tile", 0, image_auroc=0.9)  # of an earlier version
    told(run("wood", 0, image_auroc=0.9), images=IMAGES, confounds=confounds(mean=0.55))
    line, _ = remarks(collect(tmp_path).rows)["mvtec"]
    assert "file size in grid (0.800), mean grey in screw (0.980); image scores where it is above 0.9" in line
    assert line.endswith("may measure lighting")


def test_every_form_of_the_report_says_it_once_for_each_data_set(run: Run, tmp_path: Path) -> None:
    for seed in (0, 1):
        folder = run("screw", seed, image_auroc=0.9, pixel_auroc=0.8)
        told(folder, images=IMAGES, confounds=confounds(mean=1.0), learning={"warning": WARNING})
    folder = run("screw", 2, image_auroc=0.9, pixel_auroc=0.8)
    told(folder, images=IMAGES, confounds=confounds(mean=1.0), learning={"warning": ""})
    run("screw", 0, dataset="other", image_auroc=0.9)
    lines = remarks(collect(tmp_path).rows)
    assert lines["other"] == []
    assert lines["mvtec"][1] == f"rd, 2 of 3 runs: {WARNING} (screw, seed 0)"
    report, printed = written(tmp_path)
    markdown, latex = ((report / f"report.{ending}").read_text() for ending in ("md", "tex"))
    pages = [(report / name).read_text() for name in ("index.html", "pages/mvtec.html")]
    for line in lines["mvtec"]:
        assert printed.count(f"mvtec: {line}") == 1
        assert markdown.count(f"**{line}.**") == 1
        assert latex.count(line.replace("%", r"\%")) == 1
        assert [page.count(f'<p class="note">{line}.</p>') for page in pages] == [1, 1]
    assert markdown.index(WARNING) < markdown.index("### pixel AUROC")
    rows = (report / "runs.csv").read_text().splitlines()
    assert rows[0].endswith(",path,confound,learning")
    assert sum(WARNING in row for row in rows) == 2


def test_a_baseline_is_called_so_in_every_table(run: Run, tmp_path: Path) -> None:
    run("screw", 0, image_auroc=0.9)
    told(run("screw", 0, label="floor method.sigma=2", image_auroc=0.95), baseline=True)
    report, printed = written(tmp_path)
    heading = "floor sigma=2 (baseline)"
    assert heading in printed
    assert heading in (report / "report.md").read_text()
    assert heading in (report / "report.tex").read_text()
    assert "<small>sigma=2 (baseline)</small>" in (report / "index.html").read_text()


def test_runs_that_computed_in_lower_precision_are_counted(run: Run, tmp_path: Path) -> None:
    keys = {"precision": "bf16-mixed", "scoring_precision": "32-true", "memory_format": "contiguous"}
    for seed, hardware in enumerate([{}, keys, {**keys, "scoring_precision": "16-mixed"}, keys]):
        told(run("screw", seed, dataset="other", image_auroc=0.9), hardware=hardware)
    assert remarks(collect(tmp_path).rows)["other"] == [
        "rd, 2 of 4 runs: with hardware.precision=bf16-mixed, which is no part of a setting",
        "rd, 1 of 4 runs: with hardware.precision=bf16-mixed hardware.scoring_precision=16-mixed, "
        "which is no part of a setting",
    ]
