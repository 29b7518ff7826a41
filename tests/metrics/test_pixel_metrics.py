import warnings
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import average_precision_score, roc_auc_score

from anomaly_bench.metrics import UndefinedMetricWarning, pixel_metrics
from tests.references import metrics as slow

pytestmark = [  # tiny images often have curves without width, and most examples no image without a defect
    pytest.mark.filterwarnings("ignore:pro_per_image"),
    pytest.mark.filterwarnings("ignore:aupimo"),
]
LIMITS = {0.3: Fraction(3, 10), 0.05: Fraction(1, 20), 0.5: Fraction(1, 2), 1.0: Fraction(1)}
LEVELS = [-2.5, -0.0, 0.0, 0.125, 3.0, 1e6]  # few, so that ties are heavy


@st.composite
def images(draw):
    """A map and a mask of one size; each image has a size of its own."""
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    scores = draw(arrays(np.float64, shape, elements=st.sampled_from(LEVELS), fill=st.nothing()))
    return scores, draw(arrays(np.uint8, shape, elements=st.sampled_from([0, 0, 1, 255]), fill=st.nothing()))


def example(seed=0, n=6, size=24):
    """Continuous float32 maps and blobs with a weak signal; the first image is normal."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((n, size, size), bool)
    for mask in masks[1:]:
        for y, x, side in rng.integers(2, size // 2, (3, 3)):
            mask[y : y + side, x : x + side // 2 + 1] = True
    return (rng.normal(size=masks.shape) + masks).astype(np.float32), masks


@given(st.lists(images(), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_rational_arithmetic_and_any_order(pairs, swap):
    maps, masks = zip(*pairs, strict=True)
    normal, found = slow.split(maps, masks)
    assume(normal and found)
    values = pixel_metrics(maps, masks, tuple(LIMITS))
    anomalous = [s for region in found for s in region]
    expected = [f(anomalous, normal) for f in (slow.auroc, slow.average_precision, slow.f1_max)]
    expected += [slow.aupro(maps, masks, limit) for limit in LIMITS.values()]
    aupros = [f"aupro_{limit:g}" for limit in LIMITS]
    assert list(values) == ["pixel_auroc", "pixel_ap", "pixel_f1_max", *aupros, "pro_per_image", "aupimo"]
    assert list(values.values())[:-2] == pytest.approx([float(v) for v in expected], rel=0, abs=1e-14)
    expected = slow.pro_per_image([m.tolist() for m in maps], masks)
    assert values["pro_per_image"] == pytest.approx(expected, rel=0, abs=1e-13, nan_ok=True)
    swap.shuffle(pairs)
    shuffled = pixel_metrics(*zip(*pairs, strict=True), tuple(LIMITS))
    assert str(shuffled) == str(values)  # nan is nan here, and every bit shows


def test_no_value_is_above_1():
    rng = np.random.default_rng(0)
    for _ in range(200):
        masks = rng.random((3, *rng.integers(2, 14, 2))) < np.array([0, 0.3, 0.3])[:, None, None]
        if masks.any():
            values = pixel_metrics(rng.random(masks.shape) + 5 * masks, masks)
            assert all(value <= 1 for value in values.values() if not np.isnan(value)), values


@pytest.mark.parametrize(("seed", "decimals"), [(0, 9), (1, 9), (2, 1), (3, 1)])  # few decimals: many ties
def test_per_image_pro(seed, decimals):
    maps, masks = example(seed)
    maps = maps.astype(np.float64).round(decimals)
    expected = slow.pro_per_image([m.tolist() for m in maps], masks)
    assert 0 < expected < 1
    assert pixel_metrics(maps, masks)["pro_per_image"] == pytest.approx(expected, rel=0, abs=1e-13)


def test_scikit_learn():
    maps, masks = example(n=20, size=64)
    values = pixel_metrics(maps, masks)
    assert values["pixel_auroc"] == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()), rel=0, abs=1e-12)
    assert values["pixel_ap"] == pytest.approx(average_precision_score(masks.ravel(), maps.ravel()), rel=0, abs=1e-12)


def test_every_order_of_images_gives_the_same_bits():
    maps, masks = example(n=30)
    values = pixel_metrics(maps, masks)
    for seed in range(10):
        order = np.random.default_rng(seed).permutation(30)
        assert pixel_metrics(maps[order], masks[order]) == values


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4", "int8", "int64", "uint8"])
def test_score_types(dtype):
    maps, masks = example()
    maps = np.clip(np.round(10 * maps) + 50, 0, 100)  # exact in each of them
    assert pixel_metrics(maps.astype(dtype), masks) == pixel_metrics(maps, masks)


@pytest.mark.parametrize("values", [(False, True), (0, 1), (0, 255), (0.0, 0.5), (0, -1)])
def test_mask_values(values):
    maps, masks = example()
    assert pixel_metrics(maps, np.array(values)[masks.astype(int)]) == pixel_metrics(maps, masks)


def test_memory_map_list_and_strided_view(tmp_path):
    maps, masks = example()
    np.save(tmp_path / "maps.npy", maps)
    before = maps.copy()
    for same in (np.load(tmp_path / "maps.npy", mmap_mode="r"), list(maps), np.asfortranarray(maps)):
        assert pixel_metrics(same, masks) == pixel_metrics(maps, masks)
    assert pixel_metrics(maps[:, ::-1, ::2], masks[:, ::-1, ::2]) == pixel_metrics(maps[:, :, ::2], masks[:, :, ::2])
    np.testing.assert_array_equal(maps, before)  # they are sorted in a copy


def test_float64_is_not_rounded():
    maps, masks = example()
    ranks = maps.ravel().argsort().argsort().reshape(maps.shape)
    close = 1 + ranks * 2.0**-52
    assert len(np.unique(close.astype(np.float32))) < 3
    assert pixel_metrics(close, masks)["aupro_0.3"] == pixel_metrics(ranks, masks)["aupro_0.3"]


def test_large_scores_keep_their_order():  # a float32 sigmoid makes all of these equal
    maps, masks = example()
    maps = np.round(maps * 64) / 64
    plain = pixel_metrics(maps, masks)
    assert pixel_metrics(maps * 1024 + 4096, masks) == plain
    assert plain["aupro_0.3"] > 0.3


def test_one_outlier_moves_one_pixel_only():  # uniform bins between minimum and maximum would lose the rest
    maps, masks = example()
    normal = np.argwhere(~masks)[0]
    top, huge = maps.copy(), maps.copy()
    top[tuple(normal)], huge[tuple(normal)] = maps.max() + 1, 1e6
    assert pixel_metrics(huge, masks)["aupro_0.3"] == pixel_metrics(top, masks)["aupro_0.3"]


def test_signed_zeros_tie():
    masks = np.array([[[0, 0], [1, 1]]])
    signed, plain = np.array([[[-0.0, 0.0], [0.0, -0.0]]]), np.zeros((1, 2, 2))
    with pytest.warns(UndefinedMetricWarning, match="pro_per_image.*image 0"):
        values = pixel_metrics(signed, masks)
    assert values["pixel_auroc"] == 0.5
    assert values["aupro_0.3"] == pytest.approx(0.15)
    with pytest.warns(UndefinedMetricWarning):
        assert str(pixel_metrics(plain, masks)) == str(values)


def hit_and_missed(*boxes):
    """One 8x8 image: the first region's pixels lie above all normal ones, all other regions' below."""
    scores, mask = np.zeros((8, 8)), np.zeros((8, 8), bool)
    for score, box in zip((1, -1, -1), boxes, strict=False):
        scores[box], mask[box] = score, True
    return scores, mask


def test_corners_connect():  # 4-connected, two regions would weigh the same: 1/2
    big, corner = np.s_[0:2, 0:4], np.s_[2:4, 4:5]
    assert pixel_metrics(*([x] for x in hit_and_missed(big, corner)))["aupro_0.3"] == pytest.approx(8 / 10)
    anti = [[x[:, ::-1]] for x in hit_and_missed(big, corner)]
    assert pixel_metrics(*anti)["aupro_0.3"] == pytest.approx(8 / 10)


def test_regions_weigh_the_same_and_stay_in_their_image():
    scores, mask = hit_and_missed(np.s_[0:2, 0:4], np.s_[3:4, 4:5])
    assert pixel_metrics([scores], [mask])["aupro_0.3"] == pytest.approx(1 / 2)
    up, down = np.s_[6:8, :], np.s_[0:1, :]  # the last rows of one image, the first one of the next
    first, second = hit_and_missed(up), hit_and_missed(np.s_[0:0, :], down)
    assert pixel_metrics([first[0], second[0]], [first[1], second[1]])["aupro_0.3"] == pytest.approx(1 / 2)


def test_a_tie_over_the_limit_is_cut_by_a_straight_line():
    maps = np.array([[[2.0, 1, 1, 1, 1, 0]]])
    masks = np.array([[[1, 1, 0, 0, 1, 0]]])  # regions {2, 1} and {1}, normal {1, 1, 0}
    values = pixel_metrics(maps, masks, (0.25, 1))  # PRO goes from 1/4 at FPR 0 to 1 at FPR 2/3
    assert values["aupro_0.25"] == pytest.approx(1 / 4 + (0.25 / 2) * (3 / 4) / (2 / 3))
    assert values["aupro_1"] == pytest.approx((2 / 3) * (1 / 4 + 1) / 2 + 1 / 3)


def test_one_normal_pixel():
    maps, masks = np.array([[[5.0, 4.0], [3.0, 2.0]]]), np.array([[[1, 1], [0, 1]]])
    with pytest.warns(UndefinedMetricWarning, match="pro_per_image"):
        values = pixel_metrics(maps, masks)
    assert values["pixel_auroc"] == pytest.approx(2 / 3)
    assert values["aupro_0.05"] == pytest.approx(2 / 3)


def test_images_without_normal_or_anomalous_pixels_are_left_out_of_the_per_image_mean():
    maps, masks = example(n=2)
    alone = pixel_metrics(maps[1:], masks[1:])["pro_per_image"]
    full = np.ones((1, 24, 24), bool)
    more = pixel_metrics(np.concatenate([maps, maps[:1]]), np.concatenate([masks, full]))
    assert more["pro_per_image"] == alone


@pytest.mark.parametrize(("value", "missing"), [(0, "an anomalous"), (1, "a normal")])
def test_one_class_is_undefined(value, missing):
    maps, masks = example()
    with pytest.warns(UndefinedMetricWarning, match=f"aupro_0.3, .*no image has {missing} pixel") as caught:
        values = pixel_metrics(maps, np.full(masks.shape, value))
    assert np.isnan(list(values.values())).all()
    assert len(values) == 7
    assert caught[0].filename == __file__  # it points at the caller


def test_no_image_with_both_kinds_of_pixels():
    maps = np.arange(8.0).reshape(2, 2, 2)
    with pytest.warns(UndefinedMetricWarning, match="pro_per_image .*no image has both"):
        values = pixel_metrics(maps, [np.zeros((2, 2)), np.ones((2, 2))])
    assert np.isnan(values.pop("pro_per_image"))
    assert set(values.values()) == {1.0}


def test_defined_metrics_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixel_metrics(*example())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_scores_that_are_not_finite(bad, dtype):
    maps, masks = example()
    maps = maps.astype(dtype)
    maps[3, 7, 11] = maps[4, 0, 0] = bad
    with pytest.raises(ValueError, match=f"image 3: score {bad} at row 7, column 11;"):
        pixel_metrics(maps, masks)


@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        ([], [], "at least one"),
        (np.zeros((2, 3, 3)), np.zeros((1, 3, 3)), "2 maps and 1 masks"),
        (np.zeros((3, 3)), np.zeros((3, 3)), r"image 0: map \(3,\).*\[H, W\]"),
        (np.zeros((1, 1, 3, 3)), np.zeros((1, 1, 3, 3)), r"image 0: map \(1, 3, 3\)"),
        ([np.zeros((2, 3))] * 2, [np.zeros((2, 3)), np.zeros((3, 2))], r"image 1: map \(2, 3\) and mask \(3, 2\)"),
        (np.zeros((1, 0, 3)), np.zeros((1, 0, 3)), "not empty"),
        (np.zeros((1, 2, 2)), np.full((1, 2, 2), np.nan), "not a number"),
        (np.zeros((1, 2, 2)), np.full((1, 2, 2), "0"), "not a number"),
        (np.zeros((1, 2, 2), complex), np.zeros((1, 2, 2)), "real numbers"),
    ],
)
def test_mistakes(maps, masks, message):
    with pytest.raises(ValueError, match=message):
        pixel_metrics(maps, masks)


@pytest.mark.parametrize("limit", [0.0, -0.1, 1.01, np.nan, 30.0])
def test_limits_outside(limit):
    with pytest.raises(ValueError, match=f"fpr_limits: {limit} is outside"):
        pixel_metrics(*example(), fpr_limits=(0.3, limit))


def test_scores_over_the_whole_range_of_float64():  # the difference of two of them is infinite
    maps, masks = example()
    maps = maps.astype(np.float64) / abs(maps).max()
    small, huge = pixel_metrics(maps, masks), pixel_metrics(maps * 1.7e308, masks)
    assert huge == pytest.approx(small, rel=0, abs=1e-12, nan_ok=True)
