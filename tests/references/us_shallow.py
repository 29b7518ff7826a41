"""The shallow baselines of Uninformed Students written a second way: vector by vector, in float64 NumPy.

Source: section 4.2 and appendix C of Bergmann et al., CVPR 2020.  Nothing is shared with the package.
"""

from __future__ import annotations

import math

import numpy as np


def pca(vectors: np.ndarray, variance: float) -> tuple[np.ndarray, np.ndarray]:
    """vectors [n, C] -> mean [C], directions [C, d] in descending order, by the singular values of the centred data."""
    mean = vectors.mean(0)
    _, singular, directions = np.linalg.svd(vectors - mean, full_matrices=False)
    kept, d = 0.0, 0
    while d < len(singular) and kept < variance * (singular**2).sum():
        kept, d = kept + singular[d] ** 2, d + 1
    return mean, directions[:d].T


def nearest(vectors: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The distance of each vector to the nearest of the others."""
    return np.array([min(math.dist(v, o) for o in others) for v in vectors])


def lloyd(vectors: np.ndarray, centres: np.ndarray, steps: int) -> np.ndarray:
    """So many steps of K-Means; a centre without vectors stays where it is."""
    for _ in range(steps):
        members = [min(range(len(centres)), key=lambda k: math.dist(v, centres[k])) for v in vectors]
        own = [[v for v, m in zip(vectors, members, strict=True) if m == k] for k in range(len(centres))]
        centres = np.array([np.mean(o, 0) if o else centres[k] for k, o in enumerate(own)])
    return centres


def mixture(vectors: np.ndarray, weights: np.ndarray, means: np.ndarray, covariances: np.ndarray) -> np.ndarray:
    """The negative log-likelihood of each vector."""
    found = []
    for v in vectors:
        density = 0.0
        for weight, mean, covariance in zip(weights, means, covariances, strict=True):
            apart = v - mean
            quadratic = apart @ np.linalg.solve(covariance, apart)
            density += weight * math.exp(-quadratic / 2) / math.sqrt(np.linalg.det(2 * math.pi * covariance))
        found.append(-math.log(density))
    return np.array(found)


def maximise(vectors: np.ndarray, shares: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights, means and covariances of Gaussians from each vector's shares [n, K]."""
    floor = ridge * vectors.var(0).mean() * np.eye(vectors.shape[1])
    weights, means = shares.mean(0), np.array([np.average(vectors, 0, weights=s) for s in shares.T])
    covariances = np.array([np.cov(vectors.T, aweights=s, ddof=0) + floor for s in shares.T])
    return weights, means, covariances


def one_class(vectors: np.ndarray, support: np.ndarray, alphas: np.ndarray, rho: float, gamma: float) -> np.ndarray:
    """rho - sum_i alpha_i exp(-gamma |x - x_i|^2) of each vector x."""
    kernel = lambda v, s: math.exp(-gamma * math.dist(v, s) ** 2)  # noqa: E731
    return np.array([rho - sum(a * kernel(v, s) for a, s in zip(alphas, support, strict=True)) for v in vectors])
