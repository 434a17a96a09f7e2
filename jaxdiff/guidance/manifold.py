"""Guidance whose steps add back the noise of the unconditional prediction.

A first-order step takes what a denoiser says, X, to `x_s = α_s X + σ_s (x - α_t X)/σ_t`.  CFG++ wants

    x_s = α_s D_w + σ_s ε_null,    D_w = D_null + w (D_c - D_null),    ε_null = (x - α_t D_null)/σ_t

and the X that gives it is

    X = D_null + w/(1 - q) (D_c - D_null),    q = (σ_s/α_s)/(σ_t/α_t):

classifier-free guidance with a scale that grows as steps get shorter.
"""

import jax.numpy as jnp
import numpy as np

from jaxdiff import process as processes
from jaxdiff.denoiser import Denoiser, transform
from jaxdiff.guidance.conditions import contrast
from jaxdiff.guidance.numbers import Number, strength, visible
from jaxdiff.protocols import Array, Cond
from jaxdiff.times import Times

__all__ = ["cfg_plus_plus"]


@transform
def cfg_plus_plus(denoiser: Denoiser, x: Array, t: Array, cond: Cond, *, weight: Number, null: Cond, times: Times,
                  batched: bool = True) -> Array:
    """CFG++: guidance towards D_w, with the noise of the unconditional prediction added back.

    For first-order samplers alone, `euler` without churn and `ddim` with eta = 0, on the grid `times`:
    one call a step, at its first time.  What it returns is no estimate of x0 but what makes such a
    step CFG++'s; put thresholds before it in a chain, not after.

    Args:
      denoiser, x, cond, null, batched: as in `classifier_free`.
      t: a time of the grid but its last, () or [b].  A traced one that is not is taken for the nearest.
      weight: w in [0, 1], () or [b]: 0 is the unconditional sampler, 1 takes D_c and keeps the
        unconditional noise.  No `scale`: nowhere is it the conditional denoiser.
      times: the grid of the sampler.

    Returns:
      X [b, ...]; two network evaluations a call.

    Raises:
      ValueError: no condition, a weight that is no number, or a time that is not in the grid (where it is not traced).

    Source: Chung et al. 2024 (arXiv:2406.08070), algorithm 2.
    """
    starts = np.asarray(times.t[:-1])
    if visible(t) and not np.isclose(np.asarray(t, np.float64)[..., None], starts, rtol=1e-5, atol=0).any(-1).all():
        raise ValueError(f"cfg_plus_plus is bound to its grid: no step of it starts at t = {t}; give it the times of "
                         "the sampler, and a sampler that asks at those alone (euler, ddim)")
    step = jnp.abs(jnp.asarray(t, x.dtype)[..., None] - jnp.asarray(starts, x.dtype)).argmin(-1)
    gain = jnp.asarray(_gains(denoiser, times), x.dtype)[step]
    with_cond, without = contrast(denoiser, x, t, cond, null, batched)
    return without + strength(weight, x) * processes.expand(gain, x) * (with_cond - without)


def _gains(denoiser: Denoiser, times: Times) -> Array:
    """1/(1 - q) of each step; 1 for one out of pure noise or into the data."""
    t = np.asarray(times.t)
    level = processes.ratio(denoiser.process, t)
    xp = level.__array_namespace__()
    level = xp.where(t == 0, 0.0, level)
    with np.errstate(divide="ignore"):
        return 1 / (1 - level[1:] / level[:-1])
