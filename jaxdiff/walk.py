"""The one scan over a grid, on which every sampler with fixed steps stands.

`walk` makes the rows (t, s, α and σ at both ends, and the sampler's coefficients) in float64
on the host, calls `step` for each and ends.  The steps that touch α = 0 or σ = 0 it makes itself,
alike for all samplers, because no formula in σ/α or its logarithm holds there.  They are the
first-order one,

    x_s = α_s D + (σ_s/σ_t)(x - α_t D),

which for s = 0 is the denoised estimate, exactly: no sample keeps a trace of noise.  From pure
noise it has the law of any stochastic step too, since there x is independent of x0.  On a rising
grid, which encodes, the way out of the data is x_s = α_s x, since there ε̂ = -σ ∇ln p vanishes.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import process as processes
from jaxdiff.denoiser import Denoiser
from jaxdiff.protocols import Array, Cond, Key
from jaxdiff.times import Times

__all__ = ["Row", "gaussian", "walk"]


class Row(NamedTuple):
    """One interval, from t to s; inside a step all are scalars of the dtype of x.

    `c` holds what the sampler's `coefficients` returned for it, `i` its place in the grid.
    """

    i: Array
    t: Array
    s: Array
    alpha_t: Array
    sigma_t: Array
    alpha_s: Array
    sigma_s: Array
    c: Any = ()


def gaussian(key: Key | None, index: tuple[Array, int], mean: Array, std: Array) -> Array:
    """Draws `mean + std ε`, from a key folded with the step and the number of the draw within it.

    Args:
      key: one key, or one a sample, [b]: then sample i depends on its own key alone.
      index: (step, draw within the step).
      mean: [b, ...].
      std: broadcasts against `mean`.

    Raises:
      ValueError: the key is None, or not a typed one.
    """
    if key is None:
        raise ValueError("this sampler draws noise: give it a key")
    if not jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise ValueError(f"a key is a typed one, jax.random.key(seed), got {key.dtype}{list(key.shape)}")

    def unit(key: Key, like: Array) -> Array:
        step, number = index
        return jax.random.normal(jax.random.fold_in(jax.random.fold_in(key, step), number), like.shape, like.dtype)

    return mean + std * (jax.vmap(unit)(key, mean) if key.ndim else unit(key, mean))


def walk(step: Callable, denoiser: Denoiser, x: Array, times: Times, key: Key | None, *, cond: Cond = None,
         coefficients: Callable | None = None, carry: Any = (), evals: int | Callable = 1,
         leaves_noise: bool = False, draw: Callable = gaussian, observe: Callable | None = None,
         densities: bool = False) -> tuple[Array, dict]:
    """Moves x from `times.t[0]` to `times.t[-1]`.

    Args:
      step: `(D, x, row, carry, noise) -> (x, carry, x0)`, with `D(x, t)` bound to `cond` and
        `noise(mean, std) -> x`.
      denoiser: also names the process.
      x: [b, ...], at the level of the first time.
      times: the grid.
      key: for `draw`; None for a sampler that draws nothing.
      cond: leaves [b, ...].
      coefficients: `rows -> pytree of [n, ...]`, from rows of numpy float64 [n], those steps that `step`
        makes; of JAX arrays where the process is being learned, so written with `rows.t`'s `__array_namespace__`.
      carry: what `step` hands on, initially.
      evals: denoiser calls of one `step`, or `n -> calls` of the first n where they differ.
      leaves_noise: `step` holds at α = 0 too, and makes that step itself.
      draw: `(key, (i, number), mean, std) -> x`; a test replaces it to get the exact law, a policy
        gradient to replay a path (`densities`).
      observe: `(row, x, x0) -> pytree`, x after the step; its results come back stacked over the steps.
      densities: also return the log-density of what each step drew, a sum over all but the first axis; what was
        drawn is a constant of it, as policy gradients want (Black et al. 2023, eq. 6).

    Returns:
      x and `{"nfe": denoiser calls, "seen": records or None}`, with `densities` also
      `"log_density"` [steps, b], 0 where a step draws nothing.
    """
    rows = _rows(denoiser.process, times)
    known = isinstance(rows.alpha_t, np.ndarray)  # otherwise the process is being learned, and its α never 0
    last = times.steps - int(times.t[-1] == 0 or (known and rows.alpha_s[-1] == 0))
    first = min(int((known and rows.alpha_t[0] == 0 and not leaves_noise) or times.t[0] == 0), last)
    bound = lambda x, t: denoiser(x, t, cond)
    seen: list = []
    none = [jnp.zeros((1, x.shape[0]), x.dtype)] if densities else []
    logs = [*none] * first
    if first:
        x, record = _edge(bound, x, _cast(_take(rows, 0), x.dtype), observe, times.t[0] == 0)
        seen.append(record)
    log: Any
    if first < last:
        middle = _take(rows, slice(first, last))
        middle = middle._replace(c=() if coefficients is None else coefficients(middle))

        def body(state: tuple, row: Row) -> tuple:
            x, x0, carry, log = _stepped(step, bound, state, row, key, draw, densities)
            return (x, carry), (observe(row, x, x0) if observe else None, log)

        (x, carry), (record, log) = jax.lax.scan(body, (x, carry), _cast(middle, x.dtype))
        seen.append(record)
        logs.append(log)
    if last < times.steps:
        logs.extend(none)
        x, record = _edge(bound, x, _cast(_take(rows, last), x.dtype), observe, times.t[last] == 0)
        seen.append(record)
    made = evals(last - first) if callable(evals) else evals * (last - first)
    nfe = first * (times.t[0] != 0) + made + (times.steps - last) * (times.t[last] != 0)
    aux = {"nfe": nfe, "seen": jax.tree.map(lambda *parts: jnp.concatenate(parts), *seen) if observe else None}
    return x, {**aux, "log_density": jnp.concatenate(logs)} if densities else aux


def _rows(process: Any, times: Times) -> Row:
    t = np.asarray(times.t, np.float64)
    alpha, sigma = (_known(level(process, t)) for level in (processes.alpha, processes.sigma))
    xp = alpha.__array_namespace__()
    alpha, sigma = xp.where(t == 0, 1.0, alpha), xp.where(t == 0, 0.0, sigma)  # in a grid 0 means the data
    return Row(np.arange(times.steps), t[:-1], t[1:], alpha[:-1], sigma[:-1], alpha[1:], sigma[1:])


def _known(values: Array) -> Array:
    """Float64 on the host, unless the values are being learned."""
    return values if isinstance(values, jax.core.Tracer) else np.asarray(values, np.float64)


def _take(rows: Row, where: Any) -> Row:
    return jax.tree.map(lambda values: values[where], rows)


def _cast(rows: Row, dtype: Any) -> Row:
    """Rounds the host's float64 to the dtype of the state, once; integers stay what they are."""
    return jax.tree.map(lambda v: jnp.asarray(v, dtype if jnp.issubdtype(v.dtype, jnp.floating) else jnp.int32), rows)


