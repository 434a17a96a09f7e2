"""The Fréchet distance between Gaussians, and the moments it needs, in float64 on the host.

    FD = |μ_a - μ_b|² + tr A + tr B - 2 tr (A^½ B A^½)^½

With factors A = F Fᵀ and B = G Gᵀ the last trace is the sum of the singular values of FᵀG.
Nothing is squared, so that singular covariances are exact too: the eigenvalues of A^½ B A^½, of
which roots would be taken, carry rounding errors of 1e-16, whose roots are 1e-8 in d directions
(2e-7 to 8e-6 of the distance where N < d, and -2e-2 for a set's distance from itself).
"""

import warnings
from typing import Any, NamedTuple

import numpy as np

from jaxdiff.protocols import Array

__all__ = ["Moments", "between", "factor", "frechet", "merge", "moments"]

BLOCK = 4096  # rows that are in memory as float64 at one time


class Moments(NamedTuple):
    """Mean and covariance of features.

    Attributes:
      n: number of samples, or None for those of an exact law.
      mean: [d] float64.
      cov: [d, d] float64, with n - 1 in the denominator (as in every public FID but StyleGAN's).
    """

    n: int | None
    mean: np.ndarray
    cov: np.ndarray

    @classmethod
    def exact(cls, mean: Array, cov: Array) -> "Moments":
        """Returns the moments of a law, rather than of samples.

        Args:
          mean: [d].
          cov: [d, d], symmetric.

        Raises:
          ValueError: shapes that do not fit, values that are not finite, a matrix that is not symmetric.
        """
        mean, cov = np.asarray(mean, np.float64), np.asarray(cov, np.float64)
        if mean.ndim != 1 or cov.shape != 2 * mean.shape:
            raise ValueError(f"moments need a mean [d] and a covariance [d, d], got {mean.shape} and {cov.shape}")
        if not (np.isfinite(mean).all() and np.isfinite(cov).all()):
            raise ValueError("mean and covariance must be finite")
        if np.abs(cov - cov.T).max(initial=0) > 1e-6 * np.abs(cov).max(initial=0):
            raise ValueError("a covariance is symmetric, this matrix is not")
        return cls(None, mean, cov)


def moments(features: Any) -> Moments:
    """Returns mean and covariance of features, accumulated in float64.

    Args:
      features: [n, ...] of any real dtype, numpy or JAX, n >= 2; all but the first axis are flattened.

    Raises:
      ValueError: fewer than two rows, or rows with values that are not finite (and how many).
    """
    rows = np.asarray(features)
    if rows.ndim < 1 or len(rows) < 2:
        raise ValueError(f"moments need features [n, ...] with n >= 2, got shape {rows.shape}")
    n = len(rows)
    rows = rows.reshape(n, -1)  # [n, d]
    broken = n - int(np.isfinite(rows).all(1).sum())
    if broken:
        raise ValueError(f"{broken} of {n} rows of features are not finite")
    mean = rows.mean(0, dtype=np.float64)
    scatter = np.zeros(2 * mean.shape)
    for start in range(0, n, BLOCK):
        centred = rows[start:start + BLOCK].astype(np.float64) - mean
        scatter += centred.T @ centred
    return Moments(n, mean, scatter / (n - 1))


def merge(a: Moments, b: Moments) -> Moments:
    """Returns the moments of the samples of `a` and `b` together.

    Raises:
      ValueError: other dimensions, or moments of an exact law.

    Source: Chan, Golub & LeVeque 1979, eq. 2.1.
    """
    _check_dimensions(a, b)
    if a.n is None or b.n is None:
        raise ValueError("only moments of samples can be merged, an exact law has no number of them")
    n, gap = a.n + b.n, b.mean - a.mean
    scatter = (a.n - 1) * a.cov + (b.n - 1) * b.cov + np.outer(gap, gap) * (a.n * b.n / n)
    return Moments(n, a.mean + gap * (b.n / n), scatter / (n - 1))


def frechet(a: Moments, b: Moments) -> float:
    """Returns the squared 2-Wasserstein distance between the Gaussians with these moments, at least 0.

    Covariances may be singular; nothing is ever added to a diagonal.  Relative errors are 1e-13 whatever the rank,
    against 1e-10 of eigenvalues of A^½ B A^½ and of `scipy.linalg.sqrtm` where n > d, and 3e-5 where n < d.

    Raises:
      ValueError: other dimensions, or a matrix with negative eigenvalues beyond rounding.

    Source: Dowson & Landau 1982; as a score of samples, Heusel et al. 2017.
    """
    _check_dimensions(a, b)
    return between(a, factor(a.cov), b, factor(b.cov))


def between(a: Moments, a_factor: np.ndarray, b: Moments, b_factor: np.ndarray) -> float:
    """Returns what `frechet` does, of moments whose factors are at hand: one of them may serve many distances.

    Args:
      a: moments.
      a_factor: [d, rank], `factor(a.cov)`.
      b: moments.
      b_factor: [d, rank], `factor(b.cov)`.
    """
    gap = a.mean - b.mean
    overlap = np.linalg.svd(a_factor.T @ b_factor, compute_uv=False).sum()
    return max(0.0, float(gap @ gap + np.trace(a.cov) + np.trace(b.cov) - 2 * overlap))


def factor(cov: np.ndarray) -> np.ndarray:
    """Returns F [d, rank] with F Fᵀ = cov, rid of eigenvalues that are rounding errors.

    Warns of eigenvalues below -1e-6 of the largest: the matrix was made in float32 (float64 leaves -1e-12).

    Raises:
      ValueError: eigenvalues below -1e-2 of the largest: it is no covariance.
    """
    values, vectors = np.linalg.eigh(cov)
    least, most = values.min(initial=0), values.max(initial=0)
    if least < -1e-2 * most:
        raise ValueError(f"not a covariance: its eigenvalues go from {least:.3g} to {most:.3g}")
    if least < -1e-6 * most:
        warnings.warn(f"a covariance has eigenvalues from {least:.3g} to {most:.3g}: it was summed in float32, and its "
                      "Fréchet distances may be wrong by per cents; take moments in float64", stacklevel=3)
    kept = values > len(cov) * np.finfo(np.float64).eps * most
    return vectors[:, kept] * np.sqrt(values[kept])


def _check_dimensions(a: Moments, b: Moments) -> None:
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"moments of {a.mean.size} and of {b.mean.size} dimensions do not compare")
