"""Squared maximum mean discrepancies of features under a kernel.

    MMD² = E k(x, x') + E k(y, y') - 2 E k(x, y)

KID takes k(a, b) = (a·b/d + 1)³ and leaves a point's kernel with itself out, so that it is unbiased and may be below
0.  CMMD takes exp(-|a - b|²/2σ²) of CLIP embeddings of length 1 and keeps it.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.metrics.pairwise import rows_of, tiles
from jaxdiff.protocols import Array

__all__ = ["cmmd", "kid", "polynomial_mmd"]

SCALE = 1000.0  # of CMMD, as published


def kid(made: Any, real: Any, *, subsets: int = 100, size: int = 1000, seed: int = 2020) -> dict[str, float]:
    """Returns the kernel Inception distance, as torch-fidelity draws its subsets.

    `kid_std`, with n in the denominator, is the spread of one subset, not of the mean.

    Args:
      made: features [n, d], n >= size.
      real: features [m, d], m >= size.
      subsets: how many, at least 1.
      size: of a subset, at least 2; each is drawn without replacement, first of `made` and then of `real`.
      seed: of `numpy.random.RandomState`.

    Raises:
      ValueError: a subset larger than a set, no subset, other dimensions, values that are not finite.

    Source: Bińkowski et al. 2018, section 4; float64, where torch-fidelity has float32 products (1e-5 of the mean).
    """
    if subsets < 1 or size < 2:
        raise ValueError(f"KID needs subsets >= 1 and size >= 2, got {subsets} and {size}")
    x, y = rows_of(made, "made"), rows_of(real, "real")
    if size > min(len(x), len(y)):
        raise ValueError(f"KID draws subsets of {size} from {len(x)} made and {len(y)} real features: take a smaller "
                         "size")
    rng = np.random.RandomState(seed)
    values = [polynomial_mmd(x[one], y[other]) for one, other in _draws(rng, len(x), len(y), size, subsets)]
    return {"kid": float(np.mean(values)), "kid_std": float(np.std(values))}


def polynomial_mmd(x: Any, y: Any) -> float:
    """Returns the unbiased squared MMD of x [n, d] and y [m, d] under (a·b/d + 1)³; it may be below 0.

    Raises:
      ValueError: fewer than two rows, other dimensions, values that are not finite.

    Source: Gretton et al. 2012, lemma 6.
    """
    x, y = rows_of(x, "given", least=2).astype(np.float64), rows_of(y, "other", least=2).astype(np.float64)
    _check_dimensions(x, y)
    return float(_within(x) + _within(y) - 2 * _kernel(x, y).mean())


def cmmd(made: Any, real: Any, *, sigma: float = 10.0) -> float:
    """Returns 1000 times the biased squared MMD of embeddings, brought to length 1, under a Gaussian kernel.

    Sums are of k - 1, in which the ones of the three means have gone: what they cost in float32 (1e-4 of a distance
    of 1) is not paid.

    Args:
      made: embeddings [n, d].
      real: embeddings [m, d].
      sigma: width of the kernel, above 0.

    Raises:
      ValueError: sigma, other dimensions, an embedding of length 0, values that are not finite.

    Source: Jayasumana et al. 2024, section 4; CLIP ViT-L/14 at 336 pixels.
    """
    if not sigma > 0:
        raise ValueError(f"sigma must be > 0, got {sigma}")
    x, y = _unit(made, "made"), _unit(real, "real")
    _check_dimensions(x, y)
    mean = lambda a, b: _gaussian_mean(a, b, 1 / (2 * sigma**2))
    return SCALE * (mean(x, x) + mean(y, y) - 2 * mean(x, y))


def _draws(rng: np.random.RandomState, first: int, second: int, size: int,
           subsets: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for _ in range(subsets):
        one = rng.choice(first, size, replace=False)
        yield one, rng.choice(second, size, replace=False)


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    made = a @ b.T / a.shape[1] + 1
    return made * made * made


def _within(x: np.ndarray) -> float:
    kernel = _kernel(x, x)
    return (kernel.sum() - np.trace(kernel)) / (len(x) * (len(x) - 1))


def _unit(features: Any, what: str) -> np.ndarray:
    rows = rows_of(features, what).astype(np.float64)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    if not length.all():
        raise ValueError(f"{int((length == 0).sum())} of {len(rows)} {what} embeddings have length 0")
    return rows / length


def _gaussian_mean(a: np.ndarray, b: np.ndarray, rate: float) -> float:
    """The mean of exp(-rate |a - b|²) - 1 over all pairs of a [n, d] and b [m, d] of length 1."""
    low, columns, total = a.astype(np.float32), jnp.asarray(b, jnp.float32), 0.0
    for _, count, block in tiles(low, len(b)):
        total += np.asarray(_row_sums(block, columns, rate))[:count].sum(dtype=np.float64)
    return total / (len(a) * len(b))


@jax.jit
def _row_sums(a: Array, b: Array, rate: Array) -> Array:
    gap = 2 - 2 * jnp.dot(a, b.T, precision=jax.lax.Precision.HIGHEST)
    return jnp.expm1(-rate * gap).sum(1)


def _check_dimensions(x: np.ndarray, y: np.ndarray) -> None:
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"features of {x.shape[1]} and of {y.shape[1]} dimensions do not compare")
