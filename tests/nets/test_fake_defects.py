"""Stains: what they change and what not, their shapes against loops over pixels, and that the draws are uniform."""

from __future__ import annotations

import math

import pytest
import torch
from skimage.measure import label
from torch import Tensor

from anomaly_bench.nets.fake_defects import StainBrightness, Stains, draw, rasterise, stain
from tests.references import glancing_at_the_patch as slow

SIZES = (17, 33, 65)
AXES, IRREGULARITY, GREY = (0.01, 0.12), (0.3, 0.7), (0.1, 100 / 255)


def patches(count: int, p: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(count, 3, p, p, generator=torch.Generator().manual_seed(3), dtype=dtype)


def drawn(count: int, p: int, axes: tuple[float, float] = AXES, uneven: tuple[float, float] = IRREGULARITY) -> Stains:
    torch.manual_seed(count + p)
    return draw(count, p, axes, uneven, GREY)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("p", SIZES)
@pytest.mark.parametrize("count", [1, 20])
def test_one_grey_inside_and_nothing_outside(count: int, p: int, dtype: torch.dtype) -> None:
    before = patches(count, p, dtype)
    kept = before.clone()
    stained, mask = stain(before, AXES, IRREGULARITY, GREY, "dark")
    assert torch.equal(before, kept)
    assert stained.dtype == dtype
    assert stained.shape == before.shape
    assert mask.shape == (count, p, p)
    assert mask.dtype == torch.bool
    for old, new, where in zip(before, stained, mask, strict=True):
        assert torch.equal(new[:, ~where], old[:, ~where])
        inside = new[:, where].unique()
        assert inside.shape == (1,)
        assert GREY[0] - 1e-7 <= inside.item() <= GREY[1] + 1e-7


def test_greys_differ_between_patches() -> None:
    torch.manual_seed(0)
    stained, mask = stain(patches(50, 33), AXES, IRREGULARITY, GREY, "dark")
    greys = torch.stack([new[0, where][0] for new, where in zip(stained, mask, strict=True)])
    assert len(greys.unique()) == 50


def test_the_patchs_own_grey_changes_nothing_but_is_in_the_mask() -> None:
    plain = torch.full((4, 3, 17, 17), 0.25)
    stained, mask = stain(plain, AXES, IRREGULARITY, (0.25, 0.25), "dark")
    assert torch.equal(stained, plain)
    assert mask.any((1, 2)).all()


def test_a_seed_repeats_and_another_does_not() -> None:
    x = patches(8, 33)

    def seeded(seed: int, images: Tensor) -> tuple[Tensor, Tensor]:
        torch.manual_seed(seed)
        return stain(images, AXES, IRREGULARITY, GREY, "dark")

    first, again, other = seeded(1, x), seeded(1, x), seeded(2, x)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])
    assert torch.equal(first[1], seeded(1, x.double())[1])  # the shapes do not depend on the patches' precision
    assert not torch.equal(first[1], stain(x, AXES, IRREGULARITY, GREY, "dark")[1])  # the random state moves on


@pytest.mark.parametrize("brightness", ["dark", "both"])
def test_all_is_on_the_patches_device(
    brightness: StainBrightness,
) -> None:  # a device without values: mixing it with the CPU would raise
    stained, mask = stain(torch.empty(2, 3, 17, 17, device="meta"), AXES, IRREGULARITY, GREY, brightness)
    assert stained.device.type == mask.device.type == "meta"


# Darker or brighter


def both_ways(seed: int, x: Tensor, grey: tuple[float, float] = GREY) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    return stain(x, AXES, IRREGULARITY, grey, "both")


