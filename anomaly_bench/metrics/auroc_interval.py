"""How far an image AUROC may move with other test images, in closed form, also where it is 1.

Newcombe's method 5 (Statistics in Medicine 2006, part 2): the AUROCs t that are at most z standard errors from the
observed one, with Hanley and McNeil's variance at t (Radiology 1982), mn the pairs of images:
    V(t) = t (1 - t) / (m n) (1 + N ((1 - t) / (2 - t) + t / (1 + t))),    N = (m + n) / 2 - 1.
Four things are different here, all chosen by simulation (docs/statistics.md):
- V takes scores of both classes to scatter alike.  Where they do not, DeLong's variance (Biometrics 1988) knows better,
  as soon as enough images overlap: V is multiplied by f = (k DeLong / V + PRIOR) / (k + PRIOR).  k: how many images
  lie on the wrong side of some image of the other class, geometric mean of both classes.
- DeLong's variance is itself estimated: z is Student's t.  Its degrees of freedom are those of Welch and Satterthwaite
  (Brunner and Munzel, Biometrical Journal 2000) for the part that DeLong's variance has in f.
- A high AUROC and a small f come together.  On the side of 1/2, f is no less than |2 AUROC - 1|.
- At a t so near to 1 that not even an observed AUROC of 1 were too high, only a low one can speak against t.  There,
  all of 1 - level lies on that side, and likewise near 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

from .inputs import Array

PRIOR = 0.75  # images that V counts for
HALVINGS = 50  # of the search for a bound


def auroc_interval(scores: Array, anomalous: Array, level: float = 0.95) -> tuple[float, float]:
    """Return (low, high) of the AUROC of scores [N], anomalous [N] bool; nan where a class is missing.

    level: of confidence, in (0, 1).  Ties count half.  Raises ValueError for another level.

    >>> low, high = auroc_interval(np.arange(20.0), np.arange(20) >= 10)
    >>> round(low, 3), high
    (0.8, 1.0)
    """
    if not 0 < level < 1:
        raise ValueError(f"level: {level} is outside (0, 1)")
    x, y = np.sort(scores[anomalous]), np.sort(scores[~anomalous])
    m, n = len(x), len(y)
    if not m or not n:
        return np.nan, np.nan
    above, below = _places(y, x), 1 - _places(x, y)  # of each anomalous image the share of normal ones below it ...
    value = float(above.mean())
    overlap = np.sqrt(np.count_nonzero((above > 0) & (above < 1)) * np.count_nonzero((below > 0) & (below < 1)))
    factor, freedom = 1.0, np.inf
    if overlap and m > 1 and n > 1:
        a, b = above.var(ddof=1) / m, below.var(ddof=1) / n
        if delong := a + b:
            estimated = overlap * delong / _variance(value, m, n)
            factor = (estimated + PRIOR) / (overlap + PRIOR)
            freedom = delong**2 / (a**2 / (m - 1) + b**2 / (n - 1)) * ((estimated + PRIOR) / estimated) ** 2
    careful = max(factor, abs(2 * value - 1))
    quantiles = [float(stdtrit(freedom, share)) for share in ((1 + level) / 2, level)]
    reach = float(stdtrit(np.inf, (1 + level) / 2))
    low = _lower(value, careful if value >= 0.5 else factor, quantiles, reach, m, n)
    return low, 1 - _lower(1 - value, careful if value <= 0.5 else factor, quantiles, reach, m, n)


def _places(others: Array, values: Array) -> Array:
    """Return for each value the share of `others`, ascending, that lies below it, ties by half."""
    left, right = (np.searchsorted(others, values, side=side) for side in ("left", "right"))
    return np.asarray((left + right) / (2 * len(others)))


def _variance(t: float, m: int, n: int) -> float:
    return t * (1 - t) / (m * n) * (1 + ((m + n) / 2 - 1) * ((1 - t) / (2 - t) + t / (1 + t)))


def _lower(value: float, factor: float, quantiles: Sequence[float], reach: float, m: int, n: int) -> float:
    """Return the smallest AUROC at which the observed one is not too high.

    quantiles: that of two sides and that of one side alone; reach: standard errors from 0 within which one side counts.
    """
    near, far = value, 0.0
    for _ in range(HALVINGS):
        t = (near + far) / 2
        deviation = _variance(t, m, n) ** 0.5
        if value - t <= quantiles[t < reach * deviation] * factor**0.5 * deviation:
            near = t
        else:
            far = t
    return (near + far) / 2 if near != far else near
