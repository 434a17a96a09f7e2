"""Noise levels to train at: `(process, u) -> t`, from u uniform in [0, 1).

The objective draws u stratified over the whole global batch (one u and equal offsets), which
lowers the variance of the loss without changing its mean (Kingma et al. 2021, app. I).
"""

import jax
import jax.numpy as jnp

from jaxdiff import process as processes
from jaxdiff.protocols import Array, Process

__all__ = ["lognormal", "uniform"]


def uniform(process: Process, u: Array) -> Array:
    """Returns t [b], uniform over the process's span."""
    low, high = process.span
    return low + (high - low) * u


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
        raise ValueError(f"lognormal levels need std > 0, got {std}")
    tiny = jnp.finfo(u.dtype).eps
    level = mean + std * jax.scipy.special.ndtri(jnp.clip(u, tiny, 1 - tiny))
    return jnp.clip(processes.t_of_logsnr(process, -2 * level), *process.span)
