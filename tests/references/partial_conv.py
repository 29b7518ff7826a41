"""Partial convolutions and the Global-Net of Glancing at the Patch written a second way: one image, loops in float64.

Source: Liu et al., ECCV 2018, eq. 1 and 2; Wang et al., CVPR 2021.  Nothing is shared with the package.
"""

import numpy as np

# Kernel, stride, output channels, side of the output for an image of 256 pixels; a ReLU behind all but the last.
TABLE = [
    ("conv", 7, 2, 16, 125),
    ("pool", 3, 2, 16, 62),
    ("conv", 3, 2, 32, 30),
    ("conv", 3, 1, 32, 28),
    ("conv", 3, 2, 64, 13),
    ("conv", 3, 1, 64, 11),
    ("conv", 3, 2, 128, 5),
    ("conv", 3, 1, 128, 3),
    ("conv", 3, 1, 128, 1),
]
Maps = tuple[np.ndarray, np.ndarray]  # [C, h, w] and the mask [h, w]


def partial_conv(x: np.ndarray, mask: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int) -> Maps:
    """x [C, H, W], mask [H, W], weight [O, C, k, k], bias [O]; windows without a valid position give 0."""
    k = weight.shape[-1]
    h, w = ((n - k) // stride + 1 for n in mask.shape)
    out, new_mask = np.zeros((len(weight), h, w)), np.zeros((h, w))
    for r in range(h):
        for c in range(w):
            window = np.s_[r * stride : r * stride + k, c * stride : c * stride + k]
            seen = mask[window].sum()
            if seen > 0:
                visible = np.where(mask[window] == 1, x[(slice(None), *window)], 0)
                out[:, r, c] = np.tensordot(weight, visible, axes=3) * k * k / seen + bias
                new_mask[r, c] = 1
    return out, new_mask


def max_pool(x: np.ndarray, mask: np.ndarray, k: int, stride: int) -> Maps:
    h, w = ((n - k) // stride + 1 for n in mask.shape)
    out, new_mask = np.zeros((len(x), h, w)), np.zeros((h, w))
    for r in range(h):
        for c in range(w):
            window = np.s_[r * stride : r * stride + k, c * stride : c * stride + k]
            out[:, r, c] = x[(slice(None), *window)].max((1, 2))
            new_mask[r, c] = mask[window].any()
    return out, new_mask


def global_net(image: np.ndarray, mask: np.ndarray, weights: list[np.ndarray], biases: list[np.ndarray]) -> np.ndarray:
    """image [3, H, W], mask [H, W], the convolutions' weights and biases in order -> [128]."""
    x, weights, biases = image, list(weights), list(biases)
    for kind, k, stride, channels, _ in TABLE:
        if kind == "pool":
            x, mask = max_pool(x, mask, k, stride)
        else:
            assert weights[0].shape[0] == channels
            assert weights[0].shape[2:] == (k, k)
            x, mask = partial_conv(x, mask, weights.pop(0), biases.pop(0), stride)
            x = np.maximum(x, 0) if weights else x
    assert x.shape == (128, 1, 1)
    return x[:, 0, 0]
