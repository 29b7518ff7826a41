"""sPRO from mask files of several channels, at the images' own sizes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_benchmarks
import torch
from PIL import Image

from anomaly_bench.errors import UserError
from anomaly_bench.records import Record
from anomaly_bench.runs.spro import defects_config, read_region, spro_of_files
from tests.references import metrics as slow
from tests.small_runs import QUICK, Bench, save

SATURATIONS = {255: (0.5, True), 254: (3, False)}
SIZES = [(12, 8), (10, 10), (12, 8)]  # width, height
KINDS = ["good", "logical_anomalies", "structural_anomalies"]


def test_maps_are_measured_at_the_images_own_size(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(3, 5, 5)).astype(np.float32)
    files: list[list[Path]] = [[], [], []]
    for i in (1, 2):
        for k, value in enumerate((255, 254)[: 3 - i]):
            mask = np.zeros(SIZES[i][::-1], np.uint8)
            mask[k : k + 4, 1:6] = value
            files[i].append(tmp_path / f"{i}/{k:03}.png")
            save(files[i][-1], mask)
    found = spro_of_files(maps, SIZES, files, KINDS, SATURATIONS)
    large = [
        torch.nn.functional.interpolate(torch.tensor(m)[None, None], (h, w), mode="bilinear", align_corners=False)[0, 0]
        for m, (w, h) in zip(maps, SIZES, strict=True)
    ]
    values = {}
    for i, kind in ((1, KINDS[1]), (2, KINDS[2])):
        masks = [(np.asarray(Image.open(file)).tolist(), 10 if k == 0 else 3) for k, file in enumerate(files[i])]
        curve = slow.spro_curve([large[0].tolist(), large[i].tolist()], [[], masks])
        values[kind] = slow.area_up_to(curve, Fraction(1, 20))
        assert found[f"spro_0.05_{kind}"] == pytest.approx(float(values[kind]), abs=1e-14)
    assert found["spro_0.05"] == pytest.approx(float(sum(values.values()) / 2), abs=1e-14)
    limits = ("0.01", "0.05", "0.1", "0.3", "1")
    assert [name for name in found if name.count("_") == 1] == [f"spro_{limit}" for limit in limits]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.full((8, 12), 7, np.uint8), "marks the value 7, .* it has 254, 255"),
        (np.zeros((8, 12), np.uint8), "marks 0 defects"),
        (np.tile(np.uint8([254, 255]), (8, 6)), r"marks 2 defects \(254, 255\)"),
        (np.full((12, 8), 255, np.uint8), "has 8 x 12 pixels of mode L; 8-bit grey of 12 x 8"),
        (np.full((8, 12, 3), 255, np.uint8), "of mode RGB"),
    ],
)
def test_files_that_mark_no_defect(mask: np.ndarray, message: str, tmp_path: Path) -> None:
    save(tmp_path / "000.png", mask)
    with pytest.raises(UserError, match=message) as caught:
        read_region(tmp_path / "000.png", (12, 8), SATURATIONS)
    assert caught.value.where == str(tmp_path / "000.png")


def test_a_region_of_which_nothing_is_needed(tmp_path: Path) -> None:
    mask = np.zeros((8, 12), np.uint8)
    mask[0, 0] = 255
    save(tmp_path / "000.png", mask)
    with pytest.raises(UserError, match="saturates at 0 of its 1 pixels"):
        read_region(tmp_path / "000.png", (12, 8), SATURATIONS)
    (tmp_path / "000.png").write_bytes(b"damaged")
    with pytest.raises(UserError, match="cannot be read as a mask"):
        read_region(tmp_path / "000.png", (12, 8), SATURATIONS)


def test_a_run_on_loco_has_spro_and_an_evaluation_confirms_it(tmp_path: Path, bench: Callable[..., Any]) -> None:
    root = small_benchmarks.mvtec_loco(tmp_path / "data", small_benchmarks.COUNTS["mvtec_loco"])
    words = ["method=brightness", "method.image_size=16", f"dataset.root={root}", "hardware=cpu", "hardware.threads=1"]
    words += ["dataset=mvtec_loco/pushpins", "resamples=0", f"output_dir={tmp_path / 'out'}"]
    assert bench("train", *words).returncode == 0
    (path,) = (tmp_path / "out").glob("brightness/mvtec_loco/pushpins/s0-*")
    metrics = json.loads((path / "metrics.json").read_text())
    kinds = [metrics[f"spro_0.05_{kind}"] for kind in ("logical_anomalies", "structural_anomalies")]
    assert metrics["spro_0.05"] == pytest.approx(sum(kinds) / 2)
    assert "the stored metrics are confirmed" in bench("eval", str(path)).stdout


def test_a_run_knows_by_which_defects_it_was_measured(tmp_path: Path, bench: Bench) -> None:
    root = tmp_path / "data/mvtec_loco"
    small_benchmarks.mvtec_loco(root, {"pushpins": small_benchmarks.COUNTS["mvtec_loco"]["pushpins"]})
    config = root / "pushpins/defects_config.json"
    words = ["method=brightness", "dataset=mvtec_loco/pushpins", "dataset.root=data", "hardware=cpu", *QUICK]
    assert bench("train", *words).returncode == 0
    run = next((tmp_path / "outputs").glob("brightness/mvtec_loco/pushpins/s0-*"))
    stored = json.loads((run / "manifest.json").read_text())["checksums"]
    assert stored["defects_config"] == hashlib.sha256(config.read_bytes()).hexdigest()
    assert "are confirmed" in bench("eval", str(run)).stdout
    config.write_text(config.read_text().replace('"saturation_threshold": 4', '"saturation_threshold": 5'))
    for done in (bench("eval", str(run)), bench("train", *words)):
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
        assert "defects_config.json, by which sPRO is measured, has changed" in done.stderr


def test_masks_anywhere_else_have_no_defects_config() -> None:
    for mask in ((Path("0.png"), Path("1.png")), (Path("/a/b/c/d/0.png"),), Path("x.png"), None):
        assert defects_config([Record("x", "cut", Path("x.png"), mask)]) is None
