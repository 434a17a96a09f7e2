"""Exponential moving averages of the parameters, named by their recipe.

    decay_0.999     d = .999
    warmup_0.9999   d = min(.9999, (1 + k)/(10 + k)) at update k = 1, 2, ...
    power_0.05      d = (1 - 1/k)^(γ + 1), of relative length .05 (Karras et al. 2024, eq. 1-3)
    converted       d = 1: weights from elsewhere stay as they came

Written `e + (1 - d)(p - e)`, which keeps constants to the bit, in float32 whatever the network's dtype.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.build import nearest
from jaxdiff.protocols import Array, Params

__all__ = ["CONVERTED", "advance", "decay_of", "length_of", "power_exponent"]

CONVERTED = "converted"


def decay_of(name: str) -> Callable[[Array], Array]:
    """Returns `k -> d` of the average `name`.

    Raises:
      ValueError: the name is no recipe, or its number is out of range.
    """
    if name == CONVERTED:
        return _decay(1.0)
    kind, _, number = name.partition("_")
    if kind not in _KINDS:
        raise ValueError(f"unknown average {name!r}{nearest(kind, _KINDS)} (such as 'decay_0.999')")
    try:
        value = float(number)
    except ValueError:
        raise ValueError(f"average {name!r} needs a number after {kind}_, such as '{kind}_0.999'") from None
    if not 0 < value < 1:
        raise ValueError(f"average {name!r}: its number must lie between 0 and 1")
    return _KINDS[kind](value)


def advance(name: str, ema: Params, params: Params, update: Array) -> Params:
    """Returns the average `name` after the parameters of update k = 1, 2, ...."""
    keep = decay_of(name)(update)
    return jax.tree.map(lambda e, p: e + (1 - keep) * (p - e), ema, params)


def length_of(name: str) -> float | None:
    """Returns the length of a power average, 0.05 of `power_0.05`; None of every other kind."""
    return float(name.partition("_")[2]) if name.startswith("power_") else None


def power_exponent(length: float) -> float:
    """Returns γ of the power-function average whose relative standard deviation is `length` (0 to 0.28)."""
    roots = np.roots([1, 7, 16 - length**-2, 12 - length**-2])
    return float(np.real(roots).max())


def _decay(value: float) -> Callable[[Array], Array]:
    return lambda k: jnp.float32(value)


def _warmup(value: float) -> Callable[[Array], Array]:
    return lambda k: jnp.minimum(value, (1.0 + k) / (10.0 + k))


def _power(value: float) -> Callable[[Array], Array]:
    gamma = power_exponent(value)
    if not gamma > -1:
        raise ValueError(f"average 'power_{value}' is longer than any power function can be (0.28)")
    return lambda k: (1.0 - 1.0 / k) ** (gamma + 1)


_KINDS = {"decay": _decay, "warmup": _warmup, "power": _power}
