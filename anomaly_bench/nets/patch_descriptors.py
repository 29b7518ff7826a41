"""The patch networks of Uninformed Students (Bergmann et al., CVPR 2020, tables 4 and 5), for patches and dense.

All: convolutions with stride 1, no padding and a bias; 2 x 2 max-pools; leaky ReLU 0.005; no batch norm, no dropout.
Where the paper leaves a choice (no official code exists; table 4 was seen, 5a and 5b only through re-implementations):

- p = 65, conv3: printed with 128 channels, the pool behind it with 256.  One is a misprint; 128 is the default because
  it stands at the convolution itself.  Either way is seen in re-implementations: a coin's toss.
- p = 65, conv5: printed with kernel 3, which cannot run on its 1 x 1 input.  Kernel 1: certain.
- p = 33, conv1: most likely printed as 3 x 3 beside an output of 29 x 29, which needs kernel 5.  5: likely.
- p = 17: both codes agree on a 6 x 6 conv1, which fits the sizes: almost certain.
- No activation after the last convolution: the descriptor is a regression target, and a leaky ReLU would flatten its
  negative half.  "Leaky ReLU throughout" may mean otherwise: likely.
- A bias: nowhere stated, likely.

`PatchDescriptor.dense` gives what Bailer et al.'s "Fast Dense Feature Extraction" (BMVC 2017, arXiv 1805.03096) gives,
by dilation instead of stacks of shifted maps: a pool has step 1, and the taps of all that follows lie twice as far
apart.  No size needs to be divisible, and with channels last it is as fast or faster (`scripts/benchmark_dense.py`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PATCH_SIZES = (17, 33, 65)
DIMENSIONS = 128  # of a descriptor
SLOPE = 0.005  # of the leaky ReLU
Layer = tuple[int, int, bool]  # output channels, kernel, a pool behind it


def layers(patch_size: int, conv1_kernel_33: int, conv3_channels_65: int) -> list[Layer]:
    """Return the rows of the paper's table for one patch size.  Raises ValueError for a size or kernel without any."""
    if conv1_kernel_33 not in (3, 5):
        raise ValueError(f"conv1_kernel_33 is {conv1_kernel_33}; the table can be read as 3 or 5")
    tables: dict[int, list[Layer]] = {
        17: [(128, 6, False), (256, 5, False), (256, 5, False), (DIMENSIONS, 4, False)],
        33: [(128, conv1_kernel_33, True), (256, 5, True), (256, 2, False), (DIMENSIONS, 4, False)],
        65: [(128, 5, True), (128, 5, True), (conv3_channels_65, 5, True), (256, 4, False), (DIMENSIONS, 1, False)],
    }
    if patch_size not in tables:
        raise ValueError(f"patch_size is {patch_size}, allowed: {', '.join(map(str, PATCH_SIZES))}")
    return tables[patch_size]


class PatchDescriptor(nn.Module):
    """Describes a patch of `patch_size` pixels by 128 numbers.

    conv1_kernel_33, conv3_channels_65: the two open points above; each matters for one patch size only.
    `strides` lists what `dense` can do: 1 and the products of the leading pools.  Weights do not depend on the stride.
    """

    def __init__(self, patch_size: int, conv1_kernel_33: int = 5, conv3_channels_65: int = 128) -> None:
        super().__init__()
        table = layers(patch_size, conv1_kernel_33, conv3_channels_65)
        inputs = [3, *(channels for channels, _, _ in table)]
        self.patch_size = patch_size
        self.convs = nn.ModuleList(nn.Conv2d(c, out, k) for c, (out, k, _) in zip(inputs, table, strict=False))
        self.pooled = [pooled for _, _, pooled in table]
        self.strides: tuple[int, ...] = tuple(2**n for n in range(sum(self.pooled) + 1))
        self.reach = 1  # pixels of the patch that the descriptor depends on, from its top left corner
        for _, kernel, pooled in reversed(table):
            self.reach = self.reach * (1 + pooled) + kernel - 1

    def forward(self, patches: Tensor) -> Tensor:
        """Return descriptors [B, 128] of patches [B, 3, p, p], normalised.  Raises ValueError for another size."""
        p = self.patch_size
        if patches.shape[2:] != (p, p):
            raise ValueError(f"patches are {' x '.join(map(str, patches.shape[2:]))} pixels, needed {p} x {p}")
        return self._run(patches, self.strides[-1]).flatten(1)

    def dense(self, images: Tensor, stride: int = 1) -> Tensor:
        """Return descriptors [B, 128, ceil(H / s), ceil(W / s)] of images [B, 3, H, W], normalised, of any H and W.

        Entry (i, j) is `forward` of the patch centred on pixel (i s, j s); beyond the border the image goes on with
        zeros.  Raises ValueError for a stride that is not one of `strides`.
        """
        if stride not in self.strides:
            allowed = ", ".join(map(str, self.strides))
            raise ValueError(f"stride is {stride}, allowed for patches of {self.patch_size} pixels: {allowed}")
        before = (self.patch_size - 1) // 2
        # A floored pool never sees its last pixel, so a patch is read up to `reach` only.
        bottom, right = ((N - 1) // stride * stride + self.reach - before - N for N in images.shape[2:])
        return self._run(F.pad(images, (before, right, before, bottom)), stride)

    def _run(self, x: Tensor, stride: int) -> Tensor:
        """Apply all layers.  Pools halve the maps until they have `stride`; later ones double the dilation instead."""
        # Channels last: up to twice as fast, and in planes a dilated convolution's gradient can take minutes.
        x = x.contiguous(memory_format=torch.channels_last)
        halved, dilation = 1, 1
        for conv, pooled in zip(self.convs, self.pooled, strict=True):
            weight, bias = conv.parameters()
            x = F.conv2d(x, weight, bias, dilation=dilation)
            if pooled and halved < stride:
                x = F.max_pool2d(x, 2)
                halved *= 2
            elif pooled:
                x = F.max_pool2d(x, 2, stride=1, dilation=dilation)
                dilation *= 2
            if conv is not self.convs[-1]:
                x = F.leaky_relu_(x, SLOPE)  # monotone, so the same before and after a pool, and cheaper after
        return x


def register_imagenet_statistics(module: nn.Module, persistent: bool = True) -> None:
    """Give a module the buffers `mean` and `std` [3, 1, 1] of ImageNet, with which patch networks' inputs in [0, 1]
    are normalised.
    """
    module.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), persistent)
    module.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent)


def upsample(maps: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """Return maps of stride s, [B, C, ceil(H / s), ceil(W / s)], at full size, [B, C, H, W], interpolated bilinearly.

    Pixel (i s, j s) keeps its value; pixels beyond the last position repeat it.  Raises ValueError where the maps are
    not those of an image of `size` (H, W).
    """
    h, w = maps.shape[2:]
    if (h, w) != tuple(-(-n // stride) for n in size):
        raise ValueError(f"maps of {h} x {w} are not those of {size[0]} x {size[1]} pixels at stride {stride}")
    if stride == 1:
        return maps
    spanned = ((h - 1) * stride + 1, (w - 1) * stride + 1)
    between = F.interpolate(maps, spanned, mode="bilinear", align_corners=True)
    return F.pad(between, (0, size[1] - spanned[1], 0, size[0] - spanned[0]), mode="replicate")
