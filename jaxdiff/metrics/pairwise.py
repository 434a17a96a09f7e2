"""Distances between all pairs of two sets, block by block: 50,000 by 50,000 of them never lie in memory.

    |a - b|² = |a|² + |b|² - 2 a·b

in float32 at the highest precision of products, of features whose common mean is taken away first.  What rounding
leaves of the distance of equal rows is set to 0 where it is below `SNAP` of |a|² + |b|²; `nearest` measures its finds
again in float64.
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.protocols import Array

__all__ = ["Nearest", "centred", "nearest", "nearest_others", "rows_of", "squared", "tiles"]

CELLS = 2**25  # of the matrix of a block: 128 MiB
SNAP = 1e-6
CANDIDATES = 5  # neighbours that are measured again


def rows_of(features: Any, what: str, *, least: int = 1) -> np.ndarray:
    """Returns features [n, ...] as [n, d] on the host.

    Args:
      features: of any real dtype.
      what: its name in error messages.
      least: number of rows that are needed.

    Raises:
      ValueError: too few rows, or values that are not finite.
    """
    rows = np.asarray(features)
    if rows.ndim < 1 or len(rows) < least:
        raise ValueError(f"{what} features need at least {least} rows [n, d], got shape {rows.shape}")
    rows = rows.reshape(len(rows), -1)
    broken = len(rows) - int(np.isfinite(rows).all(1).sum())
    if broken:
        raise ValueError(f"{broken} of {len(rows)} rows of {what} features are not finite")
    return rows


def centred(*sets: np.ndarray) -> list[np.ndarray]:
    """Returns float32 sets [n, d] less the mean of the first one: distances stay, rounding errors shrink.

    Raises:
      ValueError: other dimensions.
    """
    if len({rows.shape[1] for rows in sets}) > 1:
        dimensions = " and of ".join(str(rows.shape[1]) for rows in sets)
        raise ValueError(f"features of {dimensions} dimensions do not compare")
    mean = sets[0].mean(0, dtype=np.float64)
    return [(rows - mean).astype(np.float32) for rows in sets]


def squared(a: Array, b: Array) -> Array:
    """Returns squared distances [n, m] of a [n, d] and b [m, d], float32, at least 0; traceable."""
    size = (a * a).sum(1)[:, None] + (b * b).sum(1)
    found = size - 2 * jnp.dot(a, b.T, precision=jax.lax.Precision.HIGHEST)
    return jnp.where(found > SNAP * size, found, 0)


def tiles(rows: np.ndarray, width: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yields (start, count, block [b, d]) of equal size; the last one repeats the last row where it is short.

    Args:
      rows: [n, d].
      width: how many columns the block's matrix will have.
    """
    b = max(1, min(len(rows), CELLS // width))
    for start in range(0, len(rows), b):
        part = rows[start:start + b]
        yield start, len(part), np.concatenate([part, np.repeat(part[-1:], b - len(part), 0)])


class Nearest(NamedTuple):
    """The nearest neighbour of each row.

    Attributes:
      distances: [n] float64, Euclidean.
      indices: [n] of the neighbours.
    """

    distances: np.ndarray
    indices: np.ndarray


def nearest(queries: Any, among: Any) -> Nearest:
    """Returns the nearest of `among` [m, d] to each of `queries` [n, d]; equally near ones: the first.

    Raises:
      ValueError: no row on a side, other dimensions, values that are not finite.
    """
    return _nearest(rows_of(queries, "given"), rows_of(among, "other"), itself=False)


def nearest_others(rows: Any) -> Nearest:
    """Returns the nearest other row of the same set [n, d], n >= 2.

    Raises:
      ValueError: fewer than two rows, or values that are not finite.
    """
    rows = rows_of(rows, "given", least=2)
    return _nearest(rows, rows, itself=True)


def _nearest(rows: np.ndarray, among: np.ndarray, *, itself: bool) -> Nearest:
    columns, low = centred(among, rows)
    placed, k = jnp.asarray(columns), min(CANDIDATES, len(among))
    distance, index = np.zeros(len(rows)), np.zeros(len(rows), np.int64)
    for start, count, block in tiles(low, len(among)):
        here = slice(start, start + count)
        found = np.sort(np.asarray(_candidates(block, placed, k))[:count], 1)  # [count, k]
        gaps = np.stack([_distance(rows[here], among[found[:, i]]) for i in range(k)], 1)
        if itself:
            gaps = np.where(found == np.arange(start, start + count)[:, None], np.inf, gaps)
        best = gaps.argmin(1)[:, None]
        distance[here] = np.take_along_axis(gaps, best, 1)[:, 0]
        index[here] = np.take_along_axis(found, best, 1)[:, 0]
    return Nearest(distance, index)


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.linalg.norm(a.astype(np.float64) - b.astype(np.float64), axis=1)


@functools.partial(jax.jit, static_argnums=2)
def _candidates(block: Array, among: Array, k: int) -> Array:
    return jax.lax.top_k(-squared(block, among), k)[1]
