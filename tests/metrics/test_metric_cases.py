"""Scores, masks and expected values made by others: the exact ones in rational arithmetic."""

from pathlib import Path

import numpy as np
import pytest

from anomaly_bench.metrics import UndefinedMetricWarning, image_metrics, pixel_metrics

CASES = sorted((Path(__file__).parent / "cases").glob("*.npz"))
EXPECTED = {
    "aupro_0.3": "aupro_exact",
    "aupro_0.05": "aupro05_exact",
    "pixel_auroc": "pixel_auroc",
    "pixel_ap": "ap",
    "pixel_f1_max": "f1max",
}


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore:pro_per_image")  # two cases have curves without width
def test_case(path):
    with np.load(path) as case:
        case = dict(case)
    scores, masks = case["scores"], case["masks"]
    if not np.isfinite(scores).all():
        index, row, column = np.argwhere(~np.isfinite(scores))[0]
        with pytest.raises(ValueError, match=rf"image {index}: .*row {row}, column {column};"):
            pixel_metrics(scores, masks)
        return
    if not masks.any() or masks.all():
        with pytest.warns(UndefinedMetricWarning, match="no image has an? .*pixel"):
            assert np.isnan(list(pixel_metrics(scores, masks).values())).all()
        return
    values = pixel_metrics(scores, masks)
    for ours, theirs in EXPECTED.items():
        assert values[ours] == pytest.approx(case[theirs].item(), rel=0, abs=1e-12), ours
    if np.isfinite(case["image_auroc"]):
        values = image_metrics(scores.max(axis=(1, 2)), masks.any(axis=(1, 2)))
        assert values["image_auroc"] == pytest.approx(case["image_auroc"].item(), rel=0, abs=1e-12)


def test_all_cases_are_here():
    assert len(CASES) == 12


def test_per_image_pro_is_another_quantity():
    with np.load(next(path for path in CASES if path.stem == "01_smooth")) as case:
        values = pixel_metrics(case["scores"], case["masks"])
    assert round(values["pro_per_image"], 3) == 0.603
    assert round(values["aupro_0.3"], 3) == 0.530
