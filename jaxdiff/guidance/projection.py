"""Guidance without the part that only makes the prediction larger."""

import math

import jax.numpy as jnp

from jaxdiff.denoiser import Denoiser, transform
from jaxdiff.guidance.conditions import contrast
from jaxdiff.guidance.numbers import Number, strength, visible
from jaxdiff.protocols import Array, Cond

__all__ = ["projected"]


@transform
def projected(denoiser: Denoiser, x: Array, t: Array, cond: Cond, *, scale: Number, null: Cond, eta: Number = 0.0,
              radius: Number = math.inf, batched: bool = True) -> Array:
    """Adaptive projected guidance: `D_c + (w - 1)(Δ⊥ + η Δ∥)`; w = 1 is off, to the bit.

    Δ = D_c - D_null, shortened to the radius r where it is longer, is split into its part along D_c
    and the rest, Δ∥ = D_c <Δ, D_c>/<D_c, D_c>, sample by sample.  The part along D_c is what oversaturates;
    η = 1 and r = ∞ is `classifier_free`.  The paper's momentum, a state between steps, is left out.

    Args:
      denoiser, x, t, cond, null, batched: as in `classifier_free`.
      scale: w >= 0, () or [b]; far larger ones do no harm here.
      eta: share of the parallel part that is kept, usually 0 to 1.
      radius: r > 0, the longest Δ of a sample; 2.5 to 15 in the paper, for latents.

    Returns:
      x0 [b, ...]; two network evaluations a call.

    Raises:
      ValueError: no condition, a scale that is no number, or a radius that is not positive (where it is not traced).

    Source: Sadat et al. 2024 (arXiv:2410.02416), algorithm 1 without momentum.
    """
    if visible(radius) and not radius > 0:
        raise ValueError(f"the radius of projected guidance must be > 0, got {radius}")
    with_cond, without = contrast(denoiser, x, t, cond, null, batched)
    push = with_cond - without
    tiny = jnp.finfo(x.dtype).tiny
    push = push * jnp.minimum(1.0, radius / jnp.sqrt(jnp.maximum(_dot(push, push), tiny)))
    parallel = with_cond * (_dot(push, with_cond) / jnp.maximum(_dot(with_cond, with_cond), tiny))
    return with_cond + (strength(scale, x) - 1) * (push - (1 - eta) * parallel)


def _dot(a: Array, b: Array) -> Array:
    """The inner product of each sample, [b, 1, ...], in float32 at least."""
    kind = jnp.promote_types(a.dtype, jnp.float32)
    return (a.astype(kind) * b.astype(kind)).sum(tuple(range(1, a.ndim)), keepdims=True).astype(a.dtype)
