"""AUPRO as MVTec's script computes it: our restatement of the script, the script's own values, and the exact ones."""

from pathlib import Path

import numpy as np
import pytest

from anomaly_bench.metrics import pixel_metrics
from tests.references.official_aupro import aupro

CASES = sorted((Path(__file__).parent / "cases").glob("*.npz"))


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # one case has no region
def test_the_scripts_own_values(path):
    """Also where it should have none: a NaN among the scores, no anomaly.  Rounding of another kind would be 1e-9."""
    with np.load(path) as case:
        for limit, name in ((0.3, "aupro_official"), (0.05, "aupro05_official")):
            assert aupro(case["scores"], case["masks"], limit) == pytest.approx(case[name].item(), rel=0, abs=1e-14)


@pytest.mark.parametrize("decimals", [9, 1])  # few: many ties
@pytest.mark.parametrize("limit", [0.3, 0.05, 0.5, 1.0])
def test_exact_but_for_its_float32_rates(decimals, limit):
    rng = np.random.default_rng(decimals)
    masks = np.zeros((7, 40, 30), np.uint8)
    for mask in masks[2:]:
        for y, x, side in rng.integers(2, 20, (3, 3)):
            mask[y : y + side, x : x + side // 2 + 1] = 255
    maps = (rng.normal(size=masks.shape) + (masks > 0)).round(decimals).astype(np.float32)
    exact = pixel_metrics(maps, masks, (limit,))[f"aupro_{limit:g}"]
    assert aupro(list(maps), list(masks), limit) == pytest.approx(exact, rel=0, abs=1e-7)
    assert exact > aupro(-maps, masks, limit) + 0.1
