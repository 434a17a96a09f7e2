"""Learning rates that optax has not."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

__all__ = ["inverse_root"]


def inverse_root(*, peak: float, rise: int, hold: int) -> Callable[[Any], Any]:
    """Returns EDM2's rate, `peak min(k/rise, 1) / √max(k/hold, 1)` at update k.

    Source: Karras et al. 2024, eq. 67, with the rise of its appendix.
    """
    return lambda count: peak * jnp.minimum(count / rise, 1.0) / jnp.sqrt(jnp.maximum(count / hold, 1.0))
