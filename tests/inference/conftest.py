"""Runs that are trained once for all tests of this folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomaly_bench import config
from anomaly_bench.inference.certificate import export
from anomaly_bench.inference.export import ExportRequest
from anomaly_bench.inference.load import load
from anomaly_bench.inference.odd_images import odd_images
from anomaly_bench.inference.predict import Model
from anomaly_bench.inference.run_images import RunImages
from anomaly_bench.loading.resize import resize_mask
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.runner import run
from tests.inference.small_models import overrides
from tests.small_runs import QUICK, TOY, TOYS

CONF = TOYS / "conf"


@pytest.fixture(scope="session", autouse=True)
def drawn_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The odd images of certificates are drawn once and copied for each: PNG takes longer than the rest."""

    @cache
    def drawn() -> list[Path]:
        return odd_images(tmp_path_factory.mktemp("drawn") / "odd")

    def copied(place: Path) -> list[Path]:
        place.mkdir()
        return [Path(shutil.copy(each, place)) for each in drawn()]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("anomaly_bench.inference.certificate.odd_images", copied)
        yield


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


@pytest.fixture(scope="session")
def model(toy_run: RunFolder) -> Model:
    """Without notes: each test has its own."""
    return load(toy_run.path, "cpu", CONF)


@pytest.fixture(scope="session")
def tests(toy_run: RunFolder, shared_images: Path) -> RunImages:
    """The test images of `toy_run`."""
    rows, size = toy_run.scores, (16, 16)
    masks = []
    for row in rows:
        file = shared_images / row.path.replace("test", "ground_truth").replace(".png", "_mask.png")
        shown = np.zeros((32, 32), bool) if not row.label else np.asarray(Image.open(file)) > 0
        masks.append(resize_mask(shown, size))
    paths = [shared_images / row.path for row in rows]
    labels, scores = np.array([row.label for row in rows]), np.array([row.score for row in rows], np.float32)
    return RunImages(paths, [row.path for row in rows], labels, scores, toy_run.maps, masks)


@pytest.fixture(scope="session")
def exported(model: Model, tests: RunImages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy's run as an ONNX file."""
    for name in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(name)
    file = tmp_path_factory.mktemp("exported") / "toy.onnx"
    export(model, ExportRequest("onnx"), file, tests)
    return file


@pytest.fixture(scope="session")
def exported_torch(model: Model, tests: RunImages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy's run as a program of torch.export."""
    file = tmp_path_factory.mktemp("exported") / "toy.pt2"
    export(model, ExportRequest("torch"), file, tests)
    return file
