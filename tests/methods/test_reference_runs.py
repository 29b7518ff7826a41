"""STFPM and SimpleNet as a user runs them: a killed run goes on to the same numbers and the same points."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from anomaly_bench.commands.main import main
from anomaly_bench.runs.folder import find
from anomaly_bench.runs.stored_run import TRACK
from tests.forks import Forks
from tests.small_runs import TOYS, curve, environment, equal, make_images

RUNS = {
    "stfpm": ["StudentTraining", "student", "method.val_share=0.25", "method.epochs=2"],
    "simplenet": [
        "Training", "discriminator", "method.backbone=resnet18", "method.hidden=8", "method.dimensions=32",
        "method.epochs=null", "method.steps=5",
    ],
}  # fmt: skip
STATES = {"stfpm": ["epoch_1", "epoch_2"], "simplenet": [f"step_{i}" for i in (2, 3, 4, 5)]}


@pytest.mark.parametrize("name", [pytest.param("stfpm", marks=pytest.mark.slow), "simplenet"])
def test_a_killed_run_goes_on(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: Path, forks: Forks
) -> None:
    monkeypatch.setenv("ANOMALY_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    module, stage, *own = RUNS[name]
    given = [
        f"method={name}", *own, f"method.weights={weights}", "method.image_size=32",
        "method.batch_size=5", "dataset=folder", f"dataset.root={make_images(tmp_path / 'widgets')}", "hardware=cpu",
        "hardware.threads=1", "checkpoint_seconds=0", "save_heatmaps=false", "resamples=0",
    ]  # fmt: skip
    tracked = [*given, "track_test=4"]
    child = forks.run([TOYS / "die_in_training.py", name, module, *tracked], tmp_path, environment())
    assert child.returncode < 0, child.stderr
    (killed,) = find("outputs")
    assert curve(killed) == [(stage, 0)]
    assert main(["train", *tracked]) == 0
    assert main(["train", *tracked, "output_dir=whole"]) == 0
    assert main(["train", *given, "output_dir=untracked"]) == 0
    (whole,), (untracked,) = find("whole"), find("untracked")
    assert "resumes from" in (killed.path / "log.txt").read_text()
    assert killed.status == whole.status == "done"
    for other in (killed, untracked):
        assert equal(other, whole)
        one, two = (load_file(folder.path / "weights.safetensors") for folder in (other, whole))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)
    assert "oracle" not in untracked.manifest
    assert not (untracked.path / TRACK).exists()
    assert (killed.path / TRACK).read_bytes() == (whole.path / TRACK).read_bytes()
    assert killed.manifest["oracle"] == whole.manifest["oracle"]
    found = json.loads((whole.path / TRACK).read_text())
    assert found["stage"] == stage
    assert [point["state"] for point in found["points"]] == STATES[name]
