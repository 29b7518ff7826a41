"""STFPM and SimpleNet as a user runs them: a killed run goes on to the same numbers, the kept states included."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from anomaly_bench.commands.main import main
from anomaly_bench.runs.folder import find
from tests.forks import Forks
from tests.small_runs import TOYS, curve, environment, equal, make_images

RUNS = {
    "stfpm": ["StudentTraining", "student", "method.val_share=0.25"],
    "simplenet": [
        "Training", "discriminator", "method.backbone=resnet18", "method.hidden=8", "method.dimensions=32",
        "method.oracle_states=4",
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", [pytest.param("stfpm", marks=pytest.mark.slow), "simplenet"])
def test_a_killed_run_goes_on(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: Path, forks: Forks
) -> None:
    monkeypatch.setenv("ANOMALY_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    module, stage, *own = RUNS[name]
    given = [
        f"method={name}", *own, f"method.weights={weights}", "method.image_size=32", "method.epochs=2",
        "method.batch_size=5", "dataset=folder", f"dataset.root={make_images(tmp_path / 'widgets')}", "hardware=cpu",
        "hardware.threads=1", "checkpoint_seconds=0", "save_heatmaps=false", "resamples=0",
    ]  # fmt: skip
    child = forks.run([TOYS / "die_in_training.py", name, module, *given], tmp_path, environment())
    assert child.returncode < 0, child.stderr
    (killed,) = find("outputs")
    assert curve(killed) == [(stage, 0)]
    assert main(["train", *given]) == 0
    assert main(["train", *given, "output_dir=whole"]) == 0
    (whole,) = find("whole")
    assert "resumes from" in (killed.path / "log.txt").read_text()
    assert killed.status == whole.status == "done"
    assert equal(killed, whole)
    one, other = (load_file(folder.path / "weights.safetensors") for folder in (killed, whole))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    oracle = whole.manifest.get("oracle", {})
    assert killed.manifest.get("oracle", {}) == oracle
    if name == "simplenet":
        assert oracle["of"] == 4
        assert oracle["metrics"]["image_auroc"] >= whole.metrics["image_auroc"]  # the last state is one of them
