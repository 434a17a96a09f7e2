"""The hub: `D(x, t, cond) = E[x0 | x]`, whatever the network predicts.

A denoiser is a pytree, hence an argument of `jit`: another checkpoint or another guidance
scale compiles nothing.  Score, ε and velocity are views of it; guidance and the like are
functions from denoiser to denoiser.
"""

import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from jaxdiff import parameterization as parameterizations
from jaxdiff import process as processes
from jaxdiff.protocols import Array, Cond, Network, Parameterization, Params, Process, frozen

__all__ = [
    "Denoiser", "check", "clean", "eps", "from_function", "from_network", "predict", "score", "transform", "velocity",
]


@frozen(leaves=("process", "args"))
class Denoiser:
    """`D(x [b, ...], t () or [b], cond) -> x0 [b, ...]`.

    Attributes:
      fn: static and comparable, `(D, x, t, cond, *args) -> x0`.
      process: the process it was trained for; a sampler cannot be handed another.
      args: leaves: parameters, inner denoisers, scales.
    """

    fn: Callable
    process: Process
    args: tuple = ()

    def __call__(self, x: Array, t: Array, cond: Cond = None) -> Array:
        return self.fn(self, x, t, cond, *self.args)


def from_network(network: Network, process: Process, parameterization: Parameterization, params: Params) -> Denoiser:
    """Returns the denoiser of a network with `params`.

    Raises:
      ValueError: the parameterization carries no x0 at the process's noise end.
    """
    check(parameterization, process)
    return Denoiser(_FromNetwork(network, parameterization), process, (params,))


def from_function(function: Callable, process: Process, *args: Any) -> Denoiser:
    """Returns the denoiser `function(x, t, cond, *args) -> x0`; `args` are leaves."""
    return Denoiser(_FromFunction(function), process, args)


def check(parameterization: Parameterization, process: Process) -> None:
    """Refuses a prediction type that carries no x0 where α(1) = 0, as ε and score do not.

    Nor does velocity where α' is infinite there, as in `process.Sigmoid`.
    """
    if not processes.ends_in_noise(process):
        return
    end = jnp.ones(())
    a, b = parameterization.coefficients(0 * end, end, *processes.slopes(process, end))
    size = abs(float(parameterizations.determinant(a, b, 0.0, 1.0)))
    if 0 < size < math.inf:
        return
    kind = getattr(getattr(parameterization, "pair", None), "__name__", type(parameterization).__name__).strip("_")
    what = "carries no x0" if size == 0 else "is infinite"
    right = [name for name in ("v", "velocity", "edm", "x0") if name != kind]
    raise ValueError(f"parameterization {kind!r} {what} at t = 1, where {type(process).__name__} is pure noise; use "
                     f"{', '.join(map(repr, right[:-1]))} or {right[-1]!r}, or a process with alpha(1) > 0")


def predict(network: Network, parameterization: Parameterization, process: Process, params: Params, x: Array,
            t: Array, cond: Cond, *, train: bool = False, rngs: Any = None) -> Array:
    """Returns the network's own prediction y [b, ...] at x [b, ...] and t () or [b], in the dtype of `x`."""
    t = jnp.asarray(t, x.dtype)
    c_in = parameterization.c_in(processes.alpha(process, t), processes.sigma(process, t))
    c_noise = jnp.broadcast_to(parameterization.c_noise(processes.logsnr(process, t)), x.shape[:1])
    y = network.apply(params, processes.expand(c_in, x) * x, c_noise, cond, train=train, rngs=rngs)
    return y.astype(x.dtype)  # before any division by α: a bfloat16 rounding would be blown up by σ/α


def clean(parameterization: Parameterization, process: Process, y: Array, x: Array, t: Array) -> Array:
    """Returns x0 from a prediction y at x and t."""
    t = jnp.asarray(t, x.dtype)
    alpha, sigma = processes.alpha(process, t), processes.sigma(process, t)
    a, b = parameterization.coefficients(alpha, sigma, *processes.slopes(process, t))
    a, b, alpha, sigma = (processes.expand(value, x) for value in (a, b, alpha, sigma))
    return parameterizations.solve(y, x, a, b, alpha, sigma)[0]


