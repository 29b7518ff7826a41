"""Partial convolutions (Liu et al., ECCV 2018) and the Global-Net of Glancing at the Patch (Wang et al., CVPR 2021).

    x' = W^T (X . M) sum(1) / sum(M) + b and m' = 1 where sum(M) > 0, else x' = 0 and m' = 0

The sums run over the kernel's window; M is 1 where a position is valid.  No layer pads.  The Global-Net's table was
seen only in a re-implementation (there is no official code): likely.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anomaly_bench.errors import UserError
from anomaly_bench.records import Size, as_size


class Layer(NamedTuple):
    """A row of the table.  A ReLU follows every convolution but the last."""

    name: str
    kernel: int
    stride: int
    channels: int  # of the output
    pools: bool = False  # a max-pool; otherwise a partial convolution with a bias


LAYERS = (
    Layer("pconv0", 7, 2, 16),
    Layer("max_pool", 3, 2, 16, pools=True),
    Layer("pconv1_1", 3, 2, 32),
    Layer("pconv1_2", 3, 1, 32),
    Layer("pconv2_1", 3, 2, 64),
    Layer("pconv2_2", 3, 1, 64),
    Layer("pconv3_1", 3, 2, 128),
    Layer("pconv3_2", 3, 1, 128),
    Layer("pconv4", 3, 1, 128),
)


def image_sizes() -> range:
    """Return the sides of images, in pixels, that end in a map of 1 x 1."""
    least = most = 1
    for layer in reversed(LAYERS):
        least = (least - 1) * layer.stride + layer.kernel
        most = most * layer.stride + layer.kernel - 1  # up to stride - 1 rows at the end are not read
    return range(least, most + 1)


def partial_conv2d(x: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, stride: int = 1) -> tuple[Tensor, Tensor]:
    """Return the features [B, O, h, w] and the mask [B, 1, h, w] behind a partial convolution.

    x [B, C, H, W], finite; mask [B, 1, H, W] of 0 and 1; weight [O, C, k, k]; bias [O].  A mask of [1, 1, H, W] is that
    of the whole batch, and so is the new one.
    """
    valid = F.avg_pool2d(mask, weight.shape[2:], stride)  # sum(M) / sum(1)
    new_mask = (valid > 0).to(mask.dtype)
    out = F.conv2d(x * mask, weight, stride=stride).mul_(torch.where(valid > 0, 1 / valid, 0))  # in place: new memory
    return out.addcmul_(bias[:, None, None], new_mask), new_mask  # would cost more than the arithmetic


def partial_max_pool2d(x: Tensor, mask: Tensor, kernel: int, stride: int) -> tuple[Tensor, Tensor]:
    """Pool features [B, C, H, W] and mask [B or 1, 1, H, W] alike: one valid position makes the output valid.

    Masked positions take part in the features' maximum.  Behind a partial convolution they are 0: after a ReLU that is
    the least value and never hides a valid one; without a ReLU it would hide negative ones.
    """
    return F.max_pool2d(x, kernel, stride), F.max_pool2d(mask, kernel, stride)


class GlobalNet(nn.Module):
    """Describes a hole in an image by 128 numbers, which it predicts from the rest of the image.

    image_size: H and W, or the side of a square.  Raises UserError where the last map is not 1 x 1.
    """

    def __init__(self, image_size: Size | int) -> None:
        super().__init__()
        sizes = image_sizes()
        if not all(side in sizes for side in as_size(image_size)):
            raise UserError("method.image_size", f"{image_size} given, allowed: {sizes[0]} to {sizes[-1]}")
        self.image_size = image_size
        inputs = [3, *(layer.channels for layer in LAYERS)]
        self.convs = nn.ModuleDict(
            {
                layer.name: nn.Conv2d(channels, layer.channels, layer.kernel, layer.stride)
                for channels, layer in zip(inputs, LAYERS, strict=False)
                if not layer.pools
            }
        )

    def forward(self, images: Tensor, mask: Tensor) -> Tensor:
        """Return the descriptions [B, 128] of holes in images [B, 3, H, W], normalised.

        mask: [B or 1, 1, H, W], 0 in the hole and 1 elsewhere.  Pixels in the hole have no influence.  Raises
        ValueError for images that are not of `image_size`.
        """
        x = self._checked(images)
        for layer in LAYERS:
            x, mask = self.step(layer, x, mask)
        return x.flatten(1)

    def windows(self, images: Tensor, tops: Tensor, lefts: Tensor, size: int, most: int = 128) -> Tensor:
        """Return `forward` of images [B, 3, H, W], normalised, with each of N holes: [B, N, 128].

        tops, lefts: int64 [N], the same for all images.

        A hole is `size` x `size` pixels from (top, left); what lies beyond the image is ignored.  The whole image is
        computed once, and for a hole, layer by layer, only what it can reach, until that is the whole map: a twelfth
        of the time for 400 holes of 33 pixels in 256.  `most`: holes of each image in memory at a time.
        """
        whole, mask = [self._checked(images)], images.new_ones(1, 1, *images.shape[2:])
        for layer in LAYERS:
            x, mask = self.step(layer, whole[-1], mask)
            whole.append(x)
        corners = torch.stack([tops, lefts], 1).to(images.device)
        return torch.cat([self._holes(whole, some, size) for some in corners.split(most)], 1)

    def step(self, layer: Layer, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return features [B, C, H, W] and mask [B or 1, 1, H, W] after a row of the table and its ReLU."""
        if layer.pools:
            return partial_max_pool2d(x, mask, layer.kernel, layer.stride)
        weight, bias = self.convs[layer.name].parameters()
        x, mask = partial_conv2d(x, mask, weight, bias, layer.stride)
        return (x if layer is LAYERS[-1] else x.relu_()), mask

    def _checked(self, images: Tensor) -> Tensor:
        if tuple(images.shape[2:]) != as_size(self.image_size):
            found, needed = (" x ".join(map(str, size)) for size in (images.shape[2:], as_size(self.image_size)))
            raise ValueError(f"images are {found} pixels, needed {needed}")
        return images.contiguous(memory_format=torch.channels_last)  # a max-pool is ten times as fast

    def _holes(self, whole: list[Tensor], start: Tensor, side: int) -> Tensor:
        """Return `forward` [B, N, 128] for holes of side x side pixels at start [N, 2].

        whole: maps [B, C, h, w] of the images without a hole, the images first, then behind each layer.  What a hole
        changes behind a layer is in x, side x side positions at `start`, with its mask, image by image.
        """
        B, holes = whole[0].shape[0], start.shape[0]
        start = start.expand(B, holes, 2).flatten(0, 1)
        of = torch.arange(B, device=start.device)[:, None].expand(B, holes).flatten()  # the image of each, [B N]
        x, mask = (whole[0].new_zeros(B * holes, channels, side, side) for channels in (3, 1))
        for layer, before, after in zip(LAYERS, whole, whole[1:], strict=False):
            k, s, n = layer.kernel, layer.stride, after.shape[-1]
            reached = min((side + k - 2) // s + 1, n)  # outputs along a side, at most: it depends on start's remainder
            to = (-((k - 1 - start) // s)).clamp(0, n - reached)  # the first output that reads `start`
            x, mask = paste(before, x, mask, of, start, to * s, (reached - 1) * s + k)
            x, mask = self.step(layer, x, mask)
            start, side = to, reached
        return x.view(B, holes, x.shape[1])


def paste(
    whole: Tensor, x: Tensor, mask: Tensor, of: Tensor, start: Tensor, first: Tensor, n: int
) -> tuple[Tensor, Tensor]:
    """Paste x and its mask into copies of valid maps and crop n x n positions: [N, C, n, n], [N, 1, n, n].

    whole [B, C, H, W]; x [N, C, side, side] and mask [N, 1, side, side] lie at start [N, 2], the crops at first [N, 2].
    of [N]: the number of the map that each belongs to.
    """
    (B, _, H, W), (N, side) = whole.shape, (x.shape[0], x.shape[-1])
    at = first[:, :, None] + torch.arange(n, device=x.device)  # [N, 2, n], rows and columns of the map
    (row, column), (i, j) = at.unbind(1), (at - start[:, :, None]).unbind(1)  # i, j: of x
    row, column, i, j = row[:, :, None], column[:, None], i[:, :, None], j[:, None]
    pasted = ((i >= 0) & (i < side)) & ((j >= 0) & (j < side))  # [N, n, n]
    one = torch.arange(N, device=x.device)[:, None, None]
    inside = B * H * W + (one * side + i) * side + j
    index = torch.where(pasted, inside, (of[:, None, None] * H + row) * W + column)  # first all maps, then all x
    positions = torch.cat([maps.permute(0, 2, 3, 1).flatten(0, 2) for maps in (whole, x)])  # [B H W + N side side, C]
    valid = torch.cat([mask.new_ones(B * H * W), mask.flatten()])
    # The mask is not gathered like x: one channel that counts as channels last is pooled five times as slowly.
    return F.embedding(index, positions).permute(0, 3, 1, 2), valid[index][:, None]
