"""`track_test`: a point of a training has the scores of a run that ends there, and no result depends on it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import FILES, QUICK, Train, contents, equal

from anomaly_bench import config
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.oracle import oracle_of, spaced
from anomaly_bench.runs.runner import run
from anomaly_bench.runs.stored_run import TRACK


def points(folder: RunFolder) -> dict[str, dict[str, Any]]:
    """State -> its metrics and scores."""
    return {point["state"]: point for point in json.loads((folder.path / TRACK).read_text())["points"]}


def float32(values: list[float]) -> list[float]:
    return np.array(values, np.float32).tolist()


def same(point: dict[str, Any], folder: RunFolder) -> None:
    """The point is what that run reports, to the bit."""
    assert float32(point["scores"]) == float32([row.score for row in folder.scores])
    undefined = {key: None if math.isnan(value) else value for key, value in folder.metrics.items()}
    assert point["metrics"] == undefined


def test_nothing_depends_on_it(train: Train, trained: Train) -> None:
    plain, tracked = trained(), train("track_test=true", outputs="tracked")
    assert equal(plain, tracked)
    assert plain.path.name == tracked.path.name
    assert contents(tracked) == contents(plain) | {TRACK} == FILES | {TRACK}
    for name in ("weights.safetensors", "scores.csv", "curves.json", "images.csv"):
        assert (plain.path / name).read_bytes() == (tracked.path / name).read_bytes(), name
    apart = {"oracle", "files", "started", "finished", "stages", "command", "seconds", "bytes", "deciding_checksum"}
    one, other = ({k: v for k, v in each.manifest.items() if k not in apart} for each in (plain, tracked))
    assert one == other
    assert tracked.manifest["files"].keys() - plain.manifest["files"].keys() == {TRACK}
    found = points(tracked)
    assert [*found] == ["epoch_1", "epoch_2"]  # of the last stage
    same(found["epoch_2"], tracked)
    assert found["epoch_1"]["scores"] != found["epoch_2"]["scores"]


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_point_is_what_a_shorter_training_gives(train: Train, epochs: int) -> None:
    """What the method computes after its training, the toy's shift, included."""
    tracked = train("method.kind=one", "track_test=20", outputs="tracked")
    shorter = train("method.kind=one", f"method.epochs={epochs}", outputs="shorter")
    assert [*points(tracked)] == ["epoch_1", "epoch_2", "epoch_3"]
    same(points(tracked)[f"epoch_{epochs}"], shorter)


def test_a_method_without_a_training_has_no_points(shared_images: Path, tmp_path: Path) -> None:
    words = ["method=brightness", "dataset=folder", f"dataset.root={shared_images}", "hardware=cpu", *QUICK]
    folder = run(config.compose([*words, "track_test=true", f"output_dir={tmp_path}"]))
    assert folder.status == "done"
    assert "oracle" not in folder.manifest
    assert not (folder.path / TRACK).exists()


def test_a_damaged_record_is_named(train: Train) -> None:
    folder = train("track_test=true", outputs="tracked")
    (folder.path / TRACK).write_text("{}")
    assert folder.damage() == [f"{TRACK} was changed or damaged after the run was done"]


def test_who_asks_for_points_of_a_finished_run_is_told(
    train: Train, trained: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained()
    train("track_test=true")
    assert "oracle" not in folder.manifest
    assert "it was trained without track_test; force=true trains it anew with it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("last", "count", "expected"),
    [(160, 40, set(range(4, 161, 4))), (5, 20, {1, 2, 3, 4, 5}), (7, 3, {3, 5, 7}), (1, 20, {1}), (0, 20, {0})],
)
def test_points_are_evenly_spaced_and_end_with_the_training(last: int, count: int, expected: set[int]) -> None:
    assert spaced(last, count) == expected


def test_the_best_point() -> None:
    def point(state: str, image: float, pixel: float, f1: float) -> dict[str, Any]:
        return {"state": state, "metrics": {"image_auroc": image, "pixel_auroc": pixel, "image_f1_max": f1}}

    found = [point("epoch_1", 0.8, 0.5, 0.1), point("epoch_2", 0.9, 0.6, 0.3), point("epoch_3", 0.9, 0.7, 0.2)]
    found += [point("epoch_4", 0.9, math.nan, 0.0), point("epoch_5", 0.7, 0.65, 0.2)]
    oracle = oracle_of(found)
    assert (oracle["state"], oracle["of"]) == ("epoch_3", 5)
    assert oracle["metrics"] == found[2]["metrics"]
    assert oracle["last"] == found[-1]["metrics"]
    expected = {"image_auroc": ("epoch_2", 0.9), "pixel_auroc": ("epoch_3", 0.7), "image_f1_max": ("epoch_2", 0.3)}
    assert {name: (best["state"], best["value"]) for name, best in oracle["best"].items()} == expected