@dataclass(frozen=True)
class _FromNetwork:
    network: Network
    parameterization: Parameterization

    def __call__(self, denoiser: Denoiser, x: Array, t: Array, cond: Cond, params: Params) -> Array:
        y = predict(self.network, self.parameterization, denoiser.process, params, x, t, cond)
        return clean(self.parameterization, denoiser.process, y, x, t)


@dataclass(frozen=True)
class _FromFunction:
    function: Callable

    def __call__(self, denoiser: Denoiser, x: Array, t: Array, cond: Cond, *args: Any) -> Array:
        return self.function(x, t, cond, *args)


def eps(denoiser: Denoiser, x: Array, t: Array, cond: Cond = None) -> Array:
    """Returns E[ε | x] = (x - α D)/σ, [b, ...]."""
    alpha, sigma = _levels(denoiser, x, t)
    return (x - alpha * denoiser(x, t, cond)) / sigma


def score(denoiser: Denoiser, x: Array, t: Array, cond: Cond = None) -> Array:
    """Returns ∇ ln p_t(x) = (α D - x)/σ², [b, ...] (Tweedie's formula)."""
    alpha, sigma = _levels(denoiser, x, t)
    return (alpha * denoiser(x, t, cond) - x) / sigma**2


def velocity(denoiser: Denoiser, x: Array, t: Array, cond: Cond = None) -> Array:
    """Returns dx/dt = α' D + σ' ε of the probability-flow ODE, [b, ...]."""
    alpha, sigma = _levels(denoiser, x, t)
    slopes = processes.slopes(denoiser.process, jnp.asarray(t, x.dtype))
    d_alpha, d_sigma = (processes.expand(value, x) for value in slopes)
    x0 = denoiser(x, t, cond)
    return d_alpha * x0 + d_sigma * (x - alpha * x0) / sigma


def _levels(denoiser: Denoiser, x: Array, t: Array) -> tuple[Array, Array]:
    t = jnp.asarray(t, x.dtype)
    return (processes.expand(processes.alpha(denoiser.process, t), x),
            processes.expand(processes.sigma(denoiser.process, t), x))


def transform(function: Callable) -> Callable[..., Denoiser]:
    """Turns `f(D, x, t, cond, *, options) -> x0` into `(D, **options) -> Denoiser`.

    Options that are numbers, arrays or denoisers are leaves; strings, flags and None are static.
    """
    signature = inspect.signature(function)
    options_of = [p for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY]

    @functools.wraps(function)
    def make(denoiser: Denoiser, **options: Any) -> Denoiser:
        bound = inspect.Signature(options_of).bind(**options)
        bound.apply_defaults()
        fixed = {k: value for k, value in bound.arguments.items() if value is None or isinstance(value, str | bool)}
        free = {k: _leaf(value) for k, value in bound.arguments.items() if k not in fixed}
        return Denoiser(_Transformed(function, tuple(sorted(fixed.items()))), denoiser.process, (denoiser, free))

    first = inspect.Parameter("denoiser", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Denoiser)
    read_by_build = inspect.Signature([first, *options_of], return_annotation=Denoiser)
    vars(make)["__signature__"] = read_by_build
    return make


def _leaf(value: Any) -> Any:
    return float(value) if isinstance(value, int) else value  # 2 and 2.0 share a trace


@dataclass(frozen=True)
class _Transformed:
    function: Callable
    fixed: tuple[tuple[str, Any], ...]

    def __call__(self, outer: Denoiser, x: Array, t: Array, cond: Cond, inner: Denoiser, free: dict) -> Array:
        return self.function(inner, x, t, cond, **dict(self.fixed), **free)