@pytest.mark.parametrize("level", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_both_signs_occur_as_often_and_stay_in_range(level: float) -> None:
    x = torch.full((2000, 3, 17, 17), level)
    stained, mask = both_ways(0, x)
    assert 0 <= stained.min() <= stained.max() <= 1
    change = torch.stack([new[0, where][0] for new, where in zip(stained, mask, strict=True)]) - level
    darker, brighter = change[change < 0], change[change > 0]
    for side, room in ((-darker, level), (brighter, 1 - level)):  # contrast: between 1 - grey and all of the room
        if room:
            assert len(side) == pytest.approx(1000, abs=100)  # 22 is the deviation
            assert (1 - GREY[1]) * room - 1e-6 <= side.min() <= side.max() <= (1 - GREY[0]) * room + 1e-6
            assert side.mean() == pytest.approx((1 - sum(GREY) / 2) * room, rel=0.02)


def test_both_ways_is_the_definition_with_the_shapes_and_greys_of_dark_ones() -> None:
    x = patches(40, 17) * torch.linspace(0.2, 1, 40)[:, None, None, None]
    stained, mask = both_ways(1, x)
    torch.manual_seed(1)
    dark, where = stain(x, AXES, IRREGULARITY, GREY, "dark")
    assert torch.equal(mask, where)
    assert torch.equal(torch.where(mask[:, None], dark, stained), dark)  # nothing changes outside
    signs = set()
    for old, new, same, inside in zip(x, stained, dark, mask, strict=True):
        brighter = bool(new[0, inside][0] > old.mean())
        expected = slow.darker_or_brighter(float(same[0, inside][0]), old.tolist(), brighter)
        torch.testing.assert_close(new[:, inside], torch.full_like(new[:, inside], expected))
        signs.add(brighter)
    assert signs == {False, True}


def test_both_ways_repeats_by_seed_and_its_limits_are_no_change_and_black_or_white() -> None:
    x = patches(30, 17)
    first, again, other = both_ways(1, x)[0], both_ways(1, x)[0], both_ways(2, x)[0]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    extreme, mask = both_ways(3, x, (0, 0))
    assert set(extreme[mask[:, None].expand_as(x)].tolist()) == {0.0, 1.0}
    none, mask = both_ways(3, x, (1, 1))
    means = x.mean((1, 2, 3))[:, None, None, None].expand_as(x)
    torch.testing.assert_close(none, torch.where(mask[:, None], means, x))


PICTURES = """
.......  .......  #......
.......  ...#...  .##....
.#####.  ..###..  .###...
#######  ..###..  ..###..
.#####.  ..###..  ...###.
.......  ...#...  ....##.
.......  .......  ......#
"""


def test_shapes_by_eye() -> None:  # no harmonics; the last one falls to the right, since y points down
    lengths, turns = torch.tensor([[3.1, 1.4], [1.4, 2.1], [4.3, 1.0]]), torch.tensor([0, 0, math.pi / 4])
    values = Stains(torch.full((3, 2), 3.5), lengths, turns, torch.zeros(3, 5), torch.zeros(3, 5), torch.zeros(3))
    pixels = rasterise(values, 7).transpose(0, 1).tolist()  # rows with the three side by side
    rows = ["  ".join("".join(".#"[pixel] for pixel in part) for part in row) for row in pixels]
    assert rows == PICTURES.split("\n")[1:-1]


def in_loops(values: Stains, n: int, p: int) -> list[list[bool | None]]:
    """Stain n: a pixel is in it when it is in the ellipse swollen by its direction's factor; None: too close to say."""
    cx, cy = values.centre[n].tolist()
    turn = values.rotation[n].item()
    inside: list[list[bool | None]] = []
    for i in range(p):
        inside.append([])
        for j in range(p):
            x, y = j + 0.5 - cx, i + 0.5 - cy
            along, across = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
            direction, swollen = math.atan2(across, along), 1.0
            for k in range(5):
                swollen += values.amplitude[n, k].item() * math.cos((k + 2) * direction + values.phase[n, k].item())
            a, b = (swollen * half_axis for half_axis in values.half_axes[n].tolist())
            level = min((along / a) ** 2 + (across / b) ** 2, (x * x + y * y) / 0.71**2)
            inside[-1].append(None if abs(level - 1) < 1e-3 else level < 1)
    return inside


@pytest.mark.parametrize("p", SIZES)
@pytest.mark.parametrize("uneven", [(0.0, 0.0), IRREGULARITY])
def test_masks_pixel_by_pixel(p: int, uneven: tuple[float, float]) -> None:
    values, undecided = drawn(8 if p < 65 else 3, p, AXES, uneven), 0
    for n, mask in enumerate(rasterise(values, p).tolist()):
        expected = in_loops(values, n, p)
        undecided += sum(row.count(None) for row in expected)
        assert mask == [
            [e if e is not None else m for e, m in zip(*rows, strict=True)] for rows in zip(expected, mask, strict=True)
        ]
    assert undecided <= 4


@pytest.mark.parametrize("p", SIZES)
@pytest.mark.parametrize("uneven", [(0.0, 0.0), IRREGULARITY, (1.0, 1.0)])
def test_sizes_and_places(p: int, uneven: tuple[float, float]) -> None:
    values = drawn(500, p, AXES, uneven)
    mask, shares = rasterise(values, p), values.amplitude.sum(1)
    shorter, longer = values.half_axes.amin(1), values.half_axes.amax(1)
    assert shorter.min() >= max(1, AXES[0] * p)
    assert longer.max() <= AXES[1] * p + 1e-4
    assert shares.min() >= uneven[0] - 1e-6
    assert shares.max() <= uneven[1] + 1e-6
    assert (values.centre >= longer[:, None]).all()
    assert (values.centre <= p - longer[:, None]).all()
    steps = torch.arange(p) + 0.5
    distance = (steps - values.centre[:, :1])[:, None].hypot((steps - values.centre[:, 1:])[:, :, None])
    assert mask.any((1, 2)).all()
    assert (distance[mask] <= (longer * (1 + shares)).clamp_min(0.71)[:, None, None].expand_as(mask)[mask] + 1e-4).all()
    assert mask[distance < (shorter * (1 - shares))[:, None, None] - 1e-4].all()
    column, row = values.centre.long().T
    assert mask[torch.arange(500), row, column].all()  # the pixel that holds the centre


@pytest.mark.parametrize("p", SIZES)
def test_masks_hang_together(p: int) -> None:
    def pieces(uneven: tuple[float, float]) -> list[int]:
        return [int(label(mask.numpy(), connectivity=2).max()) for mask in rasterise(drawn(600, p, AXES, uneven), p)]

    assert set(pieces((0.0, 0.3))) == {1}
    torn = sum(n > 1 for n in pieces(IRREGULARITY))  # a thin tip may slip between the centres of pixels
    assert torn <= 3


@pytest.mark.parametrize("uneven", [0.0, 0.5])
def test_the_outline_leaves_the_ellipse_as_far_as_asked(uneven: float) -> None:
    p, values = 65, drawn(200, 65, (0.2, 0.3), (uneven, uneven))
    plain = values._replace(amplitude=torch.zeros_like(values.amplitude))
    area = rasterise(plain, p).sum((1, 2))
    torch.testing.assert_close(area.float(), math.pi * values.half_axes.prod(1), rtol=0.03, atol=0)
    changed = (rasterise(plain, p) ^ rasterise(values, p)).sum((1, 2)) / area
    assert changed.min() >= 0.3 * uneven
    assert changed.max() <= (1 + uneven) ** 2 - 1


def test_every_draw_is_uniform_and_independent() -> None:  # limits: about twice what 1 of 1000 such samples exceeds
    p, count = 33, 4000
    values = drawn(count, p, (0.1, 0.4), (0.2, 0.6))  # nothing shorter than a pixel here
    margin = values.half_axes.amax(1, keepdim=True)
    shares = torch.cat(
        [
            (values.half_axes / p - 0.1) / 0.3,
            (values.centre - margin) / (p - 2 * margin),
            values.rotation[:, None] / math.pi,
            (values.amplitude.sum(1, keepdim=True) - 0.2) / 0.4,
            (values.grey[:, None] - GREY[0]) / (GREY[1] - GREY[0]),
            values.phase / (2 * math.pi),
        ],
        1,
    )
    even = (torch.arange(count) + 0.5) / count
    assert (shares.sort(0).values - even[:, None]).abs().max() < 0.06
    assert (shares.T.corrcoef() - torch.eye(shares.shape[1])).abs().max() < 0.1
    assert (values.amplitude.mean(0) / values.amplitude.mean() - 1).abs().max() < 0.1  # no harmonic is preferred


def test_stains_are_all_over_the_patch() -> None:
    often = rasterise(drawn(6000, 33), 33).float().mean(0)
    assert often[3:-3, 3:-3].min() > 0  # nearer to the border only small ones, so few
    middle = often[5:-5, 5:-5]
    assert (middle / middle.mean() - 1).abs().max() < 0.5
    for half in (often[:16], often[-16:], often[:, :16], often[:, -16:]):
        assert abs(half.mean() / often.mean() - 1) < 0.1


@pytest.mark.parametrize(
    ("name", "limits"),
    [
        ("axes", (0.2, 0.6)),  # would not fit into the patch
        ("axes", (0.2, 0.1)),
        ("irregularity", (-0.1, 0.5)),
        ("irregularity", (0.3, 1.1)),
        ("grey", (0, 100)),  # of 255
        ("grey", (0, float("nan"))),
    ],
)
def test_other_limits_raise(name: str, limits: tuple[float, float]) -> None:
    given = {"axes": AXES, "irregularity": IRREGULARITY, "grey": GREY, name: limits}
    with pytest.raises(ValueError, match=f"{name} is drawn from"):
        stain(patches(1, 17), **given, brightness="dark")
