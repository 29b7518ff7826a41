"""Shared by the tests of the command line and of runs: images, weights, `bench` in this process and in another."""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from forks import Forks, no_wait
from hypothesis import settings
from small_runs import QUICK, TOY, TOYS, Begin, Bench, Noted, Train, environment, make_images

from anomaly_bench.commands.main import main
from anomaly_bench.runs.folder import RunFolder, find

# How many examples a test of a property draws; `--hypothesis-profile=all` is one of `make test-all`.
settings.register_profile("sample", deadline=None, max_examples=60)
settings.register_profile("all", deadline=None, max_examples=300)
settings.load_profile("sample")


def pytest_configure(config: pytest.Config) -> None:
    """Where tests run side by side, each process computes on one thread; before torch is imported."""
    if hasattr(config, "workerinput"):
        os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Caches go to a temporary folder, the toys can be imported, no setting of the user's reaches a test, and nothing
    waits for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANOMALY_BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("BENCH_CONF", raising=False)
        patch.syspath_prepend(str(TOYS))
        patch.setattr(os, "fsync", no_wait)
        yield


@pytest.fixture(params=[4, pytest.param(50, marks=pytest.mark.slow)])
def spots(request: pytest.FixtureRequest) -> int:
    """At how many random places a file is damaged: at a few, and at 50 in the slow tests."""
    count: int = request.param
    return count


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A small data set of the test's own, to be damaged at will."""
    return make_images(tmp_path / "widgets")


@pytest.fixture(scope="session")
def shared_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same data set for all tests that leave it as it is."""
    return make_images(tmp_path_factory.mktemp("shared") / "widgets")


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random weights for resnet18: nothing is downloaded."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "resnet18.tv_in1k.safetensors"
    save_file(timm.create_model("resnet18", pretrained=False).state_dict(), file)
    return file


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """One process for all tests that has imported what takes long."""
    server = Forks(tmp_path_factory.mktemp("forks"))
    yield server
    server.end()


@pytest.fixture
def bench(tmp_path: Path, forks: Forks) -> Bench:
    """bench("train", ..., cwd=..., env={...}): the real command in a process of its own, below `tmp_path`.

    fresh=True: one that has to import everything itself.
    """

    def call(
        *words: str, cwd: Path | None = None, env: dict[str, str] | None = None, fresh: bool = False
    ) -> subprocess.CompletedProcess[str]:
        place, variables = cwd or tmp_path, environment(**env or {})
        if not fresh:
            return forks.run(["bench", *words], place, variables)
        command = [sys.executable, "-m", "anomaly_bench", *words]
        return subprocess.run(command, cwd=place, env=variables, capture_output=True, text=True, timeout=120)

    return call


@pytest.fixture
def begin(tmp_path: Path, forks: Forks) -> Begin:
    """begin("train", ...): as `bench`, but it does not wait for the end."""
    return lambda *words, interrupt=True: forks.start(["bench", *words], tmp_path, environment(), interrupt)


def work_in(place: Path, patch: pytest.MonkeyPatch) -> None:
    """From now on `bench` may be called in this process, and works in that folder."""
    (place / "notes").mkdir()
    patch.chdir(place)
    patch.setattr(sys, "argv", sys.argv)
    for name, value in {"handlers": [], "propagate": True}.items():  # a handler of its own for each test's capsys
        patch.setattr(logging.getLogger("anomaly_bench"), name, value)


def train_toy(images: Path, *words: str, code: int = 0, outputs: str = "outputs", seed: int = 0) -> RunFolder:
    """`bench train` in this process; the run folder with that seed."""
    fixed = [*TOY, f"dataset.root={images}", "method.notes=notes", f"output_dir={outputs}", f"seed={seed}"]
    assert main(["train", *fixed, *words]) == code
    return next(folder for folder in find(outputs) if folder.manifest["seed"] == seed)


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Train:
    """train("seed=1", code=0): `bench train` with the toy, in this process; the run folder with that seed.

    It trains on the test's `images` where it has its own.  Notes go to tmp_path/notes; the working directory is
    tmp_path.
    """
    given = request.getfixturevalue("images" if "images" in request.fixturenames else "shared_images")
    work_in(tmp_path, monkeypatch)
    return partial(train_toy, given)


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory: pytest.TempPathFactory, shared_images: Path) -> Callable[..., Path]:
    """trained_once(seed, *words): a folder with the notes and the outputs of `train(*words, seed=seed)`, which is
    called once."""

    @cache
    def make(seed: int, *words: str) -> Path:
        place = tmp_path_factory.mktemp("once")
        nowhere = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(nowhere), redirect_stderr(nowhere):
            work_in(place, patch)
            train_toy(shared_images, *words, seed=seed)
        return place

    return make


@pytest.fixture
def trained(train: Train, trained_once: Callable[..., Path], request: pytest.FixtureRequest) -> Train:
    """trained(*words): what `train(*words)` returns and leaves behind, as a copy of a run that was trained once.

    For tests of what becomes of a finished run, which leave the images as they are.
    """
    assert "images" not in request.fixturenames

    def copy(*words: str, outputs: str = "outputs", seed: int = 0) -> RunFolder:
        place = trained_once(seed, *words)
        shutil.copytree(place / "outputs", outputs, ignore=shutil.ignore_patterns(".index*"), dirs_exist_ok=True)
        with Path("notes/notes.jsonl").open("a") as file:
            file.write((place / "notes/notes.jsonl").read_text())
        (folder,) = find(place / "outputs")
        return RunFolder(outputs / folder.path.relative_to(place / "outputs"))

    return copy


@pytest.fixture(scope="session")
def calibrated_once(tmp_path_factory: pytest.TempPathFactory, shared_images: Path) -> Path:
    """The folder of a toy run that held out 3 of its 12 training images, and has thresholds."""
    place, nowhere = tmp_path_factory.mktemp("calibrated"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(nowhere), redirect_stderr(nowhere):
        work_in(place, patch)
        folder = train_toy(shared_images, "calibration_share=0.25", *QUICK)
        return folder.path.resolve()


@pytest.fixture
def calibrated(calibrated_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A copy of it at tmp_path/run, to predict with; the working folder is tmp_path."""
    work_in(tmp_path, monkeypatch)
    return RunFolder(shutil.copytree(calibrated_once, tmp_path / "run"))


@pytest.fixture
def notes(tmp_path: Path) -> Noted:
    """notes("step"): what the toy noted under that word so far."""

    def read(what: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in (tmp_path / "notes" / "notes.jsonl").read_text().splitlines()]
        return [line for line in lines if line["what"] == what]

    return read
