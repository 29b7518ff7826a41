"""The patch networks of Uninformed Students written a second way: the tables by hand, one patch, loops in float64.

Source: tables 4 and 5 of Bergmann et al., CVPR 2020.  Nothing is shared with the package.
"""

import numpy as np

# A row is a convolution, "pool" or "leaky"; its number is the kernel.  In the paper's order: activation, then pool.
CONV = {
    17: "conv6 leaky conv5 leaky conv5 leaky conv4",
    33: "conv5 leaky pool conv5 leaky pool conv2 leaky conv4",
    65: "conv5 leaky pool conv5 leaky pool conv5 leaky pool conv4 leaky conv1",
}
# Height of the maps (they are square) and channels after each row, input first, as printed.
SHAPES = {
    17: [(3, 17), (128, 12), (128, 12), (256, 8), (256, 8), (256, 4), (256, 4), (128, 1)],
    33: [(3, 33), (128, 29), (128, 29), (128, 14), (256, 10), (256, 10), (256, 5), (256, 4), (256, 4), (128, 1)],
    65: [
        (3, 65), (128, 61), (128, 61), (128, 30), (128, 26), (128, 26), (128, 13), (128, 9), (128, 9), (128, 4),
        (256, 1), (256, 1), (128, 1),
    ],
}  # fmt: skip


def convolve(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """x [C, n, n], weight [O, C, k, k], bias [O] -> [O, n - k + 1, n - k + 1]."""
    k = weight.shape[-1]
    n = x.shape[-1] - k + 1
    out = np.empty((len(weight), n, n))
    for r in range(n):
        for c in range(n):
            out[:, r, c] = np.tensordot(weight, x[:, r : r + k, c : c + k], axes=3) + bias
    return out


def pool(x: np.ndarray) -> np.ndarray:
    n = x.shape[-1] // 2
    out = np.empty((len(x), n, n))
    for r in range(n):
        for c in range(n):
            out[:, r, c] = x[:, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].max((1, 2))
    return out


def describe(patch: np.ndarray, weights: list[np.ndarray], biases: list[np.ndarray]) -> np.ndarray:
    """patch [3, p, p], the convolutions' weights and biases in order -> [128].  Every shape is checked on the way."""
    p, x = patch.shape[-1], patch.astype(np.float64)
    weights, biases = list(weights), list(biases)
    for row, (channels, height) in zip(CONV[p].split(), SHAPES[p][1:], strict=True):
        if row == "leaky":
            x = np.where(x > 0, x, 0.005 * x)
        elif row == "pool":
            x = pool(x)
        else:
            weight = weights.pop(0)
            assert weight.shape[2:] == (int(row[4:]), int(row[4:]))
            x = convolve(x, weight, biases.pop(0))
        assert x.shape == (channels, height, height)
    assert not weights
    return x[:, 0, 0]
