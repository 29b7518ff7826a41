import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from anomaly_bench.metrics import UndefinedMetricWarning, image_metrics
from tests.references import metrics as slow

IMAGES = st.lists(st.tuples(st.sampled_from([-3.0, -0.0, 0.0, 0.1, 0.3, 7e5]), st.booleans()), min_size=2, max_size=20)


@given(images=IMAGES, swap=st.randoms(use_true_random=False))
def test_rational_arithmetic_and_any_order(images, swap):
    anomalous, normal = [s for s, y in images if y], [s for s, y in images if not y]
    if not anomalous or not normal:
        with pytest.warns(UndefinedMetricWarning, match="no image is " + ("normal" if anomalous else "anomalous")):
            assert np.isnan(list(image_metrics(*map(np.array, zip(*images, strict=True))).values())).all()
        return
    values = image_metrics(*map(np.array, zip(*images, strict=True)))
    expected = [f(anomalous, normal) for f in (slow.auroc, slow.average_precision, slow.f1_max)]
    assert list(values) == ["image_auroc", "image_ap", "image_f1_max"]
    assert list(values.values()) == pytest.approx([float(v) for v in expected], rel=0, abs=1e-14)
    swap.shuffle(images)
    assert image_metrics(*map(np.array, zip(*images, strict=True))) == values


@pytest.mark.parametrize("levels", [5, 10**9])
def test_scikit_learn(levels):
    rng = np.random.default_rng(levels)
    labels = rng.random(3000) < 0.2
    scores = rng.integers(levels, size=3000) + labels * levels // 5
    values = image_metrics(scores, labels)
    assert values["image_auroc"] == pytest.approx(roc_auc_score(labels, scores), rel=0, abs=1e-12)
    assert values["image_ap"] == pytest.approx(average_precision_score(labels, scores), rel=0, abs=1e-12)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4", "int16", "uint8", "int64"])
def test_dtypes(dtype):
    values = image_metrics(np.array([1, 3, 2, 4], dtype), np.array([0, 0, 1, 1.0]))
    assert values == pytest.approx({"image_auroc": 3 / 4, "image_ap": (1 + 2 / 3) / 2, "image_f1_max": 4 / 5})


@pytest.mark.parametrize(("low", "high"), [(20.0, 20.000002), (-1e30, -0.99e30), (2**60, 2**60 + 1), (1.0, 1 + 2**-52)])
def test_close_scores_keep_their_order(low, high):  # a sigmoid, a shift or a cast to float32 would make them equal
    values = image_metrics(np.array([low, high, low, high]), np.array([0, 1, 0, 1]))
    assert values == {"image_auroc": 1, "image_ap": 1, "image_f1_max": 1}


def test_separated_scores_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert image_metrics(np.array([0, 1]), np.array([True, False]))["image_auroc"] == 0


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([], [], "no image"),
        ([1.0, 2.0], [0], r"\(2,\).*\(1,\)"),
        ([[1.0, 2.0]], [[0, 1]], r"must be \[N\]"),
        ([1.0, np.nan], [0, 1], "image 1 is nan"),
        ([1.0, 2.0, -np.inf], [0, 1, 1], "image 2 is -inf"),
        ([1.0, 2.0], [0, 2], "label of image 1 is 2"),
        ([1.0, 2.0], [-1, 1], "label of image 0 is -1"),
        ([1.0, 2.0], [0.0, np.nan], "label of image 1 is nan"),
        (["a", "b"], [0, 1], "real numbers"),
        ([1j, 2j], [0, 1], "real numbers"),
    ],
)
def test_mistakes(scores, labels, message):
    with pytest.raises(ValueError, match=message):
        image_metrics(np.array(scores), np.array(labels))
