"""SimpleNet's patches, head, loss and map written a second way, patch by patch, in float64.

Source: the authors' code, github.com/DonaldRR/SimpleNet at commit 351a2b8.
"""

import math

import numpy as np
from scipy.ndimage import gaussian_filter

from tests.references.bilinear import bilinear


def in_groups(values, count):
    """The means of `count` stretches of a vector, which overlap where its length is no multiple."""
    n = len(values)
    return np.array([values[i * n // count : -(-(i + 1) * n // count)].mean() for i in range(count)])


def neighbourhood(f, y, x, size):
    """[C, H, W] -> the C * size * size values around a position, channel by channel, zeros beyond the edge."""
    _, h, w = f.shape
    half = size // 2
    places = [(i, j) for i in range(y - half, y + half + 1) for j in range(x - half, x + half + 1)]
    return np.array([channel[i, j] if 0 <= i < h and 0 <= j < w else 0.0 for channel in f for i, j in places])


def patches(features, size, layer_dimensions, dimensions):
    """Layers [C, h, w] of one image -> [h, w, dimensions] on the first one's grid."""
    _, height, width = features[0].shape
    layers = []
    for f in features:
        _, h, w = f.shape
        own = [[in_groups(neighbourhood(f, y, x, size), layer_dimensions) for x in range(w)] for y in range(h)]
        channels = np.moveaxis(np.array(own), -1, 0)
        layers.append([bilinear(channel, height, width) for channel in channels])
    joined = np.concatenate(layers)  # [layers * layer_dimensions, h, w]
    return np.array([[in_groups(joined[:, y, x], dimensions) for x in range(width)] for y in range(height)])


def adapted(q, state):
    return q @ state["adaptor.weight"].T + state["adaptor.bias"]


def discriminator(q, state, training):
    """[N, D] -> [N]; with `training` the batch's own statistics are used."""
    hidden = q @ state["discriminator.0.weight"].T + state["discriminator.0.bias"]
    mean, variance = state["discriminator.1.running_mean"], state["discriminator.1.running_var"]
    if training:
        mean, variance = hidden.mean(0), hidden.var(0)
    hidden = (hidden - mean) / np.sqrt(variance + 1e-5) * state["discriminator.1.weight"]
    hidden = hidden + state["discriminator.1.bias"]
    hidden = np.where(hidden > 0, hidden, 0.2 * hidden)
    return hidden @ state["discriminator.3.weight"][0]


def loss(normal, anomalous, margin):
    wanted = math.fsum(margin - v for v in normal if v < margin) / len(normal)
    return wanted + math.fsum(margin + v for v in anomalous if v > -margin) / len(anomalous)


def score(features, state, size, layer_dimensions, dimensions, pixels, sigma):
    """Layers [C, h, w] of one image -> its score and its map [pixels, pixels]."""
    described = patches(features, size, layer_dimensions, dimensions)
    h, w, _ = described.shape
    values = -discriminator(adapted(described.reshape(h * w, -1), state), state, training=False).reshape(h, w)
    return values.max(), gaussian_filter(bilinear(values, pixels, pixels), sigma=sigma)
