"""`bench eval --maps ... --as NAME`: maps of another program stand in the report as a method."""

from __future__ import annotations

import csv
import json
import re
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from small_eval import Capsys, refused
from synthetic import synthetic

from anomaly_bench.commands.main import main
from anomaly_bench.commands.report import write_report
from anomaly_bench.metrics import image_metrics
from anomaly_bench.results.collect import collect
from anomaly_bench.runs.folder import RunFolder, find


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of rd on synthetic/category00, its maps as those of another program, and the masks."""
    monkeypatch.chdir(tmp_path)
    synthetic(Path("outputs"), categories=1, methods=1, seeds=1, images=12, side=32)
    (folder,) = find("outputs")
    assert folder.maps is not None
    for row, values in zip(folder.scores, folder.maps, strict=True):
        file = Path("maps/category00") / row.kind / f"{Path(row.path).stem}.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, 2 * values.astype(np.float64) + 1)
        if row.label:
            mask = Path("masks/category00") / row.kind / f"{Path(row.path).stem}_mask.png"
            mask.parent.mkdir(parents=True, exist_ok=True)
            from PIL import Image

            Image.fromarray((values > values.max() - 1).astype(np.uint8) * 255).save(mask)
    return tmp_path / "outputs"


def store(*more: str, dataset: str = "dataset=synthetic") -> RunFolder:
    words = ["eval", "--maps", "maps", "--masks", "masks", "--resamples", "20", "--as", "theirs", dataset, *more]
    assert main(words) == 0
    (folder,) = [folder for folder in find("outputs") if folder.manifest["method"] == "theirs"]
    return folder


def test_foreign_maps_are_a_method_of_the_report(outputs: Path, capsys: Capsys) -> None:
    folder = store()
    assert "`bench report` lists it as theirs" in re.sub(r"\s+", " ", capsys.readouterr().out)
    (own,) = [f for f in find(outputs) if f.manifest["method"] == "rd"]
    assert folder.maps is not None
    expected = {row.path: 2 * row.score + 1 for row in own.scores}
    assert {row.path: row.score for row in folder.scores} == pytest.approx(expected)
    for row, values in zip(folder.scores, folder.maps, strict=True):
        assert values.max() == pytest.approx(row.score)
    labels, scores = zip(*((row.label, row.score) for row in folder.scores), strict=True)
    metrics = image_metrics(np.array(scores), np.array(labels))
    assert {name: folder.metrics[name] for name in metrics} == metrics
    page = write_report(outputs, console=Console(file=StringIO()))
    with (page / "runs.csv").open(newline="") as file:
        assert {row["method"] for row in csv.DictReader(file)} == {"rd", "theirs"}
    assert "theirs<small>(foreign maps)</small>" in (page / "index.html").read_text()
    text = (page / "data/synthetic.category00.js").read_text()
    data = json.loads(text.removeprefix("window.GALLERY = ").rstrip().removesuffix(";"))
    one, other = ({image["path"]: (page / "pictures" / run["maps"] / f"{run['at'][i]}.png").read_bytes()
                   for i, image in enumerate(data["images"])} for run in data["runs"])  # fmt: skip
    assert one == other  # a colour is a false-positive rate: their values are the run's, on another scale


def test_seeds_are_runs_of_one_setting_and_a_repetition_replaces(outputs: Path) -> None:
    first = store()
    assert store().path == first.path
    words = ["eval", "--maps", "maps", "--masks", "masks", "--as", "theirs", "dataset=synthetic/category00", "seed=1"]
    assert main(words) == 0
    rows = [row for row in collect(outputs).rows if row.foreign]
    assert [row.seed for row in rows] == [0, 1]
    assert len({row.setting for row in rows}) == 1


def test_without_such_a_run_the_maps_stand_alone(outputs: Path, capsys: Capsys) -> None:
    store(dataset="dataset=other")
    assert "no run of other/category00 in outputs has images" in re.sub(r"\s+", " ", capsys.readouterr().out)


def test_there_is_no_model_of_foreign_maps(outputs: Path, capsys: Capsys) -> None:
    assert "there is no model of them" in refused(capsys, store().path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--as theirs", "--as: is given without the data set"),
        ("--as a/b dataset=synthetic", "--as: 'a/b' given"),
        ("--as theirs dataset=../x", "dataset: '..' given"),
        ("--as theirs datset=synthetic", "'datset' is none of dataset, output_dir, seed"),
        ("--as theirs dataset=synthetic seed=x", "seed: 'x' given"),
    ],
)
def test_what_is_refused(outputs: Path, capsys: Capsys, words: str, said: str) -> None:
    assert said in refused(capsys, "--maps", "maps", "--masks", "masks", *words.split())
    assert {folder.manifest["method"] for folder in find(outputs)} == {"rd"}
