"""How strong guidance is: a number, one for all samples or one for each, traced or not."""

import jax
import jax.numpy as jnp

from jaxdiff import process as processes
from jaxdiff.protocols import Array

__all__ = ["Number", "strength", "visible"]

Number = float | Array  # inside `jit` an option that is a number is traced


def strength(scale: Number, x: Array) -> Array:
    """Returns a scale () or [b] in the shape and dtype in which it multiplies x [b, ...].

    Raises:
      ValueError: not a number.
    """
    if isinstance(scale, str | bool):
        raise ValueError(f"the scale of guidance must be a number, got {scale!r}")
    return processes.expand(jnp.asarray(scale, x.dtype), x)


def visible(*numbers: Number) -> bool:
    """Says whether numbers can be checked: those that are traced cannot."""
    return not any(isinstance(number, jax.core.Tracer) for number in numbers)
