"""Precision, recall, density and coverage: two sets of balls around k-th neighbours.

A ball reaches from a point to its k-th nearest other point of the same set.  *Precision* is the share of made points
in a ball of a real one, *recall* the share of real points in a ball of a made one; a point on the rim is inside (<=).
*Density* counts in how many of the real balls a made point is, over k, and may exceed 1; *coverage* is the share of
real balls that hold a made point; a point on the rim is outside (<), as in the code that published them, so that two
sets of one and the same point have precision 1 and coverage 0.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.metrics.pairwise import centred, rows_of, squared, tiles
from jaxdiff.protocols import Array

__all__ = ["density_coverage", "precision_recall", "radii"]


def radii(features: Any, k: int) -> np.ndarray:
    """Returns the distance [n] of each point [n, d] to its k-th nearest other.

    Raises:
      ValueError: k below 1, or no more than k points.
    """
    rows, = centred(_rows(features, "given", k))
    return np.sqrt(_squared_radii(rows, k))


def precision_recall(made: Any, real: Any, *, k: int = 3) -> dict[str, float]:
    """Returns precision and recall of `made` against `real`, 0 to 1.

    ADM compares 10,000 images of its reference with 50,000 made ones through Inception, k = 3, in float16, which is up
    to .005 away; the paper takes VGG16's second layer of 4,096.

    Args:
      made: features [n, d], n > k.
      real: features [m, d], m > k.
      k: which neighbour gives the radius; the point itself does not count.

    Raises:
      ValueError: too few points, other dimensions, values that are not finite.

    Source: Kynkäänniemi et al. 2019, eq. 1-3.
    """
    real, made = centred(_rows(real, "real", k), _rows(made, "made", k))
    real_radii, made_radii = _squared_radii(real, k), _squared_radii(made, k)
    columns, inside, reached = jnp.asarray(real), np.zeros(len(made), bool), np.zeros(len(real), bool)
    for start, count, block in tiles(made, len(real)):
        here = slice(start, start + count)
        rims = np.pad(made_radii[here], (0, len(block) - count), mode="edge")
        rows_inside, columns_inside = _inside(block, rims, columns, real_radii)
        inside[here] = np.asarray(rows_inside)[:count]
        reached |= np.asarray(columns_inside)
    return {"precision": float(inside.mean()), "recall": float(reached.mean())}


def density_coverage(made: Any, real: Any, *, k: int = 5) -> dict[str, float]:
    """Returns density, at least 0, and coverage, 0 to 1, of `made` against `real`.

    Args:
      made: features [n, d], n >= 1.
      real: features [m, d], m > k.
      k: which neighbour gives the radius; the point itself does not count.

    Raises:
      ValueError: too few points, other dimensions, values that are not finite.

    Source: Naeem et al. 2020, eq. 3 and 4.
    """
    real, made = centred(_rows(real, "real", k), rows_of(made, "made"))
    real_radii = _squared_radii(real, k)
    columns, balls, least = jnp.asarray(real), 0, np.full(len(real), np.inf)
    for _, count, block in tiles(made, len(real)):
        counts, nearest = _counts(block, columns, real_radii)
        balls += int(np.asarray(counts)[:count].sum())
        least = np.minimum(least, np.asarray(nearest))
    return {"density": balls / (k * len(made)), "coverage": float((least < real_radii).mean())}


def _rows(features: Any, what: str, k: int) -> np.ndarray:
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    return rows_of(features, what, least=k + 1)


def _squared_radii(rows: np.ndarray, k: int) -> np.ndarray:
    """The k-th smallest squared distance [n] of rows [n, d] to the others, float32."""
    found, columns = np.zeros(len(rows), np.float32), jnp.asarray(rows)
    for start, count, block in tiles(rows, len(rows)):
        found[start:start + count] = np.asarray(_kth(block, columns, k))[:count]
    return found


@functools.partial(jax.jit, static_argnums=2)
def _kth(block: Array, among: Array, k: int) -> Array:
    return -jax.lax.top_k(-squared(block, among), k + 1)[0][:, -1]  # the first of them is the point itself


@jax.jit
def _inside(made: Array, made_radii: Array, real: Array, real_radii: Array) -> tuple[Array, Array]:
    found = squared(made, real)
    return (found <= real_radii).any(1), (found <= made_radii[:, None]).any(0)


@jax.jit
def _counts(made: Array, real: Array, real_radii: Array) -> tuple[Array, Array]:
    found = squared(made, real)
    return (found < real_radii).sum(1), found.min(0)
