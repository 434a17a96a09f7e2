"""Proportions, and how well a number of trials determines them."""

import math

__all__ = ["wilson"]


def wilson(successes: int, n: int, *, z: float = 1.96) -> tuple[float, float]:
    """Returns the Wilson interval of a proportion, which stays within [0, 1] and is right near its ends.

        (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n),  p = successes/n

    Args:
      successes: 0 to n.
      n: number of trials, at least 1.
      z: half-width in standard deviations; 1.96 covers 95 %.

    Returns:
      `(low, high)`.

    Raises:
      ValueError: `n` below 1, `successes` out of range, or `z` negative.

    Source: Wilson 1927.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"an interval needs n >= 1 and 0 <= successes <= n, got {successes} of {n}")
    if not z >= 0:
        raise ValueError(f"z must be >= 0, got {z}")
    p, share = successes / n, z * z / n
    middle = p + share / 2
    half = z * math.sqrt(p * (1 - p) / n + share / (4 * n))
    return max(0.0, (middle - half) / (1 + share)), min(1.0, (middle + half) / (1 + share))
