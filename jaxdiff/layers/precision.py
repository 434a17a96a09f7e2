"""Where bfloat16 would not do: statistics, angles, logits and outputs are float32, or wider in a float64 network."""

import jax.numpy as jnp

from jaxdiff.protocols import Array

__all__ = ["DTYPES", "wide"]

DTYPES = ("float32", "bfloat16", "float64")  # what a network may compute in; the last for comparisons, under x64


def wide(x: Array) -> Array:
    """Returns x as float32, or in its own type where that has more digits."""
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
