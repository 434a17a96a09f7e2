"""Guidance by the difference that a condition makes."""

import jax
import jax.numpy as jnp

from jaxdiff.denoiser import Denoiser, transform
from jaxdiff.guidance.numbers import Number, strength
from jaxdiff.protocols import Array, Cond

__all__ = ["classifier_free", "contrast", "negative"]


@transform
def classifier_free(denoiser: Denoiser, x: Array, t: Array, cond: Cond, *, scale: Number, null: Cond,
                    batched: bool = True) -> Array:
    """Classifier-free guidance: `D_c + (w - 1)(D_c - D_null)`; w = 1 is off, to the bit.

    Args:
      denoiser: the conditional denoiser.
      x: noisy data [b, ...].
      t: time, () or [b].
      cond: the condition, leaves [b, ...].
      scale: w >= 0, () or [b]; above 1 pushes towards the condition.  Papers that write
        (1 + w) D_c - w D_null mean our w - 1.
      null: the condition that stands for none, with the keys of `cond` and no batch axis.
      batched: both evaluations in one call of twice the batch; False makes two calls, with half the memory.

    Returns:
      x0 [b, ...]; two network evaluations a call.

    Raises:
      ValueError: no condition to be guided by, or a scale that is no number.

    Source: Ho & Salimans 2022 (arXiv:2207.12598), eq. 6, with w shifted by one.
    """
    with_cond, without = contrast(denoiser, x, t, cond, null, batched)
    return with_cond + (strength(scale, x) - 1) * (with_cond - without)


@transform
def negative(denoiser: Denoiser, x: Array, t: Array, cond: Cond, *, scale: Number, away: Cond,
             batched: bool = True) -> Array:
    """Guidance away from a condition: `D_c + (w - 1)(D_c - D_away)`; w = 1 is off, to the bit.

    `classifier_free` with something unwanted in the place of none: what lies between the two is exaggerated.

    Args:
      denoiser, x, t, cond, batched: as in `classifier_free`.
      scale: w >= 0, () or [b]; above 1 pushes away.
      away: the unwanted condition, with the keys of `cond` and no batch axis.

    Returns:
      x0 [b, ...]; two network evaluations a call.

    Raises:
      ValueError: no condition, or a scale that is no number.

    Source: the "negative prompts" of text-to-image samplers; the negation of Liu et al. 2022 (arXiv:2206.01714).
    """
    wanted, unwanted = contrast(denoiser, x, t, cond, away, batched)
    return wanted + (strength(scale, x) - 1) * (wanted - unwanted)


def contrast(denoiser: Denoiser, x: Array, t: Array, cond: Cond, other: Cond, batched: bool) -> tuple[Array, Array]:
    """Returns D under `cond` and under `other`, a condition without batch axis; both [b, ...].

    Raises:
      ValueError: no condition.
    """
    if cond is None:
        raise ValueError("guidance by conditions needs a condition, got cond=None")
    empty = jax.tree.map(lambda value: jnp.broadcast_to(jnp.asarray(value), (x.shape[0], *jnp.shape(value))), other)
    if not batched:
        return denoiser(x, t, cond), denoiser(x, t, empty)
    both = jax.tree.map(lambda c, n: jnp.concatenate([c, n.astype(c.dtype)]), dict(cond), dict(empty or {}))
    times = jnp.concatenate([t, t]) if jnp.ndim(t) else t
    with_cond, without = jnp.split(denoiser(jnp.concatenate([x, x]), times, both), 2)
    return with_cond, without
