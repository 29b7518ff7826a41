"""Thresholds, p-values and the drift martingale a second, slow way: sums of exact chances, counting, no shortcuts.

Nothing is shared with the package.
"""

from fractions import Fraction
from itertools import takewhile
from math import comb


def at_most(count, n, share):
    """P(at most `count` of n) where each comes with the chance `share`."""
    return sum(comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(count + 1))


def solve(falling, value):
    """The x in (0, 1) where a falling function takes a value, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > value else (low, middle)
    return (low + high) / 2


def promised_rate(n, r, confidence):
    """The share of normal images of which at most r in n exceed the threshold by chance 1 - confidence."""
    return solve(lambda share: at_most(r, n, share), 1 - confidence)


def rank(n, rate, confidence):
    """rate, confidence: Fractions.  The largest r that keeps the rate; None where none does."""
    return max(takewhile(lambda r: at_most(r, n, rate) <= 1 - confidence, range(n)), default=None)


def p_value(calibration, score):
    """How many of all scores, the new one among them, are as high as the new one."""
    everything = [*calibration, score]
    return Fraction(sum(s >= score for s in everything), len(everything))


def rejected(p, rate):
    """Benjamini and Hochberg (1995): with the largest k for which p_(k) <= k rate / m, the hypotheses of p_(1..k)."""
    m, order = len(p), sorted(p)
    k = max((k for k in range(1, m + 1) if order[k - 1] <= k * rate / m), default=0)
    return [k > 0 and value <= order[k - 1] for value in p]


def interval(count, n, confidence):
    """Clopper and Pearson (1934): shares for which neither tail is smaller than half of 1 - confidence."""
    tail = (1 - confidence) / 2
    low = solve(lambda share: at_most(count - 1, n, share), 1 - tail) if count else 0.0
    return low, solve(lambda share: at_most(count, n, share), tail) if count < n else 1.0


def chance_above(count, n, r, rest):
    """P(`count` of the rest are above the (r + 1)-th largest of n), where n + rest scores are split at random.

    In falling order the calibration scores are any n of all places, equally likely; the (r + 1)-th of them comes after
    `count` of the rest: a negative hypergeometric law, whatever the scores.
    """
    return Fraction(comb(count + r, r) * comb(n + rest - count - r - 1, n - r - 1), comb(n + rest, n))


def smoothed_p_values(calibration, new, uniforms):
    """Each new score's rank among all up to itself: those that are higher, and a share of those that are equal."""
    seen, p = list(calibration), []
    for score, u in zip(new, uniforms, strict=True):
        seen.append(score)
        p.append((sum(s > score for s in seen) + u * sum(s == score for s in seen)) / len(seen))
    return p


def jumper(p, rate):
    """The capital of one Simple Jumper after all p-values (Vovk et al. 2021, algorithm 1)."""
    capital = {-1: 1 / 3, 0: 1 / 3, 1: 1 / 3}
    total = 1.0
    for value in p:
        for e in capital:
            capital[e] = (1 - rate) * capital[e] + rate / 3 * total
            capital[e] *= 1 + e * (value - 0.5)
        total = sum(capital.values())
    return total


def martingale(p, rate):
    """The capital after all p-values: of 1, a share 1 / (k (k + 1)) goes to a jumper that starts with the k-th."""
    started = sum(jumper(p[k - 1 :], rate) / (k * (k + 1)) for k in range(1, len(p) + 1))
    return started + 1 / (len(p) + 1)
