"""The notebooks of docs/notebooks run as plain scripts, and what they leave behind is what they say."""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path

import pytest
from forks import Forks
from small_runs import ROOT, environment

from anomaly_bench.runs.folder import RunFolder, find

NOTEBOOKS = ROOT / "docs" / "notebooks"


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> dict[str, str]:
    """What each notebook prints; both work in the folder `place` names, the second finds the first one's run."""
    place = tmp_path_factory.mktemp("notebooks")
    said = {"place": str(place)}
    for name in ("compare", "decide"):
        ended = forks.run([NOTEBOOKS / f"{name}.py"], place, environment())
        assert ended.returncode == 0, ended.stderr
        said[name] = ended.stdout
        said[f"{name} log"] = ended.stderr
    return said


def run_of(place: str, method: str) -> RunFolder:
    return next(folder for folder in find(f"{place}/outputs") if folder.manifest["method"] == method)


def test_every_notebook_is_run_here() -> None:
    assert sorted(file.stem for file in NOTEBOOKS.glob("*.py")) == ["compare", "decide"]


@pytest.mark.slow
def test_compare_shows_the_figures_of_two_runs_and_of_both_together(printed: dict[str, str]) -> None:
    for method in ("us_fast", "rd"):
        value = run_of(printed["place"], method).metrics["image_auroc"]
        assert re.search(rf"^image_auroc +{method} +{value:.3f} ", printed["compare"], re.MULTILINE)
    both = re.findall(r"^(\w+\S*) +both +(\d\.\d{3})", printed["compare"], re.MULTILINE)
    assert [name for name, _ in both] == ["image_auroc", "pixel_auroc", "aupro_0.3"]


@pytest.mark.slow
def test_decide_finds_the_run_of_compare(printed: dict[str, str]) -> None:
    assert "already done" in printed["decide log"]
    assert len(list(find(f"{printed['place']}/outputs"))) == 2


@pytest.mark.slow
def test_verdicts_are_those_of_the_stored_threshold_and_calibration_scores(printed: dict[str, str]) -> None:
    run = run_of(printed["place"], "us_fast")
    entry = run.manifest["thresholds"]["image"]
    with (run.path / "calibration.csv").open(newline="") as file:
        calibration = [float(row["score"]) for row in csv.DictReader(file)]
    with Path(printed["place"], "verdicts.csv").open(newline="") as file:
        *scored, broken = csv.DictReader(file)
    assert (entry["rate"], entry["n"]) == (0.1, 30) == (0.1, len(calibration))
    assert len(scored) == 40 + 24 + 2
    for row in scored:
        score = float(row["score"])
        assert row["label"] == str(int(score > entry["threshold"]))
        assert float(row["p_value"]) == (1 + sum(one >= score for one in calibration)) / 31
    assert math.isnan(float(broken["score"]))
    assert "cannot be read" in broken["error"]
    assert "mean grey" in scored[-1]["unlike"]
    assert not scored[-2]["unlike"]
    assert float(scored[-2]["score"]) == pytest.approx(
        float(scored[0]["score"]), rel=1e-6
    )  # the same image as an array
