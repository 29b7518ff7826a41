"""Runs whose images are padded, cropped or cut into tiles are exported whole, and their files give what they give."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomaly_bench import config
from anomaly_bench.commands.main import main
from anomaly_bench.inference.certificate import certificate_file
from anomaly_bench.inference.load import load
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.runner import run
from tests.inference.conftest import CONF
from tests.small_runs import QUICK, TOY, make_images

FITS = {"pad": "dataset.fit=pad", "crop": "dataset.fit=crop", "tiles": "dataset.tiles.size=16"}
SHAPES = ((24, 32), (60, 20), (17, 90), (24, 32), (1, 1))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunFolder]:
    """A run of the toy for each way, on images of 24 x 32 pixels."""
    place = tmp_path_factory.mktemp("fits")
    for file in make_images(place / "images").rglob("*.png"):
        Image.open(file).crop((0, 0, 32, 24)).save(file)
    given = [*TOY[2:], *QUICK, "calibration_share=0.5", f"dataset.root={place / 'images'}"]
    return {
        name: run(config.compose([*given, override, f"output_dir={place / name}"], extra=str(CONF)))
        for name, override in FITS.items()
    }


@pytest.mark.parametrize(("fit", "suffix"), [("pad", ".onnx"), ("crop", ".pt2"), ("tiles", ".onnx")])
def test_a_run_as_a_file(fit: str, suffix: str, runs: dict[str, RunFolder], tmp_path: Path) -> None:
    if suffix == ".onnx":
        for name in ("onnx", "onnxruntime", "onnxscript"):
            pytest.importorskip(name)
    folder, file = runs[fit], tmp_path / f"toy{suffix}"
    format = {".onnx": "onnx", ".pt2": "torch"}[suffix]
    words = ["--format", format, "--out", str(file), "--config-dir", str(CONF)]
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


def test_padding_stays_without_preprocessing(runs: dict[str, RunFolder], tmp_path: Path) -> None:
    file = tmp_path / "toy.pt2"
    words = ["--format", "torch", "--no-preprocess", "--out", str(file), "--config-dir", str(CONF)]
    assert main(["export", str(runs["pad"].path), *words]) == 0
    assert "pixel_auroc" not in json.loads(certificate_file(file).read_text())["metrics"]  # of maps with their padding
    image = np.random.default_rng(1).integers(0, 256, (50, 31, 3), dtype=np.uint8)
    (expected,), (found,) = (list(load(each, "cpu", CONF).predict([image])) for each in (runs["pad"].path, file))
    assert found.score == pytest.approx(expected.score, abs=1e-5)
    assert expected.map is not None
    np.testing.assert_allclose(found.map, expected.map, atol=1e-5)
