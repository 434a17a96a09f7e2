"""Predictions kept to the range of the data."""

import jax.numpy as jnp

from jaxdiff.denoiser import Denoiser, transform
from jaxdiff.guidance.numbers import Number, visible
from jaxdiff.protocols import Array, Cond

__all__ = ["dynamic_threshold", "static_threshold"]


@transform
def static_threshold(denoiser: Denoiser, x: Array, t: Array, cond: Cond, *, bound: Number = 1.0) -> Array:
    """Clips the prediction: `min(max(D, -c), c)`.

    Args:
      denoiser: any.
      x: noisy data [b, ...].
      t: time, () or [b].
      cond: the condition, leaves [b, ...].
      bound: c > 0, the largest value of the data.

    Returns:
      x0 [b, ...] in [-c, c].

    Raises:
      ValueError: a bound that is not positive (where it is not traced).

    Source: Saharia et al. 2022 (Imagen, arXiv:2205.11487), sec. 2.3.
    """
    _check(bound)
    return jnp.clip(denoiser(x, t, cond), -bound, bound)


@transform
def dynamic_threshold(denoiser: Denoiser, x: Array, t: Array, cond: Cond, *, quantile: Number = 0.995,
                      bound: Number = 1.0) -> Array:
    """Clips each sample at a quantile of its own magnitudes and shrinks it to the range of the data.

    `min(max(D, -s), s) c/s` with s the quantile of |D| within the sample, but never below c: a sample
    within the range stays as it is.

    Args:
      denoiser: any.
      x: noisy data [b, ...].
      t: time, () or [b].
      cond: the condition, leaves [b, ...].
      quantile: a share in (0, 1]; .995 is the 99.5th percentile.
      bound: c > 0, the largest value of the data.

    Returns:
      x0 [b, ...] in [-c, c].

    Raises:
      ValueError: a quantile or a bound out of range (where it is not traced).

    Source: Saharia et al. 2022 (Imagen, arXiv:2205.11487), sec. 2.3; c = 1 there.
    """
    _check(bound)
    if visible(quantile) and not 0 < quantile <= 1:
        raise ValueError(f"quantile must be a share in (0, 1], got {quantile}")
    x0 = denoiser(x, t, cond)
    most = jnp.quantile(jnp.abs(x0), quantile, axis=tuple(range(1, x0.ndim)), keepdims=True)
    most = jnp.maximum(most, bound)
    return jnp.clip(x0, -most, most) / most * bound


def _check(bound: Number) -> None:
    if visible(bound) and not bound > 0:
        raise ValueError(f"the bound of a threshold must be > 0, got {bound}")
