"""Multiply-adds of a function, counted in its jaxpr: nothing is compiled or run.

A product of matrices [m, k] [k, n] has m k n of them; a convolution has, for each number it writes, one for every tap
and input channel.  A scan's body counts as often as it runs, where XLA's own count has it once.  Everything else
(norms, softmax, sums) is left out, as in the papers, whose "Gflops" are multiply-adds; one is two FLOPs.
"""

import math
from collections.abc import Callable
from typing import Any

import jax

__all__ = ["CHIPS", "count", "peak"]

# bfloat16 FLOP/s of a chip: docs.cloud.google.com/tpu/docs/v3, /v4, /v5e, /v5p, /v6e, /tpu7x (November 2026).
CHIPS = {"v3": 123e12, "v4": 275e12, "v5e": 197e12, "v5p": 459e12, "v6e": 918e12, "tpu7x": 2307e12}
# Of one JAX device, by the beginning of its `device_kind`; of GPUs the vendor's figures, without sparsity.
PEAKS = {
    "TPU v3": CHIPS["v3"] / 2, "TPU v4": CHIPS["v4"], "TPU v5 lite": CHIPS["v5e"], "TPU v5e": CHIPS["v5e"],
    "TPU v5p": CHIPS["v5p"], "TPU v5": CHIPS["v5p"], "TPU v6 lite": CHIPS["v6e"], "TPU v6e": CHIPS["v6e"],
    "TPU7x": CHIPS["tpu7x"] / 2, "NVIDIA A100": 312e12, "NVIDIA H100": 989e12, "NVIDIA H200": 989e12,
}


def peak(device_kind: str) -> float | None:
    """Returns the most FLOP/s of bfloat16 matrices of one device; None of a kind that is not known, such as a CPU."""
    for kind, most in PEAKS.items():  # "TPU v5 lite" stands before "TPU v5"
        if device_kind.startswith(kind):
            return most
    return None


def count(f: Callable[..., Any], *shapes: Any) -> int:
    """Returns the number of multiply-adds of `f(*shapes)`.

    Of a `cond` it takes the dearest branch, of a `while`, whose length nobody knows, one turn; a function of a
    `shard_map` counts once, for one device.

    Args:
      f: a function of arrays.
      shapes: trees of arrays or of `jax.ShapeDtypeStruct`.

    Source: Peebles & Xie 2023 (DiT), table 1, and Karras et al. 2024 (EDM2), table 2, count so.
    """
    return _of_jaxpr(jax.make_jaxpr(f)(*shapes).jaxpr)


def _of_jaxpr(jaxpr: Any) -> int:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    sizes = [variable.aval for variable in (*equation.invars[:2], *equation.outvars)]
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        return sizes[2].size * math.prod(sizes[0].shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel, outputs = sizes[1], params["dimension_numbers"].rhs_spec[0]
        written = sizes[2].size // math.prod(params["lhs_dilation"])  # zeros between the samples are no work
        return written * kernel.size // kernel.shape[outputs]
    inside = [_of_jaxpr(getattr(value, "jaxpr", value)) for value in jax.tree.leaves(params, is_leaf=_is_jaxpr)
              if _is_jaxpr(value)]
    if name == "cond":
        return max(inside)
    times = {"scan": lambda: params["length"], "pallas_call": lambda: math.prod(params["grid_mapping"].grid)}
    return sum(inside) * times.get(name, lambda: 1)()


def _is_jaxpr(value: Any) -> bool:
    return hasattr(getattr(value, "jaxpr", value), "eqns")
