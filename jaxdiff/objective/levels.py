"""Noise levels to train at: `(process, u) -> t`, from u uniform in [0, 1).

The objective draws u stratified over the whole global batch (one u and equal offsets), which
lowers the variance of the loss without changing its mean (Kingma et al. 2021, app. I), unless
told to draw every u by itself.

A choice of levels is a law of λ = 2 ln(α/σ) whatever the process, but for `uniform`, which is
one of t.  Its density needs no formula of its own: p(λ) = 1/|dλ/du|, which `stretch` takes the
inverse of.  On the rectified flow ln(σ/α) = logit t, so that what Stable Diffusion 3 says of a
flow's t is said here of σ/α, and means the same noise in every process.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import process as processes
from jaxdiff.protocols import Array, Key, Process

__all__ = ["logit_normal", "lognormal", "logsnr", "mode", "uniform"]


def uniform(process: Process, u: Array) -> Array:
    """Returns t [b], uniform over the process's span."""
    low, high = process.span
    return low + (high - low) * u


def logsnr(process: Process, u: Array) -> Array:
    """Returns t [b] at which λ is uniform between the ends of the process's span."""
    start, end = processes.logsnr(process, np.asarray(process.span))
    return _t_of_level(process, -0.5 * (start + (end - start) * u))


def lognormal(process: Process, u: Array, *, mean: float = -1.2, std: float = 1.2) -> Array:
    """Returns t [b] at which ln(σ/α) is normal, kept within the process's span.

    Args:
      process: the process trained on.
      u: uniform, [b], in [0, 1).
      mean: of ln(σ/α) (P_mean; EDM -1.2, EDM2 -0.4).
      std: of ln(σ/α), > 0 (P_std; EDM 1.2, EDM2 1.0).

    Raises:
      ValueError: std <= 0.

    Source: Karras et al. 2022, table 1.
    """
    if not std > 0:
        raise ValueError(f"normal levels need std > 0, got {std}")
    return _t_of_level(process, mean + std * jax.scipy.special.ndtri(_inside(u)))


def logit_normal(process: Process, u: Array, *, mean: float = 0.0, std: float = 1.0) -> Array:
    """Returns t [b] at which the flow's time has a normal logit: `lognormal` with mean and std of a flow.

    Args:
      process: the process trained on.
      u: uniform, [b], in [0, 1).
      mean: of logit t on the rectified flow, that is of ln(σ/α); positive is noisier.
      std: of it, > 0.

    Raises:
      ValueError: std <= 0.

    Source: Esser et al. 2024 (SD3, arXiv:2403.03206), eq. 19, rf/lognorm(0, 1).
    """
    return lognormal(process, u, mean=mean, std=std)


def mode(process: Process, u: Array, *, scale: float = 1.29) -> Array:
    """Returns t [b] whose density on the rectified flow has its mode in the middle and is positive at the ends.

    f(u) = u - s (sin²(πu/2) - u) is the flow's time; elsewhere the t of the same σ/α = f/(1 - f).

    Args:
      process: the process trained on.
      u: uniform, [b], in [0, 1).
      scale: s in [-1, 2/(π - 2)]; 0 is uniform, positive favours the middle, -1 is the cosine schedule.

    Raises:
      ValueError: a scale at which f would not rise.

    Source: Esser et al. 2024 (SD3), eq. 20, rf/mode(1.29), with 1 - u for u, so that t rises with u.
    """
    if not -1 <= scale <= 2 / (np.pi - 2):
        raise ValueError(f"mode levels need -1 <= scale <= 1.7519, got {scale}")
    time = lambda u: u - scale * (jnp.sin(0.5 * jnp.pi * u) ** 2 - u)
    u = _inside(u)
    return _t_of_level(process, jnp.log(time(u) / time(1 - u)))  # f(1 - u) = 1 - f(u)


def _inside(u: Array) -> Array:
    tiny = jnp.finfo(u.dtype).eps
    return jnp.clip(u, tiny, 1 - tiny)


def _t_of_level(process: Process, level: Array) -> Array:
    """The t at which ln(σ/α) is `level`, kept within the span."""
    return jnp.clip(processes.t_of_logsnr(process, -2 * level), *process.span)


def spread(key: Key, number: int, *, stratified: bool) -> Array:
    """Returns u [number], each uniform in [0, 1): evenly spread from one draw, or drawn one by one."""
    if not stratified:
        return jax.random.uniform(key, (number,))
    return (jax.random.uniform(key) + jnp.arange(number) / number) % 1.0


def stretch(levels: Callable, process: Process, u: Array) -> Array:
    """Returns -dλ/du = 1/p(λ) [b] of the levels drawn: what turns their mean into an integral over λ.

    It is 0 where a level was moved to the end of the span, as it should be: all of λ is counted once.
    """
    level = lambda u: processes.logsnr(process, levels(process, u))
    return -jax.jvp(level, (u,), (jnp.ones_like(u),))[1]
