"""Windows of images: where they lie, what they show, and how their scores become a map."""

from __future__ import annotations

import torch
from torch import Tensor

from anomaly_bench.errors import UserError
from anomaly_bench.nets.patch_descriptors import PatchDescriptor
from anomaly_bench.nets.precision import in_float32

Centres = tuple[Tensor, Tensor]  # rows [k] and columns [l] of windows' centres, in pixels
POWER = 5  # of the distance, in the weights of `interpolate_inverse_distance`


def random_corners(images: Tensor, p: int) -> tuple[Tensor, Tensor]:
    """Draw a p x p window inside each image uniformly and return the tops and the lefts, [B] each, in pixels."""
    (B, _, H, W), device = images.shape, images.device
    return torch.randint(H - p + 1, (B,), device=device), torch.randint(W - p + 1, (B,), device=device)


def crop(images: Tensor, tops: Tensor, lefts: Tensor, p: int) -> Tensor:
    """Return one window of each image, [B, 3, p, p]; tops and lefts: [B], pixels."""
    each, span = torch.arange(len(images), device=images.device), torch.arange(p, device=images.device)
    rows, columns = (tops[:, None] + span)[:, :, None], (lefts[:, None] + span)[:, None]  # [B, p, 1], [B, 1, p]
    return images[each[:, None, None], :, rows, columns].permute(0, 3, 1, 2)


def hole_masks(images: Tensor, tops: Tensor, lefts: Tensor, p: int) -> Tensor:
    """Return M_0 [B, 1, H, W]: 0 in the p x p window of each image, 1 elsewhere."""
    rows, columns = (torch.arange(n, device=images.device) for n in images.shape[2:])
    in_rows = (rows >= tops[:, None]) & (rows < tops[:, None] + p)  # [B, H]
    in_columns = (columns >= lefts[:, None]) & (columns < lefts[:, None] + p)  # [B, W]
    return 1 - (in_rows[:, None, :, None] & in_columns[:, None, None, :]).to(images.dtype)


def window_places(side: int, net: PatchDescriptor, windows: int) -> list[int]:
    """Return the first pixel of each window along a side of an image, from border to border, on the grid of L's dense
    form.

    Raises UserError for more windows than the grid has positions.
    """
    stride = net.strides[-1]
    steps = (side - net.reach) // stride  # L never reads a patch's last pixels, so the last window may reach out
    if windows > steps + 1:
        what = f"{windows} given, at most {steps + 1}: windows lie at least {stride} pixels apart"
        raise UserError("method.windows", what)
    return [round(i * steps / (windows - 1)) * stride for i in range(windows)]


@in_float32
def interpolate_bilinear(scores: Tensor, centres: Centres, size: tuple[int, int]) -> Tensor:
    """Return maps [B, C, H, W] of windows' scores [B, C, k * l]: linear between the k x l centres, in pixels, constant
    beyond the outermost.
    """
    rows, columns = (_linear_weights(c, n, scores) for c, n in zip(centres, size, strict=True))
    return rows @ scores.unflatten(-1, (rows.shape[1], columns.shape[1])) @ columns.T


def _linear_weights(centres: Tensor, size: int, like: Tensor) -> Tensor:
    """Return how much each of k centres counts at each pixel of a side: [size, k]."""
    c = centres.to(like.dtype)
    x = torch.arange(size, dtype=like.dtype, device=like.device).clamp(c[0], c[-1])
    right = (c < x[:, None]).sum(1).clamp_min(1)  # the first centre that is not left of x
    share = (x - c[right - 1]) / (c[right] - c[right - 1])
    weights = x.new_zeros(size, len(c))
    return weights.scatter_(1, right[:, None] - 1, 1 - share[:, None]).scatter_(1, right[:, None], share[:, None])


@in_float32
def interpolate_inverse_distance(scores: Tensor, centres: Centres, size: tuple[int, int]) -> Tensor:
    """Return the same with a pixel's score as the mean over all windows, weighted by distance^-POWER."""
    squares = []
    for c, n in zip(centres, size, strict=True):
        x = torch.arange(n, dtype=scores.dtype, device=scores.device)
        squares.append((x[:, None] - c).pow(2))  # [n, k]
    rows = []
    for row in squares[0]:
        distance = (row[:, None, None] + squares[1].T[None]).clamp_min(1e-6).sqrt()  # [k, l, W]
        weights = distance.pow(-POWER).flatten(0, 1)  # [k * l, W]
        rows.append(scores @ (weights / weights.sum(0)))
    return torch.stack(rows, -2)
