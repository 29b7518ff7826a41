"""The resizing inside an exported file gives Pillow's pixels to the bit, and undoes padding as a run does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from anomaly_bench.inference.graph_resize import FrameGraph, UnpadGraph
from anomaly_bench.loading.frame import FITS, Fit, Frame
from anomaly_bench.loading.image_dataset import to_tensor

ODD = [(1, 1), (1, 50), (50, 1), (2, 3), (900, 30), (30, 900), (255, 257), (1000, 700), (2, 3000), (64, 48)]


def sizes() -> list[tuple[int, int]]:
    random = np.random.default_rng(0)
    return [*ODD, *((int(h), int(w)) for h, w in random.integers(1, 400, (40, 2)))]


def image(height: int, width: int) -> np.ndarray:
    """Noise, or black and white alone, whose sums lie farthest apart."""
    values = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return values if height % 2 else (values > 127).astype(np.uint8) * 255


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", [(32, 32), (64, 48), (100, 256)])
def test_the_pixels_are_those_of_a_run(fit: Fit, size: tuple[int, int]) -> None:
    frame = Frame(size, fit)
    graph = FrameGraph(frame)
    for height, width in sizes():
        pixels = image(height, width)
        found = graph(torch.from_numpy(pixels)[None])[0]
        assert torch.equal(found, to_tensor(frame.image(pixels))), (height, width)


@pytest.mark.parametrize("value", [0, 127, 255])
def test_sums_stay_exact_where_an_axis_shrinks_very_much(value: int) -> None:
    pixels = np.full((3175, 1, 3), value, np.uint8)
    pixels[::7] //= 2
    for fit in FITS:
        frame = Frame((8, 8), fit)
        found = FrameGraph(frame)(torch.from_numpy(pixels)[None])[0]
        assert torch.equal(found, to_tensor(frame.image(pixels))), fit


def test_images_of_a_batch_do_not_mix() -> None:
    pixels = np.stack([image(33, 20), image(33, 20)[::-1]])
    graph = FrameGraph(Frame((16, 16), "pad"))
    found = graph(torch.from_numpy(pixels))
    assert torch.equal(found[1], graph(torch.from_numpy(pixels[1:].copy()))[0])


@pytest.mark.parametrize("shape", ODD)
def test_maps_lose_their_padding_as_those_of_a_run(shape: tuple[int, int]) -> None:
    frame = Frame((40, 56), "pad")
    maps = torch.rand(2, 40, 56, generator=torch.Generator().manual_seed(0))
    inside = maps[(slice(None), *frame.filled(shape))][:, None]
    expected = F.interpolate(inside, frame.size, mode="bilinear", align_corners=False)[:, 0]
    found = UnpadGraph(frame.size)(maps, torch.zeros(2, *shape, 3, dtype=torch.uint8))
    torch.testing.assert_close(found, expected, rtol=0, atol=4e-6)
