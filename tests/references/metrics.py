"""The metrics written a second, slow way: curves point by point as they are defined, in rational arithmetic.

Images are lists of rows; a pixel is a plain number.  None in a mask: ignored.  Nothing is shared with the package.
"""

import math
from fractions import Fraction
from itertools import pairwise


def regions(mask):
    """The 8-connected components of one mask, each a list of (row, column), by flood fill."""
    left = {(y, x) for y, row in enumerate(mask) for x, value in enumerate(row) if value}
    found = []
    while left:
        reached = [left.pop()]
        for y, x in reached:  # grows while it is read
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            reached.extend(near)
        found.append(reached)
    return found


def split(maps, masks):
    """Normal scores of all images, and the scores of each region."""
    images = list(zip(maps, masks, strict=True))
    normal = [s for scores, mask in images for s in of_normal(flat(scores), flat(mask))]
    return normal, [[scores[y][x] for y, x in region] for scores, mask in images for region in regions(mask)]


def flat(rows):
    """All pixels of one image."""
    return [value for row in rows for value in row]


def of_normal(values, mask):
    """Those values of one image, in one row, whose pixels are normal."""
    return [v for v, m in zip(values, mask, strict=True) if m is not None and not m]


def share(scores, threshold):
    """How much of `scores` reaches the threshold."""
    return Fraction(sum(s >= threshold for s in scores), len(scores))


def area(points):
    """Under straight lines through the points (x, y)."""
    return sum(((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in pairwise(points)), Fraction(0))


def aupro(maps, masks, limit):
    """One point for each distinct score, a linear cut at the limit (a Fraction)."""
    normal, found = split(maps, masks)
    points = [(Fraction(0), Fraction(0))]
    thresholds = sorted({*normal, *(s for region in found for s in region)}, reverse=True)
    points += [(share(normal, t), sum(share(region, t) for region in found) / len(found)) for t in thresholds]
    return area_up_to(points, limit)


def area_up_to(points, limit):
    """Under straight lines through the points (x, y), with a linear cut at the limit, divided by the limit."""
    kept = [point for point in points if point[0] <= limit]
    if len(kept) < len(points):
        (x0, y0), (x1, y1) = kept[-1], points[len(kept)]
        kept.append((limit, y0 + (y1 - y0) * (limit - x0) / (x1 - x0)))
    return area(kept) / limit


def spro_curve(maps, channels):
    """One point for each distinct score that counts; channels: of each image, a list of (mask, how many pixels are
    enough)."""
    images = list(zip(maps, channels, strict=True))
    normal = [
        score
        for scores, found in images
        for y, row in enumerate(scores)
        for x, score in enumerate(row)
        if all(of_normal([True], [mask[y][x]]) for mask, _ in found)
    ]
    defects = [
        ([s for s, m in zip(flat(scores), flat(mask), strict=True) if m], enough)
        for scores, found in images
        for mask, enough in found
        if any(flat(mask))
    ]
    points = [(Fraction(0), Fraction(0))]
    for threshold in sorted({score for scores in maps for score in flat(scores)}, reverse=True):
        hits = [min(Fraction(sum(s >= threshold for s in each), enough), Fraction(1)) for each, enough in defects]
        points.append((share(normal, threshold), sum(hits) / len(hits)))
    return points


def seg_f1(maps, masks, threshold):
    """The harmonic mean of precision and recall of all pixels above the threshold."""
    pixels = [pair for s, m in zip(maps, masks, strict=True) for pair in zip(flat(s), flat(m), strict=True)]
    pixels = [(s, m) for s, m in pixels if m is not None]
    marked, defect = [m for s, m in pixels if s > threshold], [s for s, m in pixels if m]
    hits = sum(map(bool, marked))
    if not hits:
        return Fraction(0)
    precision, recall = Fraction(hits, len(marked)), Fraction(hits, len(defect))
    return 2 * precision * recall / (precision + recall)


def aupimo(maps, masks, low, high):
    """The mean over the images with a defect; rates from the others, from `low` to `high` on a logarithmic axis."""
    images = [(flat(scores), flat(mask)) for scores, mask in zip(maps, masks, strict=True)]
    normal = [s for scores, mask in images if not any(mask) for s in of_normal(scores, mask)]
    areas = []
    for scores, mask in images:
        if any(mask):
            defect = [s for s, m in zip(scores, mask, strict=True) if m]
            thresholds = sorted({*normal, *defect}, reverse=True)
            areas.append(log_area([(0, 0), *((share(normal, t), share(defect, t)) for t in thresholds)], low, high))
    return math.fsum(areas) / len(areas) / math.log(high / low)


def log_area(points, low, high):
    """Under straight lines through the points (x, y), over log x from `low` to `high`."""
    total = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        start, stop = max(x0, low), min(x1, high)
        if start < stop:
            slope = (y1 - y0) / (x1 - x0)
            total += float(y0 - slope * x0) * math.log(stop / start) + float(slope * (stop - start))
    return total


def auroc(anomalous, normal):
    """The area under (FPR, TPR), a point for each distinct score."""
    thresholds = sorted({*anomalous, *normal}, reverse=True)
    return area([(Fraction(0), Fraction(0)), *((share(normal, t), share(anomalous, t)) for t in thresholds)])


def confusion(anomalous, normal):
    """(true positives, false positives) at each distinct score, the highest first."""
    for threshold in sorted({*anomalous, *normal}, reverse=True):
        yield sum(s >= threshold for s in anomalous), sum(s >= threshold for s in normal)


def average_precision(anomalous, normal):
    """Precision times the step in recall, at each distinct score."""
    total, before = Fraction(0), 0
    for tp, fp in confusion(anomalous, normal):
        total += Fraction(tp - before, len(anomalous)) * Fraction(tp, tp + fp)
        before = tp
    return total


def f1_max(anomalous, normal):
    """The best 2 TP / (2 TP + FP + FN)."""
    return max(Fraction(2 * tp, tp + fp + len(anomalous)) for tp, fp in confusion(anomalous, normal))


def per_image_pro(scores, mask):
    """One image, as the test code of Reverse Distillation does it: 200 thresholds, the mask labelled again at each.

    None where that code has no answer: 0 / 0, or fewer than two points.
    """
    counted = [s for s, m in zip(flat(scores), flat(mask), strict=True) if m is not None]
    low, high = min(counted), max(counted)
    points = []
    for step in range(200):
        threshold = low + step * ((high - low) / 200)
        binary = [[s > threshold for s in row] for row in scores]
        pros = [Fraction(sum(binary[y][x] for y, x in region), len(region)) for region in regions(mask)]
        false = of_normal(flat(binary), flat(mask))
        points.append((Fraction(sum(false), len(false)), sum(pros) / len(pros)))
    points = [point for point in points if point[0] < Fraction(3, 10)]
    widest = max((x for x, _ in points), default=0)
    if len(points) < 2 or not widest:
        return None
    return area([(x / widest, y) for x, y in reversed(points)])


def pro_per_image(maps, masks):
    """The mean over the images with both normal and anomalous pixels, nan where there is none."""
    both = [any(flat(mask)) and bool(of_normal(flat(mask), flat(mask))) for mask in masks]
    values = [per_image_pro(s, m) for s, m, mixed in zip(maps, masks, both, strict=True) if mixed]
    return float("nan") if not values or None in values else float(sum(values) / len(values))
