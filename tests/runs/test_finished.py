"""A finished run is found without torch, and only while all that it was made of is the same."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from omegaconf import DictConfig
from small_images import save
from small_runs import environment

from anomaly_bench import config
from anomaly_bench.commands.main import main
from anomaly_bench.runs.find import data_checksums, find_data, run_folder
from anomaly_bench.runs.finished import find_done, remember_method
from anomaly_bench.runs.folder import RunFolder, find
from anomaly_bench.runs.logs import console_log

WITHOUT_TORCH = """
import sys
sys.modules |= dict.fromkeys(["torch", "timm", "pytorch_lightning", "torchvision"])
from anomaly_bench.commands.main import main
raise SystemExit(main(sys.argv[1:]))
"""
FIXED = ["dataset=folder", "dataset.root=parts", "hardware=cpu", "cache_dir=cache"]
RUN = ["method=brightness", "method.image_size=32", "save_heatmaps=false", "resamples=0", *FIXED]


@pytest.fixture(autouse=True)
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("good/0", "good/1", "good/2", "good/3", "good/4", "bad/0")):
        pixels = np.random.default_rng(number).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        save(tmp_path / "parts" / f"{name}.png", pixels)


def again(*overrides: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", WITHOUT_TORCH, "train", *RUN, *overrides]
    return subprocess.run(words, capture_output=True, text=True, check=False, env=environment())


def test_the_same_command_again_needs_no_torch(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *RUN]) == 0
    printed = capfd.readouterr().out
    (folder,) = find("outputs")
    found = again()
    assert found.returncode == 0, found.stderr
    assert found.stdout == printed
    assert found.stderr == f"already done: {folder.path}\n"
    quiet = again("--quiet")
    assert (quiet.returncode, quiet.stdout) == (0, "")
    assert re.fullmatch(r"done +\d+ (s|min)  brightness .*image_auroc \d\.\d{4}.*\n", quiet.stderr)
    for change in ("method.sigma=3", "force=true", "track_test=true"):  # a warning is due for the last one
        assert "No module named 'torch" in again(change).stderr or "import of torch" in again(change).stderr
    save(Path("parts/good/0.png"), np.zeros((32, 32, 3), np.uint8))
    assert "its files are not those that" in again().stderr


def done(overrides: list[str]) -> tuple[DictConfig, RunFolder]:
    """A finished run without any result."""
    cfg = config.compose([*overrides, *FIXED])
    settings = config.validate(cfg)
    remember_method(cfg, settings)
    folder, data = RunFolder(run_folder(settings, config.identify(settings).run).path), find_data(settings)
    folder.start({"checksums": data_checksums(data.entries, data.test)}, "", [], afresh=False)
    folder.finish()
    return cfg, folder


def test_other_weights_are_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANOMALY_BENCH_CACHE", "cache")
    console_log()
    (tmp_path / "given.pth").write_bytes(b"one")
    cfg, folder = done(["method=rd_fast", "method.weights=given.pth"])
    found = find_done(cfg)
    assert found is not None
    assert found.path == folder.path
    (tmp_path / "given.pth").write_bytes(b"two")
    assert find_done(cfg) is None
    (tmp_path / "given.pth").unlink()
    assert find_done(cfg) is None


def test_weights_that_are_found_in_another_place_are_looked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANOMALY_BENCH_CACHE", "cache")
    monkeypatch.setenv("ANOMALY_BENCH_WEIGHTS", "weights")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "resnet18.pth").write_bytes(b"one")
    cfg, folder = done(["method=rd_fast"])
    found = find_done(cfg)
    assert found is not None
    assert found.path == folder.path
    (tmp_path / "weights" / "resnet18.tv_in1k.pth").write_bytes(b"a better fit")
    assert find_done(cfg) is None


def test_a_method_that_names_other_files_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANOMALY_BENCH_CACHE", "cache")
    for name in ("a", "b"):
        save(tmp_path / "natural" / f"{name}.png", np.zeros((32, 32, 3), np.uint8))
    cfg, _ = done(["method=us_fast", "method.teacher.images=natural", "method.weights=random"])
    assert find_done(cfg) is None
    assert not list((tmp_path / "cache" / "methods").glob("*"))


def test_a_damaged_memory_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANOMALY_BENCH_CACHE", "cache")
    cfg, _ = done(["method=brightness"])
    assert find_done(cfg) is not None
    (file,) = (tmp_path / "cache" / "methods").iterdir()
    file.write_text(json.dumps({"method": {}, "weights": []}))
    assert find_done(cfg) is None
