from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from anomaly_bench.loading.image_dataset import ImageSet
from anomaly_bench.loading.loaders import NormalLoaders
from anomaly_bench.loading.tiles import TileSet, Tiling
from anomaly_bench.records import Record


def blended(maps: np.ndarray, corners: list[tuple[int, int]], height: int, width: int) -> np.ndarray:
    """Pixel by pixel: the mean over the tiles that hold it, weighted by the product of distances from the borders."""
    _, h, w = maps.shape
    out = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            total = weight = 0.0
            for (top, left), each in zip(corners, maps, strict=True):
                i, j = y - top, x - left
                if 0 <= i < h and 0 <= j < w:
                    share = min(i + 1, h - i) * min(j + 1, w - j)
                    total, weight = total + share * each[i, j], weight + share
            out[y, x] = total / weight
    return out


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("image", [(16, 16), (16, 40), (23, 37), (17, 64)])
def test_tiles_cover_the_image_and_overlap_at_least_so_much(image: tuple[int, int], overlap: float) -> None:
    corners = Tiling((16, 16), overlap).corners(image)
    seen = np.zeros(image, int)
    for top, left in corners:
        assert 0 <= top <= image[0] - 16
        assert 0 <= left <= image[1] - 16
        seen[top : top + 16, left : left + 16] += 1
    assert (seen > 0).all()
    for starts in ({top for top, _ in corners}, {left for _, left in corners}):
        steps = np.diff(sorted(starts))
        assert (steps <= max(1, int(16 * (1 - overlap)))).all()


def test_maps_of_tiles_become_one_map() -> None:
    tiling, draw = Tiling((6, 8), 0.3), torch.Generator().manual_seed(0)
    corners = tiling.corners((13, 21))
    maps = torch.rand(len(corners), 2, 6, 8, generator=draw, dtype=torch.float64)
    merged = tiling.merge(maps, (13, 21))
    for i in range(2):
        np.testing.assert_allclose(merged[i], blended(maps[:, i].numpy(), corners, 13, 21), rtol=1e-12)


def test_a_map_without_border_effects_comes_back_as_it_was() -> None:
    """What a pixel's own value decides is the same in each tile, so no seam can show: to rounding."""
    tiling, whole = Tiling((32, 48), 0.4), torch.rand(2, 1, 100, 130)
    merged = tiling.merge(tiling.cut(whole)[:, :, 0], (100, 130))
    torch.testing.assert_close(merged, whole[:, 0], rtol=2e-6, atol=0)


def records(count: int) -> list[Record]:
    draw = np.random.default_rng(0)
    return [Record(f"{i}.png", "good", draw.integers(0, 256, (12, 20, 3), dtype=np.uint8)) for i in range(count)]


@pytest.mark.parametrize(("reach", "overlap"), [(1, 0.25), (3, 0.25), (3, 0.5), (7, 0.5)])
def test_what_padding_does_at_a_seam_is_bounded(reach: int, overlap: float) -> None:
    """A network that looks `reach` pixels far errs near a tile's border only, where the other tile counts more.

    By at most reach / (shared pixels + 1) of the largest error; farther from all borders by nothing.
    """
    draw, side, width = torch.Generator().manual_seed(0), 32, 80
    image, kernel = (torch.rand(1, 1, *shape, generator=draw) for shape in ((side, width), (2 * reach + 1,) * 2))
    tiling = Tiling((side, side), overlap)
    whole, tiles = (F.conv2d(x, kernel, padding=reach)[:, 0] for x in (image, tiling.cut(image)[:, 0]))
    difference = (tiling.merge(tiles[:, None], (side, width)) - whole).abs()[0]
    lefts = [left for _, left in tiling.corners((side, width))]
    shared = min(left + side - right for left, right in itertools.pairwise(lefts))
    error = max((tiles[i] - whole[0, :, left : left + side]).abs().max() for i, left in enumerate(lefts))
    assert shared >= round(overlap * side) > reach
    assert 0 < difference.max() <= error * reach / (shared + 1) * (1 + 1e-5)
    far = np.min([np.abs(np.arange(width) - edge + 0.5) for edge in (*lefts[1:], *(n + side for n in lefts[:-1]))], 0)
    assert (difference[:, far > reach] < 1e-5 * whole.max()).all()


def test_a_training_sees_each_tile_of_each_image_once(tmp_path: Path) -> None:
    images, tiling = ImageSet(records(3), (12, 20), tmp_path), Tiling((8, 8), 0.25)
    tiles = TileSet(images, tiling)
    corners = tiling.corners((12, 20))
    assert len(tiles) == 3 * len(corners)
    for i in range(len(tiles)):
        image, tile = divmod(i, len(corners))
        (top, left), sample = corners[tile], tiles[i]
        assert torch.equal(sample["image"], images[image]["image"][:, top : top + 8, left : left + 8])
        assert sample["path"] == f"{image}.png tile {tile + 1}"
    assert torch.equal(tiles[-1]["image"], tiles[len(tiles) - 1]["image"])
    with pytest.raises(IndexError):
        tiles[len(tiles)]
    loaders = NormalLoaders(records(3), [], (12, 20), tmp_path, 0, 0, tiling=tiling)
    batches = list(loaders.loader("train", 4, shuffle=True))
    assert sorted(path for batch in batches for path in batch["path"]) == sorted(r.path for r in tiles.records)
    assert loaders.examples(2).shape == (2, 3, 8, 8)


def test_features_of_other_tiles_are_kept_apart(tmp_path: Path) -> None:
    images = ImageSet(records(2), (12, 20), tmp_path)
    keys = {TileSet(images, Tiling(size, overlap)).key for size in ((8, 8), (8, 10)) for overlap in (0.0, 0.5)}
    assert len(keys | {images.key}) == 5
