"""STFPM's loss and map written a second way, position by position, in float64.

Source: the authors' code, github.com/gdwang08/STFPM at commit 2598a5e, and the paper's equations.
"""

import math

import numpy as np

from tests.references.bilinear import bilinear


def distance(a, b):
    """Half the squared distance of two vectors of length 1."""
    a, b = ([float(x) for x in v] for v in (a, b))
    length_a, length_b = (math.sqrt(math.fsum(x * x for x in v)) for v in (a, b))
    return math.fsum((x / length_a - y / length_b) ** 2 for x, y in zip(a, b, strict=True)) / 2


def distances(t, s):
    """[C, H, W] twice -> [H, W]."""
    _, h, w = t.shape
    return np.array([[distance(t[:, y, x], s[:, y, x]) for x in range(w)] for y in range(h)])


def loss(f_t, f_s):
    """Features of each level, [B, C, H, W]."""
    total = 0.0
    for t, s in zip(f_t, f_s, strict=True):
        total += float(np.mean([distances(a, b).mean() for a, b in zip(t, s, strict=True)]))
    return total


def maps(f_t, f_s, height, width, product_at):
    """Maps [B, height, width]."""
    found = []
    for image in range(len(f_t[0])):
        levels = [distances(t[image], s[image]) for t, s in zip(f_t, f_s, strict=True)]
        at = (height, width) if product_at == "image" else levels[0].shape
        product = np.ones(at)
        for level in levels:
            product = product * bilinear(level, *at)
        found.append(bilinear(product, height, width))
    return np.array(found)