def _edge(bound: Callable, x: Array, row: Row, observe: Callable | None, leaves_data: bool) -> tuple[Array, Any]:
    if leaves_data:
        x0, x = x, row.alpha_s * x
    else:
        x0 = bound(x, row.t)
        scale = row.sigma_s / row.sigma_t
        x = scale * x + (row.alpha_s - row.alpha_t * scale) * x0
    return x, jax.tree.map(lambda value: jnp.asarray(value)[None], observe(row, x, x0)) if observe else None


def _stepped(step: Callable, bound: Callable, state: tuple, row: Row, key: Key | None, draw: Callable,
             densities: bool) -> tuple:
    x, carry = state
    draws = iter(range(1_000_000))  # counted while tracing: every call of `noise` within a step is its own
    logs = [jnp.zeros(x.shape[:1], x.dtype)] if densities else []

    def noise(mean: Array, std: Array) -> Array:
        drawn = draw(key, (row.i, next(draws)), mean, std)
        if densities:
            logs.append(_log_density(jax.lax.stop_gradient(drawn), mean, std))
        return drawn

    x_next, carry, x0 = step(bound, x, row, carry, noise)
    return x_next, x0, carry, sum(logs) if densities else None


def _log_density(drawn: Array, mean: Array, std: Array) -> Array:
    """ln N(drawn; mean, std²), [b]; 0 where nothing is drawn, std = 0."""
    std = jnp.broadcast_to(std, mean.shape)
    safe = jnp.where(std > 0, std, 1.0)
    each = -0.5 * ((drawn - mean) / safe) ** 2 - jnp.log(safe) - 0.5 * math.log(2 * math.pi)
    return jnp.where(std > 0, each, 0.0).reshape(mean.shape[0], -1).sum(1)
