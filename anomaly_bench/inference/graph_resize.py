"""Images of any size to the size that a method sees, as operations of a graph: the pixels of `Frame.image`, to the bit.

Pillow resizes an axis by integer weights, w 2^22 rounded, of a triangle filter, and rounds each sum to 8 bits.  Here
they are computed from the two lengths, in float64 and in the order of Pillow's operations.  `BLOCK` pixels at a time
are made of the few pixels that they need.  The product is exact in float32: the weights are split into their upper 17
and lower 6 bits, so that each sum stays below 2^24 while an axis shrinks by less than 400 times.  Rows that are cropped
off have the weight 0, and so have all weights of padding.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from anomaly_bench.loading.frame import FILL, Frame
from anomaly_bench.records import Size

ONE = 2.0**22  # Pillow's fixed-point 1: 32 bits, less 8 of a pixel, less 2 in reserve
LOWER = 2.0**6  # of a weight, its lower part
BLOCK = 8  # pixels of a resized axis that are computed together


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
        self.register_buffer("fill", torch.tensor(FILL, dtype=torch.float32).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return images uint8 [B, h, w, 3] as float32 [B, 3, H, W] in [0, 1]."""
        axes = positions(images)
        taken, filled = parts(axes, self.size, self.fit)
        rows, columns = (
            Axis(at, of, within, m, reach)
            for at, of, within, m, reach in zip(axes, taken, filled, self.size, self._reaches(images), strict=True)
        )
        count, h, w, _ = images.shape
        x = images.permute(3, 0, 1, 2).reshape(3 * count * h, w).T  # [w, 3Bh]: an axis that is resized comes first
        x = columns.resized(x.contiguous())  # [W, 3Bh]
        x = x.T.reshape(3 * count, h, -1).permute(1, 0, 2).flatten(1)  # [h, 3BW]
        x = rows.resized(x).view(self.size[0], 3, count, self.size[1]).permute(2, 1, 0, 3)
        x = x.to(torch.float32)
        if self.fit == "pad":
            inside = [covered(within, m) for within, m in zip(filled, self.size, strict=True)]
            x = torch.where(inside[0][:, None] & inside[1], x, self.fill)
        return x / 255

    def _reaches(self, images: Tensor) -> list[int | torch.SymInt]:
        """Return how many rows and columns of an image are enough for a block, not known before either."""
        (_, h, w, _), (height, width) = images.shape, self.size
        if self.fit == "pad":  # both axes shrink as the longer one, and a rounded length by up to 3/2 of that
            longer = torch.sym_max(h * width, w * height)
            return [(3 * (BLOCK + 1) * longer) // (2 * height * width) + 5] * 2
        return [((BLOCK + 1) * n) // m + 5 for n, m in ((h, height), (w, width))]


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


class Axis:
    """What resizes an axis: the pixels that each block of it needs, and their weights."""

    def __init__(self, at: Tensor, taken: Part, filled: Part, size: int, reach: int | torch.SymInt) -> None:
        """Prepare to make `filled` of `size` pixels from `taken` of n.  at: 0, 1, ... [n].  reach: pixels for a block.

        The steps are those of Pillow's precompute_coeffs and normalize_coeffs_8bpc.
        """
        self.size, self.reach, self.blocks = size, reach, -(-size // BLOCK)
        place = torch.arange(self.blocks * BLOCK, dtype=torch.float64, device=at.device) - filled.first
        scale = taken.length / filled.length
        support = scale.clamp_min(1)  # of the triangle filter, to each side
        centre = (place.view(-1, BLOCK, 1) + 0.5) * scale  # [blocks, BLOCK, 1]
        low = torch.floor(centre - support + 0.5).clamp_min(0)
        high = torch.minimum(torch.floor(centre + support + 0.5), taken.length)
        near = low[:, :1] + torch.arange(reach, dtype=torch.float64, device=at.device)  # [blocks, 1, reach]
        weight = (1 - ((near - centre + 0.5) * (1 / support)).abs()).clamp_min(0)
        weight = torch.where((near >= low) & (near < high), weight, 0.0)
        total = weight.cumsum(2)[:, :, -1:]  # one after the other, as in a loop: another order would round otherwise
        weight = torch.floor(weight / torch.where(total == 0, 1.0, total) * ONE + 0.5)
        upper = torch.floor(weight / LOWER)
        self.weights = torch.cat([upper, weight - upper * LOWER], 1).to(torch.float32)  # [blocks, 2 BLOCK, reach]
        self.needed = torch.minimum(near + taken.first, at[-1]).to(torch.int64).flatten()

    def resized(self, x: Tensor) -> Tensor:
        """Return x uint8 [n, m] as uint8 [size, m]."""
        x = x.index_select(0, self.needed).view(self.blocks, self.reach, -1).to(torch.float32)
        upper, lower = (self.weights @ x).view(self.blocks, 2, BLOCK, -1).unbind(1)
        x = torch.floor((upper + torch.floor((lower + ONE / 2) / LOWER)) * (LOWER / ONE))  # sum / 2^22, rounded
        return x.clamp(0, 255).to(torch.uint8).flatten(0, 1)[: self.size]


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
