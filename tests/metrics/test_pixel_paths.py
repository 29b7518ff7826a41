"""Every way to the same bits: chunks, threads, tensors, images read one by one; and AUPIMO."""

import math
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_pixel_metrics import LIMITS, example, images

from anomaly_bench.metrics import UndefinedMetricWarning, image_metrics, pixel, pixel_metrics
from anomaly_bench.metrics import aupimo as aupimo_module
from tests.references import metrics as slow

pytestmark = [pytest.mark.filterwarnings("ignore:pro_per_image"), pytest.mark.filterwarnings("ignore:aupimo")]


def counts(maps, masks, **options):
    """The integers that all values come from, as text."""
    limits = {f"aupro_{limit:g}": limit for limit in LIMITS}
    values, curve = pixel.pixel_metrics_and_curve(maps, masks, limits, **{"threads": 1, **options})
    if curve is None:
        return str(values)
    return str(values), [(c.tolist() if isinstance(c, np.ndarray) else c) for c in curve[1:]]


@given(st.lists(images(), min_size=1, max_size=5), st.integers(1, 40), st.integers(1, 3))
@pytest.mark.filterwarnings("ignore::anomaly_bench.metrics.UndefinedMetricWarning")
def test_any_chunk_size_and_threads_and_tensors(pairs, chunk_size, threads):
    maps, masks = zip(*pairs, strict=True)
    expected = counts(maps, masks)
    assert counts(maps, masks, chunk_size=chunk_size, threads=threads) == expected
    tensors = [[torch.from_numpy(x) for x in xs] for xs in (maps, masks)]
    assert counts(*tensors, chunk_size=chunk_size, threads=threads) == expected


@pytest.mark.parametrize("chunk_size", [1, 7, 24 * 24, 10**4, 10**9])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_larger_maps(chunk_size, threads):
    maps, masks = example(n=20)
    assert pixel_metrics(maps, masks, threads=threads, chunk_size=chunk_size) == pixel_metrics(maps, masks)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "uint8", "int64"])
def test_tensors_of_any_type(dtype):
    maps, masks = example()
    maps = np.clip(np.round(10 * maps) + 50, 0, 100)  # exact in each of them
    tensor = torch.from_numpy(maps).to(getattr(torch, dtype))
    for mask in (torch.from_numpy(masks), torch.from_numpy(masks).to(torch.bfloat16) * 255):
        assert pixel_metrics(tensor, mask) == pixel_metrics(maps, masks)
    scores, labels = maps.max(axis=(1, 2)), masks.any(axis=(1, 2))
    assert image_metrics(tensor.amax((1, 2)), torch.from_numpy(labels)) == image_metrics(scores, labels)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("decimals", [0, 2, 9])
def test_a_gpu_counts_the_same(decimals):
    maps, masks = example(n=40, size=64)
    maps = maps.round(decimals)
    expected = counts(maps, masks)
    assert counts(torch.from_numpy(maps).cuda(), masks) == expected
    assert counts(torch.from_numpy(maps).cuda(), torch.from_numpy(masks).cuda(), chunk_size=5000) == expected


def test_tensor_with_gradient_and_a_nan_in_it():
    maps, masks = example()
    tensor = torch.from_numpy(maps).requires_grad_()
    assert pixel_metrics(tensor, masks) == pixel_metrics(maps, masks)
    tensor = tensor.detach().clone()
    tensor[3, 7, 11] = math.nan
    with pytest.raises(ValueError, match="image 3: score nan at row 7, column 11;"):
        pixel_metrics(tensor, masks)
    with pytest.raises(ValueError, match="real numbers"):
        pixel_metrics(tensor.to(torch.complex64), masks)


class Reader:
    """Images that are read when they are asked for, as from files; only one is held at a time."""

    def __init__(self, array):
        self.array, self.asked = array, []

    def __len__(self):
        return len(self.array)

    def __getitem__(self, index):
        self.asked.append((int(index), threading.get_ident()))
        return self.array[index].copy()


def test_images_are_read_one_by_one_twice():
    maps, masks = example(n=20)
    readers = Reader(maps), Reader(masks)
    assert pixel_metrics(*readers, threads=2) == pixel_metrics(maps, masks)
    for reader in readers:
        assert sorted(i for i, _ in reader.asked) == sorted([*range(20), *range(20)])
        assert len({thread for _, thread in reader.asked}) > 1


@given(st.lists(images(), min_size=2, max_size=4), st.sampled_from([(0.05, 0.5), (0.2, 0.3), (1e-5, 1e-4), (0.5, 1)]))
def test_aupimo(pairs, rates):
    maps, masks = zip(*pairs, strict=True)
    defective = [mask.any() for mask in masks]
    if all(defective) or not any(defective):
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aupimo_module, "FPR_RANGE", rates)
        value = pixel_metrics(maps, masks)["aupimo"]
    assert value == pytest.approx(slow.aupimo([m.tolist() for m in maps], masks, *rates), rel=0, abs=1e-13)


def test_aupimo_in_its_own_range():
    rng = np.random.default_rng(0)
    maps, masks = rng.normal(size=(60, 64, 64)), np.zeros((60, 64, 64), bool)
    masks[50:, 20:30, 20:30] = True  # 204,800 normal pixels in good images: the rates are 2 to 20 pixels
    maps[masks] += 4
    maps = maps.round(2)
    expected = slow.aupimo([m.tolist() for m in maps[48:]], masks[48:], 1e-5, 1e-4)  # few pixels: another value
    value = pixel_metrics(maps, masks)["aupimo"]
    top = np.sort(maps[:50].ravel())[::-1][:40]
    points = [(0, 0), *((np.mean(maps[:50] >= t), np.mean(maps[50:][masks[50:]] >= t)) for t in np.unique(top)[::-1])]
    steps = slow.log_area(points, 1e-5, 1e-4) / math.log(10)  # all defects are of one size: one curve for all images
    assert 0.3 < value < 0.9
    assert abs(value - expected) > 0.01
    assert value == pytest.approx(steps, abs=0.02)  # its thresholds are the normal scores only


def test_aupimo_needs_an_image_without_a_defect():
    maps, masks = example()
    with pytest.warns(UndefinedMetricWarning, match="aupimo undefined: no image is without a defect") as caught:
        assert math.isnan(pixel_metrics(maps[1:], masks[1:])["aupimo"])
    assert caught[0].filename == __file__
