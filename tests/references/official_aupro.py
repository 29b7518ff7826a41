"""What MVTec's evaluation script computes (mvtec_ad_evaluation, pro_curve_util.py and generic_util.py), written anew.

The steps, their order, the types of the numbers and the arrays that are alive at each moment are those of the script,
so that results, time and memory are comparable; nothing is shared with the package.
"""

from bisect import bisect

import numpy as np
from scipy import ndimage

EIGHT_CONNECTED = np.ones((3, 3), dtype=int)


def pro_curve(maps, masks):
    """False-positive rates and per-region overlaps, ascending, a point for each distinct score and one at either end.

    maps, masks: [N, H, W] or lists of [H, W] of one size.
    """
    false = np.zeros((len(maps), *maps[0].shape), np.uint32)
    overlap = np.zeros(false.shape, np.float64)
    normal = regions = 0
    for index, mask in enumerate(masks):
        found = entering(mask)
        false[index], overlap[index] = found[:2]
        normal, regions = normal + found[2], regions + found[3]
    scores, false, overlap = np.array(maps).ravel(), false.ravel(), overlap.ravel()
    order = np.argsort(scores).astype(np.uint32)[::-1]
    for values in (scores, false, overlap):
        np.take(values, order, out=values)
    del order
    np.cumsum(false, out=false)
    rate = false.astype(np.float32)
    np.divide(rate, normal, out=rate)
    np.cumsum(overlap, out=overlap)
    np.divide(overlap, regions, out=overlap)
    last = np.append(np.diff(scores) != 0, True)  # of each run of ties
    kept = [np.minimum(all_points[last], 1) for all_points in (rate, overlap)]
    return [np.concatenate(([0.0], points, [1.0])) for points in kept]


def entering(mask):
    """One image: what each pixel adds to the false positives and to the overlaps; how many normal pixels and regions.

    Neither is divided yet by how many there are in all images.
    """
    labels, regions = ndimage.label(mask, EIGHT_CONNECTED)
    normal = labels == 0
    false = np.zeros(mask.shape, np.uint32)
    false[normal] = 1
    overlap = np.zeros(mask.shape, np.float64)
    for region in range(1, regions + 1):
        inside = labels == region
        overlap[inside] = 1 / np.sum(inside)
    return false, overlap, np.sum(normal), regions


def area(x, y, limit):
    """Under straight lines through the points up to x = limit, divided by the limit; nan and infinite ones left out."""
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    rest = 0.0
    if limit not in x:
        after = bisect(x, limit)
        (x0, x1), (y0, y1) = x[after - 1 : after + 1], y[after - 1 : after + 1]
        at_limit = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
        rest = (at_limit + y0) / 2 * (limit - x0)
    inside = x <= limit
    x, y = x[inside], y[inside]
    return float((np.sum((y[1:] + y[:-1]) / 2 * (x[1:] - x[:-1])) + rest) / limit)


def aupro(maps, masks, limit):
    """The area under the PRO curve up to a false-positive rate."""
    return area(*pro_curve(maps, masks), limit)
