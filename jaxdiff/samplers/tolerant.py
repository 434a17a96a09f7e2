"""The probability-flow ODE with steps that are chosen by their error, for each sample by itself (diffrax).

In the angle θ = atan2(σ, α) and z = x/√(α² + σ²) it is dz/dθ = (cos θ z - D)/sin θ for every process, and on the
clock w = ln tan(θ/2), which is 0 in pure noise and falls as ln σ towards the data,

    dz/dw = cos θ z - D,      cos θ = -tanh w,  σ/α = -1/sinh w

without a quotient: finite at both ends, and a rounding of D is nowhere made larger.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import process as processes
from jaxdiff import walk as walks
from jaxdiff.denoiser import Denoiser
from jaxdiff.protocols import Array, Cond, Key
from jaxdiff.times import Times

__all__ = ["adaptive"]

# In diffrax, and what a step costs, the first evaluation of the next one included.
METHODS = {"tsit5": ("Tsit5", 6), "dopri5": ("Dopri5", 6), "bosh3": ("Bosh3", 3), "dopri8": ("Dopri8", 13)}


def adaptive(denoiser: Denoiser, x: Array, times: Times, key: Key | None = None, *, cond: Cond = None,
             walk: Callable = walks.walk, method: str = "tsit5", rtol: float = 1e-3, atol: float = 1e-3,
             max_steps: int = 4096) -> tuple[Array, dict]:
    """An embedded Runge-Kutta method with tolerances.

    Args:
      denoiser: D(x, t, cond).
      x: [b, ...] at the level of the first time.
      times: only its ends count: it is integrated to the last time that is not 0, from where a last 0 costs one
        evaluation, as in every sampler.
      key: not used.
      cond: leaves [b, ...].
      walk: makes that last step; this sampler has a loop of its own before it, which `observe` does not see.
      method: "tsit5", "dopri5", "bosh3" or "dopri8".
      rtol, atol: tolerances of a step in z, of which one coordinate has unit scale; > 0.
      max_steps: steps, taken and refused, of one sample; beyond it the sample is NaN.

    Returns:
      x [b, ...] and `{"nfe": [b], "seen": ...}`.  The samples of a batch are integrated together until the slowest
      is done, but each has its own steps, count and result.

    Raises:
      ValueError: an unknown method, or tolerances or max_steps that are not > 0.

    Source: Song et al. 2021 (arXiv:2011.13456), app. D.2; Kidger 2021 for the solvers.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if not (rtol > 0 and atol > 0 and max_steps > 0):
        raise ValueError(f"rtol, atol and max_steps must be > 0, got {rtol}, {atol} and {max_steps}")
    last = times.steps - (times.t[-1] == 0)
    if times.t[0] == 0 or last == 0:  # out of the data as every sampler leaves it, or straight into them
        head = Times(times.t[:2])
        x, aux = walk(_never, denoiser, x, head, None, cond=cond)
        return (x, aux) if times.steps == 1 else _rest(aux, adaptive(
            denoiser, x, Times(times.t[1:]), cond=cond, walk=walk, method=method, rtol=rtol, atol=atol,
            max_steps=max_steps))
    solve = functools.partial(_solve, denoiser, (times.t[0], times.t[last]), METHODS[method], rtol, atol, max_steps)
    x, nfe = jax.vmap(solve)(x, cond)
    seen = None
    if last < times.steps:
        x, aux = walk(_never, denoiser, x, Times(times.t[last:]), None, cond=cond)
        nfe, seen = nfe + aux["nfe"], aux["seen"]
    return x, {"nfe": nfe, "seen": seen}


def _rest(aux: dict, made: tuple[Array, dict]) -> tuple[Array, dict]:
    x, more = made
    return x, {**more, "nfe": more["nfe"] + aux["nfe"]}


def _never(denoiser: Callable, x: Array, row: walks.Row, carry: tuple, noise: Callable) -> tuple:
    raise AssertionError("a step of one interval to the data is walk's own")


def _solve(denoiser: Denoiser, ends: tuple[float, float], method: tuple, rtol: float, atol: float, max_steps: int,
           x: Array, cond: Cond) -> tuple[Array, Array]:
    """One sample, x [...], from the first to the second time."""
    import diffrax  # a third of a second that only this sampler needs

    name, cost = method
    alpha, sigma = (level(denoiser.process, np.asarray(ends)) for level in (processes.alpha, processes.sigma))
    radius = (alpha**2 + sigma**2) ** 0.5
    start, stop = (jnp.asarray(w, x.dtype) for w in alpha.__array_namespace__().log(sigma / (radius + alpha)))
    batched = None if cond is None else jax.tree.map(lambda leaf: leaf[None], dict(cond))

    def slope(w: Array, z: Array, args: Any) -> Array:
        del args
        t, radius = _place(denoiser.process, w)
        return -jnp.tanh(w) * z - denoiser((radius * z)[None], t, batched)[0]

    out = diffrax.diffeqsolve(
        diffrax.ODETerm(slope), getattr(diffrax, name)(), start, stop, dt0=0.05 * (stop - start),
        y0=x / radius[0].astype(x.dtype), stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
        max_steps=max_steps, throw=False)
    z = jnp.where(out.result != diffrax.RESULTS.successful, jnp.nan, out.ys[0])
    return radius[1].astype(x.dtype) * z, 1 + cost * out.stats["num_steps"]


def _place(process: Any, w: Array) -> tuple[Array, Array]:
    """(t, √(α² + σ²)) at the clock w."""
    inverse = jnp.maximum(jnp.sinh(-w), jnp.finfo(w.dtype).tiny)  # α/σ, 0 in pure noise
    t = processes.t_of_logsnr(process, 2 * jnp.log(inverse))
    alpha, sigma = processes.alpha(process, t), processes.sigma(process, t)
    return t, jnp.sqrt(alpha**2 + sigma**2)
