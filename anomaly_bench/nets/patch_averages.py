"""Features of patches: averages over neighbourhoods in several layers of a network (PatchCore, SimpleNet)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PatchAverages(nn.Module):
    """Describes each position of a network's first layer by D numbers, from several layers around it.

    The p x p x C_l values around a position of layer l, zeros beyond the edge, in the order of their channels, are
    averaged in groups to `layer_dimensions` numbers; layers are brought to the first one's grid; all their numbers
    together are averaged in groups to `dimensions`, D.  Roth et al. (CVPR 2022), eq. 1 and 2, as in their code.

    Both averages are one convolution for each layer, whose kernel is no part of the state dict.  The code interpolates
    between them, which gives the same, as all of it is linear, with more numbers.
    """

    def __init__(self, channels: Sequence[int], neighbourhood: int, layer_dimensions: int, dimensions: int) -> None:
        super().__init__()
        self.padding, self.dimensions = neighbourhood // 2, dimensions
        self.first_numbers = []  # of each layer's part in the D numbers
        after = averaging(len(channels) * layer_dimensions, dimensions)  # [D, L layer_dimensions]
        for i, (C, share) in enumerate(zip(channels, after.split(layer_dimensions, 1), strict=True)):
            rows = share.any(1).nonzero()[:, 0]  # the numbers that this layer has a part in, next to each other
            kernel = share[rows] @ averaging(C * neighbourhood**2, layer_dimensions)  # [D_l, C p p]
            self.first_numbers.append(int(rows[0]))
            shape = (-1, C, neighbourhood, neighbourhood)
            self.register_buffer(f"kernel{i}", kernel.view(shape), persistent=False)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return the features of patches [B, D, h, w] from those of the layers [B, C_l, h_l, w_l], fine to coarse."""
        height, width = features[0].shape[2:]
        x = features[0].new_zeros(features[0].shape[0], self.dimensions, height, width)
        for i, (f, start) in enumerate(zip(features, self.first_numbers, strict=True)):
            part = F.conv2d(f, getattr(self, f"kernel{i}"), padding=self.padding)  # [B, D_l, h_l, w_l]
            part = F.interpolate(part, (height, width), mode="bilinear", align_corners=False)
            x[:, start : start + part.shape[1]] += part
        return x


def averaging(inputs: int, outputs: int) -> Tensor:
    """Return the matrix [outputs, inputs] of an adaptive average: row i is the mean from i n / m to (i + 1) n / m."""
    i, n = torch.arange(outputs, device="cpu")[:, None], torch.arange(inputs, device="cpu")
    inside = (n >= i * inputs // outputs) & (n < -(-(i + 1) * inputs // outputs))
    return inside / inside.sum(1, keepdim=True)
