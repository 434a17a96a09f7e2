"""Guidance: functions from denoiser to denoiser, freely composed."""

import jax
import jax.numpy as jnp

from jaxdiff.denoiser import Denoiser, transform
from jaxdiff.protocols import Array, Cond

__all__ = ["classifier_free"]


@transform
def classifier_free(denoiser: Denoiser, x: Array, t: Array, cond: Cond, *, scale: Array, null: Cond,
                    batched: bool = True) -> Array:
    """Classifier-free guidance: `D_c + (w - 1)(D_c - D_null)`; w = 1 is off, to the bit.

    Args:
      denoiser: the conditional denoiser.
      x: noisy data [b, ...].
      t: time, () or [b].
      cond: the condition, leaves [b, ...].
      scale: w >= 0; above 1 pushes towards the condition.  Papers that write (1 + w) D_c - w D_null
        mean our w - 1.
      null: the condition that stands for none, with the keys of `cond` and no batch axis.
      batched: both evaluations in one call of twice the batch; False makes two calls, with half the memory.

    Returns:
      x0 [b, ...]; two network evaluations a call.

    Raises:
      ValueError: no condition to be guided by.

    Source: Ho & Salimans 2022 (arXiv:2207.12598), eq. 6, with w shifted by one.
    """
    if cond is None:
        raise ValueError("classifier-free guidance needs a condition, got cond=None")
    empty = jax.tree.map(lambda value: jnp.broadcast_to(jnp.asarray(value), (x.shape[0], *jnp.shape(value))), null)
    if batched:
        both = jax.tree.map(lambda c, n: jnp.concatenate([c, n.astype(c.dtype)]), dict(cond), dict(empty or {}))
        times = jnp.concatenate([t, t]) if jnp.ndim(t) else t
        with_cond, without = jnp.split(denoiser(jnp.concatenate([x, x]), times, both), 2)
    else:
        with_cond, without = denoiser(x, t, cond), denoiser(x, t, empty)
    return with_cond + (scale - 1) * (with_cond - without)
