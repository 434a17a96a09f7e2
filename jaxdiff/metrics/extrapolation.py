"""The Fréchet distance of infinitely many samples, from those of subsets of several sizes.

A distance of N samples is too large by about c/N, and c differs between models: a line through the distances of
subsets over 1/N, taken at 0, is free of it to first order.
"""

from typing import Any

import numpy as np

from jaxdiff.metrics.gaussian import Moments, frechet, moments
from jaxdiff.metrics.pairwise import rows_of

__all__ = ["frechet_infinity", "subsets_of"]


def subsets_of(n: int, *, points: int = 15, least: int = 5000, seed: int = 0) -> list[np.ndarray]:
    """Returns fixed subsets of n samples, each drawn anew, of sizes spread evenly from `least` to n.

    Args:
      n: number of samples, above `least`.
      points: number of subsets, at least 2.
      least: size of the smallest, at least 2.
      seed: of `numpy.random.RandomState`, whose permutations are cut off at the sizes.

    Raises:
      ValueError: numbers that leave no line.
    """
    if points < 2 or not 2 <= least < n:
        raise ValueError(f"a line needs points >= 2 and 2 <= least < n, got {points} points from {least} to n = {n}")
    rng = np.random.RandomState(seed)
    return [rng.permutation(n)[:size] for size in np.linspace(least, n, points).astype(int)]


def frechet_infinity(made: Any, real_moments: Moments, *, points: int = 15, least: int = 5000, seed: int = 0) -> float:
    """Returns the distance from `real_moments` that infinitely many samples would have; it may be below 0.

    Takes `points` Fréchet distances.

    Args:
      made: features [n, d], n > least.
      real_moments: of the data.
      points: number of subsets, at least 2.
      least: size of the smallest, at least 2.
      seed: of the subsets; the published code draws without one, so that its value differs from run to run.

    Raises:
      ValueError: numbers that leave no line, other dimensions, values that are not finite.

    Source: Chong & Forsyth 2020, section 3.
    """
    rows = rows_of(made, "made", least=2)
    chosen = subsets_of(len(rows), points=points, least=least, seed=seed)
    distances = [frechet(real_moments, moments(rows[subset])) for subset in chosen]
    return float(np.polyfit([1 / len(subset) for subset in chosen], distances, 1)[1])
