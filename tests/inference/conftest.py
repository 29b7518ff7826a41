"""Runs that are trained once for all tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from anomaly_bench import config
from anomaly_bench.inference.load import load
from anomaly_bench.inference.predict import Model
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.runner import run
from tests.inference.small_models import overrides
from tests.small_runs import QUICK, TOY, TOYS

CONF = TOYS / "conf"


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Callable[..., RunFolder]:
    """finished("rd", "weights_dtype=float16"): a run of a method, which is trained once."""
    place = tmp_path_factory.mktemp("finished")

    @cache
    def train(method: str, *more: str) -> RunFolder:
        outputs = "_".join(each.partition("=")[2] for each in more) or "plain"
        return run(config.compose(overrides(method, place, weights, *more, f"output_dir={place / outputs}")))

    return train


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory: pytest.TempPathFactory, shared_images: Path) -> RunFolder:
    """A run of the toy, with six images held out; tests leave it as it is."""
    given = [*TOY[2:], *QUICK, "calibration_share=0.5", f"dataset.root={shared_images}"]
    place = f"output_dir={tmp_path_factory.mktemp('toy')}"
    return run(config.compose([*given, place], extra=str(CONF)))


@pytest.fixture(scope="session")
def toy(toy_run: RunFolder) -> Model:
    """The model of `toy_run`: 16 x 16 pixels, batches of 4; its score is the maximum of its map."""
    return load(toy_run.path, config_dir=CONF)
