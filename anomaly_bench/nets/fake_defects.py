"""Fake defects: a stain painted on a normal patch, so that a classifier can learn what small defects look like.

For Glancing at the Patch (Wang et al., CVPR 2021); what its own distortions look like is not known.  A stain is that of
Collin & De Vleeschouwer (ICPR 2020, arXiv 2008.12977), as a re-implementation of the paper uses it: an ellipse of one
grey, turned at random, inside the patch, with an uneven outline.  Different here:

- Outline: they move about 20 of its points at random and join them by a spline; here the ellipse's radius is multiplied
  by 1 + a sum of random harmonics, which needs no loop over patches.
- Half-axes, places and greys: theirs are whole pixels and whole greys.
- Brightness: theirs are dark; `both` makes half of them brighter than their patch's mean, as the other half are darker.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

WAVES = (2, 3, 4, 5, 6)  # periods of the harmonics in a turn; more would not show on a few pixels
SMALLEST = 1.0  # pixels: no half-axis is shorter
REACH = 0.71  # pixels: no radius is shorter; above half a pixel's diagonal, so the centre's own pixel is stained

Limits = tuple[float, float]  # the lowest and the highest of a uniform draw
StainBrightness = Literal["dark", "both"]


class Stains(NamedTuple):
    """B stains.  Lengths in pixels, from the patch's top left corner; angles in radians, from x (right) to y (down)."""

    centre: Tensor  # [B, 2]: x, y; pixel (i, j) has its centre at x = j + 0.5, y = i + 0.5
    half_axes: Tensor  # [B, 2]: along `rotation` and across; either may be the longer one
    rotation: Tensor  # [B]
    amplitude: Tensor  # [B, len(WAVES)]: shares of the ellipse's radius; their sum is the irregularity drawn
    phase: Tensor  # [B, len(WAVES)]
    grey: Tensor  # [B]


def stain(
    patches: Tensor, axes: Limits, irregularity: Limits, grey: Limits, brightness: StainBrightness
) -> tuple[Tensor, Tensor]:
    """Return copies of patches [B, 3, p, p] with one stain each, and the stains' masks [B, p, p], bool.

    patches: in [0, 1], before any normalisation.  axes, irregularity, grey: see `draw`.  brightness: `dark` takes the
    grey as it is, `both` as `darker_or_brighter` says.  A stain may have the grey of what it covers: the mask says
    where it is, not that something changed.
    """
    p = patches.shape[-1]
    stains = draw(len(patches), p, axes, irregularity, grey, patches.device)
    mask, value = rasterise(stains, p), stains.grey.to(patches.dtype)
    if brightness == "both":  # drawn last, so that one seed has the same shapes with either
        brighter = torch.rand(len(patches), device=patches.device) < 0.5
        value = darker_or_brighter(value, patches.mean((1, 2, 3)), brighter)
    return torch.where(mask[:, None], value[:, None, None, None], patches), mask


def darker_or_brighter(grey: Tensor, mean: Tensor, brighter: Tensor) -> Tensor:
    """Return stains' greys [B] on patches of a mean [B], all in [0, 1]: grey mean, or 1 - grey (1 - mean) if brighter.

    So a grey of 0 is black or white, one of 1 the patch's mean.
    """
    return torch.where(brighter, 1 - grey * (1 - mean), grey * mean)


def draw(
    count: int,
    patch_size: int,
    axes: Limits,
    irregularity: Limits,
    grey: Limits,
    device: torch.device | str = "cpu",
) -> Stains:
    """Draw `count` independent stains for patches of `patch_size` pixels, from the device's global random state.

    axes: both half-axes, as shares of the patch's side, in [0, 0.5]; at least a pixel.  irregularity: the share of the
    ellipse's radius by which the outline may leave it, in [0, 1].  grey: in [0, 1].  The centre is anywhere that leaves
    the ellipse inside the patch; only what the outline adds may be cut off.  Raises ValueError for other limits.
    """
    for name, (low, high), allowed in (("axes", axes, 0.5), ("irregularity", irregularity, 1), ("grey", grey, 1)):
        if not 0 <= low <= high <= allowed:
            raise ValueError(f"{name} is drawn from {low} to {high}, needed: from 0 or more to {allowed} or less")
    drawn = torch.rand(count, 7 + 2 * len(WAVES), device=device)  # float32 for any patches: one seed, one set of shapes
    lengths, places, rest, weights, phases = drawn.split([2, 2, 3, len(WAVES), len(WAVES)], dim=1)
    half_axes = (_between(axes, lengths) * patch_size).clamp_min(SMALLEST)
    margin = half_axes.amax(1, keepdim=True)
    weights = 1 - weights  # in (0, 1], so that their sum is never 0
    return Stains(
        centre=margin + places * (patch_size - 2 * margin),
        half_axes=half_axes,
        rotation=rest[:, 0] * math.pi,  # half a turn: an ellipse turned by the other half is the same
        amplitude=_between(irregularity, rest[:, 1:2]) * weights / weights.sum(1, keepdim=True),
        phase=phases * 2 * math.pi,
        grey=_between(grey, rest[:, 2]),
    )


def rasterise(stains: Stains, patch_size: int) -> Tensor:
    """Return masks [B, p, p], bool: True for the pixels whose centre is inside the outline, at least one in each stain.

    The outline is star-shaped.  Its pixels touch, by corners at least, unless a tip is thinner than a pixel.
    """
    steps = torch.arange(patch_size, device=stains.centre.device) + 0.5
    x, y = (steps - stains.centre[:, :, None]).unbind(1)  # [B, p], from the stain's centre
    x, y = x[:, None, :], y[:, :, None]
    angle = torch.atan2(y, x) - stains.rotation[:, None, None]  # [B, p, p]
    a, b = stains.half_axes[:, :, None, None].unbind(1)
    ellipse = a * b / torch.hypot(b * angle.cos(), a * angle.sin())  # its radius in that direction
    factor = torch.ones_like(angle)
    for wave, amplitude, phase in zip(WAVES, stains.amplitude.T, stains.phase.T, strict=True):
        factor += amplitude[:, None, None] * torch.cos(wave * angle + phase[:, None, None])
    return torch.hypot(x, y) <= (ellipse * factor).clamp_min(REACH)


def _between(limits: Limits, share: Tensor) -> Tensor:
    """Return the number at a share in [0, 1) of the way from the lowest to the highest."""
    return limits[0] + share * (limits[1] - limits[0])
