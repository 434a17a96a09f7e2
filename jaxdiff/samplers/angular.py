"""Heun's method in the angle θ = atan2(σ, α), which also holds in pure noise.

With z = x/√(α² + σ²) = cos θ x0 + sin θ ε the probability-flow ODE of every process is

    dz/dθ = cos θ ε̂ - sin θ D = (cos θ z - D)/sin θ

(the v of Salimans & Ho 2022, app. D), finite at θ = π/2, where σ/α and its logarithm are not.
"""

from collections.abc import Callable

from jaxdiff import walk as walks
from jaxdiff.denoiser import Denoiser
from jaxdiff.protocols import Array, Cond, Key
from jaxdiff.times import Times

__all__ = ["heun_angle"]


def heun_angle(denoiser: Denoiser, x: Array, times: Times, key: Key | None = None, *, cond: Cond = None,
               walk: Callable = walks.walk) -> tuple[Array, dict]:
    """Heun's second-order method in the angle.

    Args:
      denoiser: D(x, t, cond).
      x: [b, ...] at the level of the first time.
      times: the grid.
      key: not used.
      cond: leaves [b, ...].
      walk: `jaxdiff.walk.walk`, or it with some options bound.

    Returns:
      x [b, ...] and `{"nfe": 2 steps - 1, "seen": ...}`, from alpha = 0 too; 1 for one step.  Order 2.
    """
    return walk(_step, denoiser, x, times, key, cond=cond, coefficients=_coefficients, evals=2, leaves_noise=True)


def _coefficients(rows: walks.Row) -> dict:
    xp = rows.alpha_t.__array_namespace__()
    radius_t, radius_s = ((a**2 + s**2) ** 0.5 for a, s in ((rows.alpha_t, rows.sigma_t), (rows.alpha_s, rows.sigma_s)))
    return {"radius_t": radius_t, "radius_s": radius_s, "cos_t": rows.alpha_t / radius_t,
            "sin_t": rows.sigma_t / radius_t, "cos_s": rows.alpha_s / radius_s, "sin_s": rows.sigma_s / radius_s,
            "turn": xp.atan2(rows.sigma_s, rows.alpha_s) - xp.atan2(rows.sigma_t, rows.alpha_t)}


def _step(denoiser: Callable, x: Array, row: walks.Row, carry: tuple, noise: Callable) -> tuple:
    del noise
    c = row.c
    z, x0 = x / c["radius_t"], denoiser(x, row.t)
    v = (c["cos_t"] * z - x0) / c["sin_t"]
    there = z + c["turn"] * v
    v_there = (c["cos_s"] * there - denoiser(c["radius_s"] * there, row.s)) / c["sin_s"]
    return c["radius_s"] * (z + 0.5 * c["turn"] * (v + v_there)), carry, x0
