"""`save_maps=float16` and `save_heatmaps=N`: what is kept, what is read back, and how far that moves the metrics."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from small_runs import QUICK, Train, contents

from anomaly_bench import config
from anomaly_bench.api import Run
from anomaly_bench.commands.main import main
from anomaly_bench.errors import UserError
from anomaly_bench.loading.anomaly_maps import open_stored_maps, write_rounded
from anomaly_bench.runs.folder import RunFolder

PIXEL = ("pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro_0.3", "aupro_0.05", "pro_per_image", "aupimo")
RANGES = st.sampled_from(
    [(0.0, 1.0), (-3.0, 900.0), (0.0, 1e30), (1e6, 1e6 + 3), (0.0, 1e-30), (-1e38, 3e38), (5.0, 5.0)]
)


def read_back(maps: np.ndarray, tmp_path: Path) -> np.ndarray:
    with (tmp_path / "maps.npy").open("wb") as file:
        rounding = write_rounded(file, maps)
    return np.asarray(open_stored_maps(tmp_path / "maps.npy", rounding._asdict()))


@given(ends=RANGES, seed=st.integers(0, 10**6))
def test_maps_of_any_range_stay_finite_near_and_in_order(ends: tuple[float, float], seed: int) -> None:
    rng, (low, high) = np.random.default_rng(seed), ends
    maps = (low + (high - low) * rng.random((3, 6, 8)) ** 4).astype(np.float32)  # most values are small ones
    file = io.BytesIO()
    rounding = write_rounded(file, maps)
    file.seek(0)
    stored = np.load(file)
    assert (stored.dtype, stored.shape) == (np.float16, maps.shape)
    assert np.isfinite(stored).all()
    back = np.stack([rounding.load(each) for each in stored])
    height = maps.astype(np.float64) - float(maps.min())
    float32 = np.spacing(np.abs(maps).max())  # of the values that are read back
    assert (np.abs(back.astype(np.float64) - maps) <= height / 2048 + height.max() * 2.0**-39 + float32).all()
    order = np.argsort(maps, axis=None)
    assert (np.diff(back.ravel()[order]) >= 0).all()
    assert 2**14 < stored.max() <= 2**15 or low == high


def test_a_plain_conversion_would_not_do(tmp_path: Path) -> None:
    maps = np.linspace(0, 1e6, 96, dtype=np.float32).reshape(2, 6, 8)
    with np.errstate(over="ignore"):
        assert np.isinf(maps.astype(np.float16)).any()
    np.testing.assert_allclose(read_back(maps, tmp_path), maps, rtol=1 / 2048)
    far = np.float32(1e4) + np.linspace(0, 1, 96, dtype=np.float32).reshape(2, 6, 8)
    assert len(np.unique(far.astype(np.float16))) == 1
    assert len(np.unique(read_back(far, tmp_path))) == 96


def test_a_lean_run_keeps_its_metrics_and_is_read_by_every_command(
    train: Train, trained: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full = trained("calibration_share=0.25", outputs="full")
    lean = train("calibration_share=0.25", "save_maps=float16", "save_heatmaps=3")
    assert full.path.name == lean.path.name  # what is stored is not science
    assert full.metrics == lean.metrics  # measured before the rounding
    assert full.scores == lean.scores
    assert np.load(lean.path / "maps.npy").dtype == np.float16
    pictures = [sorted(path.name for path in (folder.path / "heatmaps").iterdir()) for folder in (full, lean)]
    assert (len(pictures[0]), pictures[1]) == (10, pictures[0][:3])
    assert lean.manifest["bytes"] < full.manifest["bytes"]
    exact, rounded = np.asarray(full.maps), Run(lean.path).maps()
    assert rounded is not None
    assert rounded.dtype == np.float32
    assert 0 < np.abs(rounded - exact).max() <= (exact.max() - exact.min()) / 2048

    capsys.readouterr()
    assert main(["eval", str(lean.path), "--write-tiff", "tiff"]) == 0
    row = next(i for i, score in enumerate(lean.scores) if score.path == "test/hole/001.png")
    (written,) = Path("tiff").rglob("hole/001.tiff")
    assert np.array_equal(tifffile.imread(written), rounded[row])
    before = lean.metrics
    assert main(["eval", str(lean.path)]) == 0
    said = capsys.readouterr().out
    assert "bootstrap resamples of the test images; of maps stored as float16\n" in said
    assert "maps are stored as float16: pixel metrics are of the rounded maps, image metrics of scores.csv\n" in said
    assert {name for name in before if before[name] != lean.metrics[name]} <= set(PIXEL)
    assert max(abs(before[name] - lean.metrics[name]) for name in before) < 0.002  # of 160 x 16 pixels
    assert lean.damage(("maps.npy", "metrics.json")) == []
    assert main(["threshold", str(lean.path), "--false-alarms", "0.2"]) == 0
    assert "test" in lean.manifest["thresholds"]["pixel"]
    assert main(["report"]) == 0
    drawn = [file for file in Path("outputs/report").rglob("*.png") if file.stem.isdigit()]
    assert len(drawn) == len(lean.scores)


def test_maps_in_float16_without_their_scale_are_refused(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    folder = train("save_maps=float16", *QUICK)
    for wrong in ({"offset": 0, "scale": 0}, {"offset": "x"}, [], {"offset": 0, "scale": float("nan")}, None):
        with pytest.raises(UserError, match=r"maps\.npy: is float16, and the manifest's `maps` is "):
            open_stored_maps(folder.path / "maps.npy", wrong)  # type: ignore[arg-type]
    folder.update(maps={"offset": 0, "scale": -1})
    capsys.readouterr()
    assert main(["eval", str(folder.path)]) == 2
    assert "no offset and scale" in capsys.readouterr().err


@pytest.mark.parametrize("words", ["save_maps=float32", "save_heatmaps=0.5", "save_heatmaps=-1", "save_heatmaps=many"])
def test_values_that_are_not_known(words: str) -> None:
    with pytest.raises(UserError, match=words.partition("=")[0]):
        config.validate(config.compose(["method=brightness", "dataset=demo/brick", words]))


def test_the_number_of_pictures_is_no_truth_value() -> None:
    for given_value, expected in {"1": 1, "20": 20, "true": True, "false": False, "source": "source"}.items():
        cfg = config.compose(["method=brightness", "dataset=demo/brick", f"save_heatmaps={given_value}"])
        found = config.validate(cfg).save_heatmaps
        assert (type(found), found) == (type(expected), expected)


def test_a_run_without_maps_has_none(train: Train) -> None:
    folder: RunFolder = train("save_maps=false", "save_heatmaps=2", "resamples=0")
    assert "maps.npy" not in contents(folder)
    assert len(list((folder.path / "heatmaps").iterdir())) == 2


def test_lean_is_both_keys_and_the_same_run() -> None:
    def settings(*words: str) -> config.Settings:
        return config.validate(config.compose(["method=brightness", "dataset=demo/brick", *words]))

    lean, full, mixed = settings("save=lean"), settings(), settings("save=lean", "save_heatmaps=false")
    assert (lean.save_maps, lean.save_heatmaps) == ("float16", 20)
    assert (full.save_maps, full.save_heatmaps) == (True, True)
    assert (mixed.save_maps, mixed.save_heatmaps) == ("float16", False)
    assert config.identify(lean, {}).run == config.identify(full, {}).run


def test_show_says_what_the_keys_of_a_group_at_the_root_mean(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "method=brightness"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.strip().startswith("save_heatmaps"))
    assert "a picture for each test image" in line
