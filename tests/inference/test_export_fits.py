"""Runs whose images are padded, cropped or cut into tiles are exported whole, and their files give what they give."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomaly_bench import config
from anomaly_bench.commands.main import main
from anomaly_bench.inference.certificate import certificate_file
from anomaly_bench.inference.exported import SUFFIXES
from anomaly_bench.inference.load import load
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.runner import run
from tests.inference.conftest import CONF
from tests.small_runs import QUICK, TOY, make_images

FITS = {
    "pad": "dataset.fit=pad",
    "crop": "dataset.fit=crop",
    "tiles": "dataset.tiles.size=16",
    "two tiles": "dataset.tiles.size=24",
}
SLOW = pytest.mark.slow
SHAPES = ((24, 32), (60, 20), (17, 90), (24, 32), (1, 1))


def require_packages(file: Path) -> None:
    if file.suffix == ".onnx":
        for name in ("onnx", "onnxruntime", "onnxscript"):
            pytest.importorskip(name)


@pytest.fixture(scope="module")
def trained_with(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], RunFolder]:
    """trained_with("pad"): a run of the toy for each way, on images of 24 x 32 pixels."""
    place = tmp_path_factory.mktemp("fits")
    for file in make_images(place / "images").rglob("*.png"):
        Image.open(file).crop((0, 0, 32, 24)).save(file)
    given = [*TOY[2:], *QUICK, "calibration_share=0.5", f"dataset.root={place / 'images'}"]

    @cache
    def train(fit: str) -> RunFolder:
        return run(config.compose([*given, FITS[fit], f"output_dir={place / fit}"], extra=str(CONF)))

    return train


@pytest.mark.parametrize(
    ("fit", "words"),
    [
        ("pad", ()),
        ("two tiles", ("--no-preprocess",)),
        *(pytest.param(*each, marks=SLOW) for each in [("crop", ("--format", "torch")), ("tiles", ())]),
    ],
)
def test_a_run_as_a_file(
    fit: str, words: tuple[str, ...], trained_with: Callable[[str], RunFolder], tmp_path: Path
) -> None:
    folder, file = trained_with(fit), tmp_path / ("toy.pt2" if "torch" in words else "toy.onnx")
    require_packages(file)
    words = (*words, "--out", str(file), "--config-dir", str(CONF))
    assert main(["export", str(folder.path), *words]) == 0
    certificate = json.loads(certificate_file(file).read_text())
    assert certificate["metrics"]["image_auroc"][0] == pytest.approx(folder.metrics["image_auroc"], abs=1e-6)
    assert certificate["metrics"]["aupro_0.3"][0] == pytest.approx(folder.metrics["aupro_0.3"], abs=1e-6)
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in SHAPES]
    model = load(folder.path, "cpu", CONF)
    for expected, found in zip(model.predict(images), load(file).predict(images), strict=True):
        assert found.score == pytest.approx(expected.score, abs=1e-5)
        assert (found.p_value, found.label) == (expected.p_value, expected.label)
        assert expected.map is not None
        np.testing.assert_allclose(found.map, expected.map, atol=1e-5)


@pytest.mark.parametrize("format", ["onnx", pytest.param("torch", marks=SLOW)])
def test_padding_stays_without_preprocessing(
    format: str, trained_with: Callable[[str], RunFolder], tmp_path: Path
) -> None:
    folder, file = trained_with("pad"), tmp_path / f"toy{SUFFIXES[format]}"
    require_packages(file)
    words = ["--format", format, "--no-preprocess", "--out", str(file), "--config-dir", str(CONF)]
    assert main(["export", str(folder.path), *words]) == 0
    assert "pixel_auroc" not in json.loads(certificate_file(file).read_text())["metrics"]  # of maps with their padding
    image = np.random.default_rng(1).integers(0, 256, (50, 31, 3), dtype=np.uint8)
    (expected,), (found,) = (list(load(each, "cpu", CONF).predict([image])) for each in (folder.path, file))
    assert found.score == pytest.approx(expected.score, abs=1e-5)
    assert expected.map is not None
    np.testing.assert_allclose(found.map, expected.map, atol=1e-5)
