"""Images of any size to the size that a method sees, as operations of a graph: the pixels of `Frame.image`, to the bit.

Pillow resizes an axis by integer weights, w 2^22 rounded, of a triangle filter, and rounds each sum to 8 bits.  Here
the weights of an axis are a matrix [out, in] that is computed from the two lengths, in float64 and in the order of
Pillow's operations.  A sum of 22-bit weights and 8-bit values is below 2^53, so that the product is exact in float64.
Rows that are cropped off have the weight 0, and so have all weights of padding.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from anomaly_bench.loading.frame import FILL, Frame
from anomaly_bench.records import Size

ONE = 2.0**22  # Pillow's fixed-point 1: 32 bits, less 8 of a pixel, less 2 in reserve


class Part(NamedTuple):
    """The first pixel of a part of an axis and its length in pixels: float64 scalars."""

    first: Tensor
    length: Tensor


class FrameGraph(nn.Module):
    """Does what `Frame.image` does, for a batch of images of one size that is not known before."""

    fill: Tensor

    def __init__(self, frame: Frame) -> None:
        super().__init__()
        self.size, self.fit = frame.size, frame.fit
        self.register_buffer("fill", torch.tensor(FILL, dtype=torch.float64).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return images uint8 [B, h, w, 3] as float32 [B, 3, H, W] in [0, 1]."""
        axes = positions(images)
        taken, filled = parts(axes, self.size, self.fit)
        each = zip(axes, taken, filled, self.size, strict=True)
        rows, columns = (weights(at, of, within, m) for at, of, within, m in each)
        x = images.permute(0, 3, 1, 2).to(torch.float64)  # [B, 3, h, w]
        x = eight_bits(x @ columns.T)  # [B, 3, h, W]
        x = eight_bits(rows @ x)  # [B, 3, H, W]
        if self.fit == "pad":
            inside = [covered(within, m) for within, m in zip(filled, self.size, strict=True)]
            x = torch.where(inside[0][:, None] & inside[1], x, self.fill)
        return x.to(torch.float32) / 255


class UnpadGraph(nn.Module):
    """Does what `runs.whole_images.restored` does: maps of padded images, without the padding, at the frame's size."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size

    def forward(self, maps: Tensor, images: Tensor) -> Tensor:
        """Return maps [B, H, W] as [B, H, W].  images: as they come, uint8 [B, h, w, 3]."""
        _, filled = parts(positions(images), self.size, "pad")
        rows, columns = (interpolation(within, m).to(maps.dtype) for within, m in zip(filled, self.size, strict=True))
        return rows @ maps @ columns.T


def positions(images: Tensor) -> list[Tensor]:
    """Return 0, 1, ... along the height and the width of images [B, h, w, 3]: float64 [h] and [w]."""
    return [torch.arange(n, dtype=torch.float64, device=images.device) for n in images.shape[1:3]]


def parts(axes: list[Tensor], size: Size, fit: str) -> tuple[list[Part], list[Part]]:
    """Return which rows and columns of an image are used, and which of the frame they fill: `Frame.taken`, `.filled`.

    axes: of the image, as of `positions`.  size: of the frame.
    """
    sides = [at[-1] + 1 for at in axes]
    whole = [Part(torch.zeros_like(n), n) for n in sides]
    frame = [Part(torch.zeros_like(n), torch.full_like(n, m)) for n, m in zip(sides, size, strict=True)]
    if fit == "crop":
        scale = torch.minimum(sides[0] / size[0], sides[1] / size[1])
        return [centred(n, scale * m) for n, m in zip(sides, size, strict=True)], frame
    if fit == "pad":
        scale = torch.minimum(size[0] / sides[0], size[1] / sides[1])
        return whole, [centred(side.length, scale * n) for side, n in zip(frame, sides, strict=True)]
    return whole, frame


def centred(length: Tensor, share: Tensor) -> Part:
    """Return the central part of an axis, `share` pixels of it, rounded to even, at least one."""
    count = torch.minimum(length, torch.round(share).clamp_min(1))
    return Part(torch.floor((length - count) / 2), count)


def weights(at: Tensor, taken: Part, filled: Part, size: int) -> Tensor:
    """Return Pillow's integer weights of an axis, float64 [size, n]: `filled` of its `size` pixels from `taken` of n.

    at: 0, 1, ... [n].  The steps are those of Pillow's precompute_coeffs and normalize_coeffs_8bpc.
    """
    place = torch.arange(size, dtype=torch.float64, device=at.device)[:, None] - filled.first  # [size, 1]
    scale = taken.length / filled.length
    support = scale.clamp_min(1)  # of the triangle filter, to each side
    centre = (place + 0.5) * scale
    low = torch.floor(centre - support + 0.5).clamp_min(0)
    high = torch.minimum(torch.floor(centre + support + 0.5), taken.length)
    at = at - taken.first
    near = 1 - ((at - centre + 0.5) * (1 / support)).abs()  # [size, n]
    near = torch.where((at >= low) & (at < high), near.clamp_min(0), 0.0)
    total = near.cumsum(1)[:, -1:]  # one after the other, as in a loop: another order would round otherwise
    return torch.floor(near / torch.where(total == 0, 1.0, total) * ONE + 0.5)


def eight_bits(sums: Tensor) -> Tensor:
    """Return sums of integer weights and pixels, rounded to whole grey values in [0, 255]."""
    return torch.floor((sums + ONE / 2) / ONE).clamp(0, 255)


def covered(filled: Part, size: int) -> Tensor:
    """Return which pixels of an axis of the frame are not padding, bool [size]."""
    place = torch.arange(size, dtype=torch.float64, device=filled.first.device) - filled.first
    return (place >= 0) & (place < filled.length)


def interpolation(part: Part, size: int) -> Tensor:
    """Return the matrix float64 [size, size] that enlarges a part of an axis to all of it, bilinearly."""
    place = torch.arange(size, dtype=torch.float64, device=part.first.device)
    at = ((place + 0.5) * (part.length / size) - 0.5).clamp_min(0)  # pixels of the part
    at = torch.minimum(at, part.length - 1)[:, None] + part.first
    return (1 - (place - at).abs()).clamp_min(0)
