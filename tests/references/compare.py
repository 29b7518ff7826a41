"""Second statements of the statistics: every sign written out, one resample after another, Holm step by step."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from fractions import Fraction
from statistics import fmean


def signed_rank_p(differences: Sequence[float]) -> Fraction:
    """Wilcoxon's two-sided p, by writing out all 2^n signs of the differences that are not 0."""
    sizes = [abs(d) for d in differences if d]
    ranks = [Fraction(sum(s < size for s in sizes) + sum(s <= size for s in sizes) + 1, 2) for size in sizes]
    sums = [sum(itertools.compress(ranks, signs)) for signs in itertools.product((0, 1), repeat=len(sizes))]
    middle = Fraction(sum(ranks)) / 2
    seen = sum(rank for rank, d in zip(ranks, (d for d in differences if d), strict=True) if d > 0)
    return Fraction(sum(abs(s - middle) >= abs(seen - middle) for s in sums), len(sums))


def holm_rejects(p: Sequence[float], alpha: float) -> list[bool]:
    """Holm's procedure as he wrote it: the smallest p against alpha / m, the next against alpha / (m - 1), and so on;
    the first that fails ends it."""
    rejected = [False] * len(p)
    for k, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        if p[i] > alpha / (len(p) - k):
            break
        rejected[i] = True
    return rejected


def paired_image_interval(
    first: Sequence[Sequence[float]],
    second: Sequence[Sequence[float]],
    labels: Sequence[int],
    resamples: int,
    seed: int,
) -> tuple[float, float]:
    """95 % interval of the mean AUROC difference: images of either kind drawn, then pairs of seeds; pairs counted."""
    draw = random.Random(seed)
    bad, good = ([i for i, label in enumerate(labels) if label == kind] for kind in (1, 0))
    values = []
    for _ in range(resamples):
        b, g = draw.choices(bad, k=len(bad)), draw.choices(good, k=len(good))
        seeds = draw.choices(range(len(first)), k=len(first))
        values.append(fmean(auroc(first[s], b, g) - auroc(second[s], b, g) for s in seeds))
    values.sort()
    return values[round(0.025 * resamples)], values[round(0.975 * resamples) - 1]


def auroc(scores: Sequence[float], bad: Sequence[int], good: Sequence[int]) -> float:
    """Share of pairs that are in order, ties half."""
    return fmean((scores[b] > scores[g]) + (scores[b] == scores[g]) / 2 for b in bad for g in good)
