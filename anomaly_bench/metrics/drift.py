"""Do new images still look like the calibration images?  A test of a folder, and one that watches a stream of images.

Both compare scores below the threshold only.  A score above it may be a defect's, and how many defects there are says
nothing about drift.  The threshold t is one of the calibration scores: given t, the calibration scores below t and
those of normal images below t are independent draws from one law, so that a test that they are exchangeable is exact.
Scores equal to t are left out because the calibration scores always hold one.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

import numpy as np

JUMP_RATE = 0.01  # share of the capital that is spread over all BETS again before each image
BETS = (-1.0, 0.0, 1.0)  # on p-values below 1/2 (higher scores), on none, on p-values above 1/2 (lower scores)


class ScoreChange(NamedTuple):
    """What `score_change` found."""

    p_value: float  # small: the scores have changed; 1 where nothing can be compared
    distance: float  # largest difference of the two distribution functions, in [0, 1]
    calibration: int  # scores compared: those below the threshold
    new: int


def score_change(calibration: np.ndarray, new: np.ndarray, threshold: float) -> ScoreChange:
    """Test whether new images score as the calibration images do, by a two-sample Kolmogorov-Smirnov test.

    If they do, P(p_value <= a) <= a.  calibration: [n], of the normal images that `threshold` comes from.  new: [m],
    defects among them.  A test of the new images' conformal p-values against the uniform law would be wrong: all of
    them are ranks in the same n scores, whose own scatter it finds as soon as there are many more new images than n.
    """
    from scipy.stats import ks_2samp  # slow to import

    calibration, new = calibration[calibration < threshold], new[new < threshold]
    if not len(calibration) or not len(new):
        return ScoreChange(1.0, 0.0, len(calibration), len(new))
    found = ks_2samp(calibration, new)
    return ScoreChange(float(found.pvalue), float(found.statistic), len(calibration), len(new))


class DriftMartingale:
    """Watches a stream of scores, and raises an alarm when they no longer look like those before them.

    `value` is the capital, 1 at first, of someone who bets on each new score's p-value: its rank among all scores so
    far.  While the scores are exchangeable, these p-values are independent and uniform (Vovk, Gammerman and Shafer
    2005), the game is fair, and the chance that the capital ever reaches 1 / alpha is at most `alpha`, however long the
    stream (Ville 1939).  That is the alarm.

    The strategy is the "Simple Jumper" (Vovk et al. 2021, "Retrain or not retrain: conformal test martingales").  One
    that started long ago has lost nearly all of its capital when something changes.  So a new one starts with each
    score: the k-th gets 1 / (k (k + 1)) of the capital, and the rest is not bet.  The sum is a fair game as well, and
    late changes are found almost as soon as early ones.

    Calibration scores, seed and stream determine all values: after a restart, `update` with the scores that were seen
    before restores the state.

    calibration: [n] scores of normal images, not of the training.  threshold: the one that comes from them.  alpha: in
    (0, 1).  seed: of the random order of equal scores.
    """

    def __init__(self, calibration: Sequence[float], threshold: float, alpha: float = 0.01, seed: int = 0) -> None:
        self.threshold, self.alpha = threshold, alpha
        self.log_value = self.highest_log_value = 0.0
        self._scores = sorted(score for score in map(float, calibration) if score < threshold)
        self._random = Random(seed)
        self._images = 0  # below the threshold, so far
        self._log_capital = -math.inf  # of what is bet, over all jumpers
        self._shares = [1 / 3] * 3  # of it, on each of BETS

    @property
    def value(self) -> float:
        """The capital now; large: the scores have changed."""
        return math.exp(min(self.log_value, 700.0))  # below the largest float

    @property
    def alarmed(self) -> bool:
        """Whether the capital has ever reached 1 / alpha."""
        return self.highest_log_value >= -math.log(self.alpha)

    def update(self, score: float) -> None:
        """Take a new image's score; one that is not below the threshold changes nothing."""
        if score < self.threshold:
            self._bet(self._p_value(float(score)))

    def _p_value(self, score: float) -> float:
        """Return the score's rank among all so far, at random among equal ones, in (0, 1); and add it to them."""
        first, last = bisect_left(self._scores, score), bisect_right(self._scores, score)
        self._scores.insert(last, score)
        higher, equal = len(self._scores) - 1 - last, last - first + 1
        return (higher + equal * self._random.random()) / len(self._scores)

    def _bet(self, p: float) -> None:
        """Bet on the next p-value, and add up the capital."""
        self._images += 1
        k = self._images
        released = -math.log(k * (k + 1))
        self._log_capital = _log_sum(self._log_capital, released)
        fresh = math.exp(released - self._log_capital)  # share of the capital that is bet for the first time
        shares = [(1 - fresh) * share + fresh / 3 for share in self._shares]
        shares = [(1 - JUMP_RATE) * share + JUMP_RATE / 3 for share in shares]
        shares = [share * (1 + bet * (p - 0.5)) for share, bet in zip(shares, BETS, strict=True)]
        growth = sum(shares)
        self._shares = [share / growth for share in shares]
        self._log_capital += math.log(growth)
        self.log_value = _log_sum(self._log_capital, -math.log(k + 1))  # 1 / (k + 1) has not been bet yet
        self.highest_log_value = max(self.highest_log_value, self.log_value)


def _log_sum(a: float, b: float) -> float:
    """Return log(exp(a) + exp(b)) without overflow; one of them may be -inf."""
    low, high = sorted((a, b))
    return high + math.log1p(math.exp(low - high))
