"""Adams-Bashforth samplers on the noise: LMS, DEIS, PLMS and PNDM.

In x/α and ρ = σ/α every probability-flow ODE is d(x/α) = ε̂ dρ, so that

    x_s/α_s = x/α_t + ∫ ε̂ dρ

with the polynomial through the last evaluations of ε̂ = (x - α D)/σ in its place: in ρ (LMS, the ρAB of DEIS),
in ln ρ (DEIS as diffusers has it) or in t (the paper's tAB).  PLMS and PNDM take the weights of equal steps
whatever the grid, and a better start.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxdiff import process as processes
from jaxdiff import walk as walks
from jaxdiff.denoiser import Denoiser
from jaxdiff.protocols import Array, Cond, Key
from jaxdiff.samplers.interpolation import combined, remembered, through, weights
from jaxdiff.times import Times

__all__ = ["deis", "lms", "plms", "pndm"]

VARIABLES = ("log_ratio", "ratio", "time")
EQUAL_STEPS = np.array([[1, 0, 0, 0], [3 / 2, -1 / 2, 0, 0], [23 / 12, -16 / 12, 5 / 12, 0],
                        [55 / 24, -59 / 24, 37 / 24, -9 / 24]])  # Adams-Bashforth
QUADRATURE = np.polynomial.legendre.leggauss(16)


def lms(denoiser: Denoiser, x: Array, times: Times, key: Key | None = None, *, cond: Cond = None,
        walk: Callable = walks.walk, order: int = 4) -> tuple[Array, dict]:
    """Linear multistep in σ/α, as k-diffusion has it.

    Args:
      denoiser: D(x, t, cond).
      x: [b, ...] at the level of the first time.
      times: the grid.
      key: not used.
      cond: leaves [b, ...].
      walk: `jaxdiff.walk.walk`, or it with some options bound.
      order: evaluations used, 1 to 4.

    Returns:
      x [b, ...] and `{"nfe": steps, "seen": ...}`.  Of that order.

    Raises:
      ValueError: order outside 1..4.
    """
    return deis(denoiser, x, times, key, cond=cond, walk=walk, order=order, variable="ratio")


def deis(denoiser: Denoiser, x: Array, times: Times, key: Key | None = None, *, cond: Cond = None,
         walk: Callable = walks.walk, order: int = 3, variable: str = "log_ratio") -> tuple[Array, dict]:
    """The diffusion exponential integrator sampler.

    Args:
      denoiser, x, times, key, cond, walk: as in `lms`.
      order: evaluations used, 1 to 4.
      variable: what the polynomial is in: "log_ratio", ln(σ/α); "ratio", σ/α (ρAB); "time", t (tAB).

    Returns:
      x [b, ...] and `{"nfe": steps, "seen": ...}`.  Of that order.

    Raises:
      ValueError: order outside 1..4, or another variable.

    Source: Zhang & Chen 2022 (arXiv:2204.13902), eq. 14 and 15; the integrals by Gauss-Legendre quadrature, which
    has not the cancellation of closed forms.
    """
    if order not in (1, 2, 3, 4):
        raise ValueError(f"Adams-Bashforth sampling has orders 1 to 4, got {order}")
    if variable not in VARIABLES:
        raise ValueError(f"variable must be one of {', '.join(VARIABLES)}, got {variable!r}")
    coefficients = functools.partial(_adams, process=denoiser.process, order=order, variable=variable)
    return walk(_adams_step, denoiser, x, times, key, cond=cond, coefficients=coefficients, carry=remembered(x, order))


def _adams(rows: walks.Row, process: Any, order: int, variable: str) -> dict:
    xp = rows.alpha_t.__array_namespace__()
    start, stop = rows.sigma_t / rows.alpha_t, rows.sigma_s / rows.alpha_s
    if variable == "log_ratio":
        start, stop = xp.log(start), xp.log(stop)
    elif variable == "time":
        start, stop = xp.asarray(rows.t), xp.asarray(rows.s)
    h = stop - start
    share = xp.asarray(0.5 * (QUADRATURE[0] + 1))  # (u - u_t)/h at the points of the quadrature
    at = start[:, None] + h[:, None] * share  # [n, q]
    kernel = 0.5 * h[:, None] * xp.asarray(QUADRATURE[1]) * _speed(process, at, variable)
    moments = xp.stack([(kernel * share**m).sum(-1) for m in range(order)], axis=-1)
    return {"x": rows.alpha_s / rows.alpha_t, "eps": rows.alpha_s[:, None] * weights(start, h, order, through(moments))}


def _speed(process: Any, u: Array, variable: str) -> Array:
    """dρ/du, of the shape of u."""
    xp = u.__array_namespace__()
    if variable == "ratio":
        return xp.ones_like(u)
    if variable == "log_ratio":
        return xp.exp(u)
    d_alpha, d_sigma = processes.slopes(process, u)
    alpha, sigma = processes.alpha(process, u), processes.sigma(process, u)
    return (d_sigma * alpha - sigma * d_alpha) / alpha**2


def _adams_step(denoiser: Callable, x: Array, row: walks.Row, carry: tuple, noise: Callable) -> tuple:
    del noise
    x0 = denoiser(x, row.t)
    seen = ((x - row.alpha_t * x0) / row.sigma_t, *carry)
    return row.c["x"] * x + combined(row.c["eps"], seen), seen[:-1], x0


def plms(denoiser: Denoiser, x: Array, times: Times, key: Key | None = None, *, cond: Cond = None,
         walk: Callable = walks.walk) -> tuple[Array, dict]:
    """Pseudo linear multistep: the weights of equal steps, after one step of the improved Euler method.

    Args:
      denoiser, x, times, key, cond, walk: as in `lms`; the grid should have equal steps of t, on which
        the method has its order.

    Returns:
      x [b, ...] and `{"nfe": steps + 1, "seen": ...}`; the improved Euler step costs two evaluations.

    Source: Liu et al. 2022 (arXiv:2202.09778), eq. 12, started as in latent diffusion's PLMS.
    """
    return _pseudo(denoiser, x, times, key, cond, walk, _improved_euler, 1)


def pndm(denoiser: Denoiser, x: Array, times: Times, key: Key | None = None, *, cond: Cond = None,
         walk: Callable = walks.walk) -> tuple[Array, dict]:
    """Pseudo numerical method: three pseudo Runge-Kutta steps of four evaluations, then as `plms`.

    Args:
      denoiser, x, times, key, cond, walk: as in `plms`.

    Returns:
      x [b, ...] and `{"nfe": steps + 9, "seen": ...}`, where there are so many steps.

    Source: Liu et al. 2022 (arXiv:2202.09778), algorithm 2, F-PNDM.
    """
    return _pseudo(denoiser, x, times, key, cond, walk, _runge_kutta, 3)


def _pseudo(denoiser: Denoiser, x: Array, times: Times, key: Key | None, cond: Cond, walk: Callable,
            start: Callable, starting: int) -> tuple[Array, dict]:
    """`starting` steps with `start`, the rest with the weights of equal steps."""
    cost = {_improved_euler: 1, _runge_kutta: 3}[start]

    def coefficients(rows: walks.Row) -> dict:
        xp, t = rows.alpha_t.__array_namespace__(), 0.5 * (rows.t + rows.s)
        place = np.arange(len(rows.t))
        return {"eps": xp.asarray(EQUAL_STEPS[np.minimum(place, 3)]), "starts": place < starting, "t": t,
                "alpha": processes.alpha(denoiser.process, t), "sigma": processes.sigma(denoiser.process, t)}

    return walk(functools.partial(_pseudo_step, start=start), denoiser, x, times, key, cond=cond,
                coefficients=coefficients, carry=remembered(x, 4), evals=lambda n: n + cost * min(n, starting))


def _pseudo_step(denoiser: Callable, x: Array, row: walks.Row, carry: tuple, noise: Callable, *,
                 start: Callable) -> tuple:
    del noise
    x0 = denoiser(x, row.t)
    seen = ((x - row.alpha_t * x0) / row.sigma_t, *carry)
    eps = jax.lax.cond(row.c["starts"] > 0, lambda: start(denoiser, x, row, seen[0]),
                       lambda: combined(row.c["eps"], seen))
    return _moved(x, eps, row.alpha_t, row.sigma_t, row.alpha_s, row.sigma_s), seen[:-1], x0


def _moved(x: Array, eps: Array, alpha_t: Array, sigma_t: Array, alpha_s: Array, sigma_s: Array) -> Array:
    """The transfer φ of PNDM (eq. 11), a step of DDIM along ε."""
    return alpha_s / alpha_t * x + (sigma_s - alpha_s / alpha_t * sigma_t) * eps


def _improved_euler(denoiser: Callable, x: Array, row: walks.Row, eps: Array) -> Array:
    there = _moved(x, eps, row.alpha_t, row.sigma_t, row.alpha_s, row.sigma_s)
    return 0.5 * (eps + (there - row.alpha_s * denoiser(there, row.s)) / row.sigma_s)


def _runge_kutta(denoiser: Callable, x: Array, row: walks.Row, first: Array) -> Array:
    c = row.c

    def half(eps: Array) -> Array:
        there = _moved(x, eps, row.alpha_t, row.sigma_t, c["alpha"], c["sigma"])
        return (there - c["alpha"] * denoiser(there, c["t"])) / c["sigma"]

    second = half(first)
    third = half(second)
    there = _moved(x, third, row.alpha_t, row.sigma_t, row.alpha_s, row.sigma_s)
    fourth = (there - row.alpha_s * denoiser(there, row.s)) / row.sigma_s
    return (first + 2 * second + 2 * third + fourth) / 6
