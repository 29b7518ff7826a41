"""Pillow's bilinear resize written a second way: a matrix of weights in 22-bit fixed point for each axis.

The width is resized first, as Pillow up to 12.1 does it; either pass rounds to 8 bits.  Nothing is shared with the
package, nor with Pillow.
"""

import math

import numpy as np

ONE = 2**22  # the weight 1: of 32 bits, 8 hold the value and 2 are spare


def weights(length, begin, end, size):
    """[size, length] of whole numbers: what each pixel weighs in each of the `size` that begin to end becomes.

    begin, end: float32, as is their difference.
    """
    step = float(end - begin) / size
    reach = max(step, 1.0)  # an enlarged image is interpolated, a reduced one averaged
    matrix = np.zeros((size, length))
    for i in range(size):
        centre = float(begin) + (i + 0.5) * step
        first, last = max(int(centre - reach + 0.5), 0), min(int(centre + reach + 0.5), length)
        triangle = [max(0.0, 1 - abs((j - centre + 0.5) / reach)) for j in range(first, last)]
        matrix[i, first:last] = [int(ONE * (w / math.fsum(triangle)) + 0.5) for w in triangle]
    return matrix


def one_axis(image, matrix):
    """[length, ...] of 0 to 255 -> [size, ...]; float64 holds the sums exactly."""
    sums = np.tensordot(matrix, image, 1)
    return np.clip(np.floor((sums + ONE / 2) / ONE), 0, 255)


def bilinear(image, width, height, box=None):
    """uint8 [H, W] or [H, W, 3] -> [height, width]; box: left, top, right, bottom."""
    left, top, right, bottom = np.float32(box or (0, 0, image.shape[1], image.shape[0]))
    wide = one_axis(image.swapaxes(0, 1).astype(float), weights(image.shape[1], left, right, width)).swapaxes(0, 1)
    return one_axis(wide, weights(image.shape[0], top, bottom, height)).astype(np.uint8)
