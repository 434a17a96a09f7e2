"""What the multistep samplers share: weights of a polynomial through what the last steps saw.

A step integrates a kernel against the polynomial of degree k - 1 through the k last evaluations,
at nodes r_j = (u_j - u_t)/h of a coordinate u with h = u_s - u_t.  If c_m is the kernel's integral
of ((u - u_t)/h)^m, the weights w solve Σ_j w_j r_j^m = c_m, for m < k.
"""

from collections.abc import Callable, Sequence

import jax.numpy as jnp

from jaxdiff.protocols import Array
from jaxdiff.walk import Row

__all__ = ["combined", "exponential_moments", "remembered", "solve", "steps", "through", "weights"]


def steps(rows: Row) -> tuple[Array, Array]:
    """Returns (ℓ = ln(α/σ) where each step starts, its length h in ℓ), [n]."""
    xp = rows.alpha_t.__array_namespace__()
    start = xp.log(rows.alpha_t / rows.sigma_t)
    return start, xp.log(rows.alpha_s / rows.sigma_s) - start


def weights(u: Array, h: Array, order: int, integrate: Callable, *, ahead: bool = False) -> Array:
    """Returns the weights [n, order] of the evaluations at this step, the one before, ...

    Args:
      u: coordinate at the start of each step, [n].
      h: its length, [n].
      order: evaluations used, where so many were made: step i has only i + 1.
      integrate: `(nodes [m, k], rows, a slice of m steps) -> weights [m, k]`.
      ahead: the evaluation at the end of the step is known too, and its weight comes first: [n, order + 1].
    """
    xp = u.__array_namespace__()
    parts = [xp.zeros((0, order + ahead), dtype=u.dtype)]
    for k in range(1, order + 1):
        first, stop, _ = slice(k - 1, k if k < order else len(u)).indices(len(u))
        if first >= stop:
            break
        nodes = [(u[first - j:stop - j] - u[first:stop]) / h[first:stop] for j in range(k)]
        if ahead:
            nodes = [xp.ones_like(nodes[0]), *nodes]
        made = integrate(xp.stack(nodes, axis=-1), slice(first, stop))
        parts.append(xp.concatenate([made, xp.zeros((stop - first, order - k))], axis=-1))
    return xp.concatenate(parts)


def through(moments: Array) -> Callable:
    """Returns what `weights` wants, for a kernel with the moments c_0, ..., c_{order-1} [n, order] of each step."""
    return lambda nodes, rows: solve(nodes, moments[rows, :nodes.shape[-1]])


def solve(nodes: Array, moments: Array) -> Array:
    """Returns w with Σ_j w_j r_j^m = c_m, [n, k], for nodes r and moments c [n, k]."""
    xp = nodes.__array_namespace__()
    powers = nodes[:, None, :] ** xp.arange(nodes.shape[-1])[:, None]  # [n, m, j]
    return xp.linalg.solve(powers, moments[..., None])[..., 0]


def exponential_moments(h: Array, order: int) -> Array:
    """Returns ∫₀ʰ e^(u - h) (u/h)^m du for m < order, [n, order]: 1 - e^-h, h φ2 and so on.

    By the recursion c_m = 1 - m c_{m-1}/h, and by its series where h is small and the recursion loses digits.
    """
    xp = h.__array_namespace__()
    small = abs(h) < 0.5
    wide, near = xp.where(small, 1.0, h), xp.where(small, h, 0.0)
    made, series = [-xp.expm1(-wide)], []
    for m in range(1, order):
        made.append(1 - m * made[-1] / wide)
    for m in range(order):
        term, total = near / (m + 1), near / (m + 1)
        for i in range(1, 16):
            term = -term * near / (m + 1 + i)
            total = total + term
        series.append(total)
    return xp.where(small[:, None], xp.stack(series, axis=-1), xp.stack(made, axis=-1))


def remembered(x: Array, order: int) -> tuple[Array, ...]:
    """Returns the carry of a sampler that has not evaluated anything yet."""
    return tuple(jnp.zeros_like(x) for _ in range(order - 1))


def combined(weight: Array, values: Sequence[Array]) -> Array:
    """Returns Σ_j weight_j values_j, for weight [k] and k arrays."""
    total = weight[0] * values[0]
    for j in range(1, len(values)):
        total = total + weight[j] * values[j]
    return total
