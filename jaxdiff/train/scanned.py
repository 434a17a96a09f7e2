"""Which parameters are stacks: one array for all the blocks of a scan, axis 0 counting them."""

from typing import Any

from jax.extend.core import Literal

__all__ = ["stacks"]


def stacks(jaxpr: Any) -> list[bool]:
    """Returns, for each output of a function that makes parameters, whether it is what a scan has collected.

    Flax initializes scanned blocks by a scan, whose collected outputs are their parameters, whatever their names.

    Args:
      jaxpr: of the function, open or closed.
    """
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    made: dict[Any, bool] = {}
    for equation in jaxpr.eqns:
        found = _collected(equation)
        made |= {variable: stacked for variable, stacked in zip(equation.outvars, found, strict=True) if stacked}
    return [not isinstance(variable, Literal) and variable in made for variable in jaxpr.outvars]


def _collected(equation: Any) -> list[bool]:
    count = len(equation.outvars)
    if equation.primitive.name == "scan":
        body = equation.params["jaxpr"]
        body = getattr(body, "jaxpr", body)  # what is carried has its shape in the body, what is collected an axis more
        return [out.aval.shape != one.aval.shape for out, one in zip(equation.outvars, body.outvars, strict=True)]
    inner = equation.params.get("jaxpr")  # of a function under `jit`
    whole = inner is not None and len(getattr(inner, "jaxpr", inner).outvars) == count
    return stacks(inner) if whole else [False] * count
