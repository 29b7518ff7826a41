"""A Gaussian filter of maps."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from anomaly_bench.nets.precision import in_float32


@in_float32
def gaussian(maps: Tensor, sigma: float) -> Tensor:
    """Return maps [B, H, W] after a Gaussian filter: truncated at 4 sigma, mirrored at the edge pixel, as in scipy."""
    radius = int(4 * sigma + 0.5)
    x = torch.arange(-radius, radius + 1, device=maps.device, dtype=maps.dtype)
    kernel = torch.exp(-0.5 * (x / sigma) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, -1)
    for _ in range(2):  # filter the last axis, swap, filter the other, swap back
        b, h, w = maps.shape
        index = torch.arange(-radius, w + radius, device=maps.device) % (2 * w)  # into the map and its mirror image
        rows = torch.cat([maps, maps.flip(-1)], -1)[..., index]  # [B, H, W + 2 radius]
        maps = F.conv1d(rows.reshape(b * h, 1, -1), kernel).view(b, h, w).transpose(1, 2)
    return maps
