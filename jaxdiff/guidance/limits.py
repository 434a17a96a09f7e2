"""What limits the guidance before it: to some noise levels, or to the contrast of the unguided prediction.

A guided denoiser is a value, (the denoiser before it, its options), so that its scale can be changed
from outside: both functions here need no more than `switched`.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from jaxdiff import process as processes
from jaxdiff.denoiser import Denoiser, transform
from jaxdiff.guidance.numbers import Number, visible
from jaxdiff.protocols import Array, Cond

__all__ = ["interval", "rescale", "switched"]

OFF = {"scale": 1.0, "power": 0.0}  # what guidance calls its strength, and where that does nothing


@transform
def interval(denoiser: Denoiser, x: Array, t: Array, cond: Cond, *, low: Number = 0.0,
             high: Number = math.inf) -> Array:
    """Guidance at some noise levels alone: the scale is w for low < σ/α <= high, and off elsewhere.

    Levels are those of x/α, hence mean the same for every process and grid; times and shares of
    the steps do not.

    Args:
      denoiser: a guided one; its last guidance is limited, whatever else lies between.
      x: noisy data [b, ...].
      t: time, () or [b]; with [b] each sample is in the interval or not.
      cond: the condition, leaves [b, ...].
      low, high: 0 <= low < high; .28 and 5.42 for Stable Diffusion XL.

    Returns:
      x0 [b, ...]; as many network evaluations as the guided denoiser, outside of the interval too.

    Raises:
      ValueError: no guidance before it, or levels out of order (where they are not traced).

    Source: Kynkäänniemi et al. 2024 (arXiv:2404.07724), sec. 3.
    """
    if visible(low, high) and not 0 <= low < high:
        raise ValueError(f"interval needs noise levels 0 <= low < high, got {low} and {high}")
    level = processes.ratio(denoiser.process, jnp.asarray(t, x.dtype))
    return switched(denoiser, (low < level) & (level <= high))(x, t, cond)


@transform
def rescale(denoiser: Denoiser, x: Array, t: Array, cond: Cond, *, phi: Number = 0.7) -> Array:
    """Takes back the contrast that guidance adds: `D_w (φ std(D_1)/std(D_w) + 1 - φ)`.

    Standard deviations are those of a sample's values, over all axes but the first, in float32.

    Args:
      denoiser: a guided one; D_1 is itself with its last guidance off.
      x: noisy data [b, ...].
      t: time, () or [b].
      cond: the condition, leaves [b, ...].
      phi: 0 (nothing) to 1 (the contrast of D_1).

    Returns:
      x0 [b, ...]; as many network evaluations as the guided denoiser.

    Raises:
      ValueError: no guidance before it, or phi out of range (where it is not traced).

    Source: Lin et al. 2023 (arXiv:2305.08891), sec. 3.4, algorithm 2: there of v, here of x0.
    """
    if visible(phi) and not 0 <= phi <= 1:
        raise ValueError(f"rescale needs phi in [0, 1], got {phi}")
    # Mapped over the switch alone: the networks do not depend on it and are evaluated once.
    guided, plain = jax.vmap(lambda on: switched(denoiser, on)(x, t, cond))(jnp.array([True, False]))
    before, after = _variance(plain), _variance(guided)
    flat = after == 0
    ratio = jnp.sqrt(jnp.where(flat, 1.0, before / jnp.where(flat, 1.0, after))).astype(x.dtype)
    return guided + phi * (ratio - 1) * guided


def switched(denoiser: Denoiser, on: Array) -> Denoiser:
    """Returns a guided denoiser whose last guidance acts where `on`, () or [b], says so.

    Raises:
      ValueError: nothing guides it.
    """
    if len(denoiser.args) != 2 or not isinstance(denoiser.args[0], Denoiser):
        raise ValueError("interval and rescale limit the guidance before them in a chain, and there is none; put "
                         "one such as 'classifier_free' before them (a config leaves it out at scale 1)")
    inner, options = denoiser.args
    named = [name for name in OFF if name in options]
    if not named:
        return dataclasses.replace(denoiser, args=(switched(inner, on), options))
    return dataclasses.replace(denoiser, args=(inner, options | {
        name: jnp.where(on, options[name], OFF[name]) for name in named}))


def _variance(x0: Array) -> Array:
    """The variance of each sample's values, [b, 1, ...]."""
    exact = x0.astype(jnp.promote_types(x0.dtype, jnp.float32))
    return exact.var(axis=tuple(range(1, x0.ndim)), keepdims=True)
