"""Glancing at the Patch's losses, scores and maps written a second way: sums over patches, numbers and pixels.

Source: Wang, Wu, Cui and Shen, CVPR 2021.  Float64; nothing is shared with the package.  What the two networks say of a
patch is given: z_l and z_g, n numbers each.  head: the classifier's weight [h, 2 n], bias [h], weight [1, h], bias [1].
"""

import math

import numpy as np


def inconsistency(z_l, z_g):
    return sum((float(a) - float(b)) ** 2 for a, b in zip(z_l, z_g, strict=True)) / len(z_l)


def clean(z_l, z_g, head):
    """C: the probability that the patch is clean."""
    x, (weight, bias, last_weight, last_bias) = [*z_l, *z_g], head
    hidden = [sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in zip(weight, bias, strict=True)]
    hidden = [h if h > 0 else 0.01 * h for h in hidden]
    logit = sum(w * h for w, h in zip(last_weight[0], hidden, strict=True)) + last_bias[0]
    return 1 / (1 + math.exp(-logit))


def losses(z_l, z_stained, z_g, head, iad_of_all=False):
    """l_IAD and l_DAD of a batch; the latter, and the former with `iad_of_all`, over twice as many patches."""
    iad, dad = 0.0, 0.0
    for one, stained, context in zip(z_l, z_stained, z_g, strict=True):
        patches = [one, stained] if iad_of_all else [one]
        iad += sum(inconsistency(z, context) for z in patches) / (len(patches) * len(z_g))
        dad -= math.log(clean(one, context, head)) / (2 * len(z_g))
        dad -= math.log(1 - clean(stained, context, head)) / (2 * len(z_g))
    return iad, dad


def scores(z_l, z_g, head):
    """s_IAD and s_DAD of each patch: [2, N]."""
    pairs = list(zip(z_l, z_g, strict=True))
    return np.array([[inconsistency(*pair) for pair in pairs], [1 - clean(*pair, head) for pair in pairs]])


def mixed(both, share, calibration=((0, 1), (0, 1))):
    """[2, N] -> [N]; calibration: mean and deviation of either score on normal patches."""
    (iad_mean, iad_deviation), (dad_mean, dad_deviation) = calibration
    pairs = zip(*both, strict=True)
    return np.array(
        [share * (i - iad_mean) / iad_deviation + (1 - share) * (d - dad_mean) / dad_deviation for i, d in pairs]
    )


def calibration(images):
    """[2, N] of each image -> mean and deviation of either score over all patches."""
    together = [[value for both in images for value in both[kind]] for kind in (0, 1)]
    return [(np.mean(values), np.std(values)) for values in together]


def bilinear(scores, centres, size):
    """[k, k] -> [size, size]: along the columns, then along the rows."""
    x = np.arange(size)
    rows = np.array([np.interp(x, centres, row) for row in scores])  # [k, size]
    return np.array([np.interp(x, centres, column) for column in rows.T]).T


def inverse_distance(scores, centres, size, power=5):
    """[k, k] -> [size, size]: a window's own score at its centre."""
    out = np.empty((size, size))
    for y in range(size):
        for x in range(size):
            total = weights = 0.0
            for i, top in enumerate(centres):
                for j, left in enumerate(centres):
                    distance = math.hypot(y - top, x - left)
                    weight = distance**-power if distance else 1e30
                    total, weights = total + weight * scores[i][j], weights + weight
            out[y, x] = total / weights
    return out


def darker_or_brighter(grey, patch, brighter):
    """A stain's grey on a patch [3][p][p]: what is left of the way from its mean to black or to white is `grey`."""
    values = [float(value) for channel in patch for row in channel for value in row]
    mean, end = sum(values) / len(values), float(brighter)
    return end + grey * (mean - end)
