"""Exponential multistep samplers on the denoised estimate: DPM-Solver++ 2M and 3M, with and without noise.

In ℓ = ln(α/σ), with h = ℓ_s - ℓ_t, fresh noise of share η and h' = (1 + η) h,

    x_s = (σ_s/σ_t) e^(-ηh) x + α_s ∫₀^h' e^(u - h') D(ℓ_t + u/(1 + η)) du + σ_s √(1 - e^(-2ηh)) z

exactly, if D is known along the path (Lu et al. 2022, eq. 14).  The samplers put the polynomial through
the last two or three evaluations in its place.  Nothing depends on the process but through α and σ.
"""

import functools
from collections.abc import Callable

from jaxdiff import walk as walks
from jaxdiff.denoiser import Denoiser
from jaxdiff.protocols import Array, Cond, Key
from jaxdiff.samplers.interpolation import combined, exponential_moments, remembered, steps, through, weights
from jaxdiff.times import Times

__all__ = ["dpmpp_2m", "dpmpp_3m", "dpmpp_3m_legacy"]

FORMS = ("midpoint", "heun")


def dpmpp_2m(denoiser: Denoiser, x: Array, times: Times, key: Key | None = None, *, cond: Cond = None,
             walk: Callable = walks.walk, form: str = "midpoint", eta: float = 0.0) -> tuple[Array, dict]:
    """DPM-Solver++(2M), and SDE-DPM-Solver++(2M) for eta = 1.

    Args:
      denoiser: D(x, t, cond).
      x: [b, ...] at the level of the first time.
      times: the grid.
      key: needed for eta > 0; one, or one a sample [b].
      cond: leaves [b, ...].
      walk: `jaxdiff.walk.walk`, or it with some options bound.
      form: "midpoint", the paper's, which takes half of the first moment for the slope's; or "heun",
        the integral of the straight line.
      eta: share of fresh noise, >= 0: 0 is the ODE, 1 the reverse SDE.

    Returns:
      x [b, ...] and `{"nfe": steps, "seen": ...}`.  Order 2; weak order 2 for eta > 0.

    Raises:
      ValueError: another form, eta < 0, or eta > 0 on a rising grid.

    Source: Lu et al. 2022 (arXiv:2211.01095), algorithm 2 and app. A.
    """
    if form not in FORMS:
        raise ValueError(f"form must be 'midpoint' or 'heun', got {form!r}")
    return _multistep(denoiser, x, times, key, cond, walk, _midpoint if form == "midpoint" else exponential_moments,
                      2, eta)


def dpmpp_3m(denoiser: Denoiser, x: Array, times: Times, key: Key | None = None, *, cond: Cond = None,
             walk: Callable = walks.walk, eta: float = 0.0) -> tuple[Array, dict]:
    """DPM-Solver++(3M) of third order.

    The codes in use halve the curvature's moment, which leaves them at second order: `dpmpp_3m_legacy`.

    Args: as in `dpmpp_2m`.

    Returns:
      x [b, ...] and `{"nfe": steps, "seen": ...}`.  Order 3; weak order 2 for eta > 0.

    Raises:
      ValueError: eta < 0, or eta > 0 on a rising grid.

    Source: Lu et al. 2022 (arXiv:2211.01095), eq. 14, with the Taylor terms to the third.
    """
    return _multistep(denoiser, x, times, key, cond, walk, exponential_moments, 3, eta)


def dpmpp_3m_legacy(denoiser: Denoiser, x: Array, times: Times, key: Key | None = None, *, cond: Cond = None,
                    walk: Callable = walks.walk, eta: float = 0.0) -> tuple[Array, dict]:
    """DPM-Solver++(3M) as dpm-solver, diffusers and k-diffusion ship it, for parity with them.

    Args: as in `dpmpp_2m`.

    Returns:
      x [b, ...] and `{"nfe": steps, "seen": ...}`.  Order 2, since it takes half of the curvature.

    Raises:
      ValueError: eta < 0, or eta > 0 on a rising grid.
    """
    return _multistep(denoiser, x, times, key, cond, walk, _half_curvature, 3, eta)


def _midpoint(h: Array, order: int) -> Array:
    made = exponential_moments(h, order)
    xp = made.__array_namespace__()
    return xp.stack([made[:, 0], 0.5 * made[:, 0]], axis=-1)


def _half_curvature(h: Array, order: int) -> Array:
    """The moments of a Newton form in which φ3 D2 stands where 2 φ3 D2 should."""
    made = exponential_moments(h, order)
    xp = made.__array_namespace__()
    return xp.stack([made[:, 0], made[:, 1], 0.5 * made[:, 2]], axis=-1)


def _multistep(denoiser: Denoiser, x: Array, times: Times, key: Key | None, cond: Cond, walk: Callable,
               moments: Callable, order: int, eta: float) -> tuple[Array, dict]:
    if not eta >= 0:
        raise ValueError(f"eta must be >= 0, got {eta}")
    if eta:
        times.must_fall("eta=0")

    def coefficients(rows: walks.Row) -> dict:
        start, h = steps(rows)
        xp = h.__array_namespace__()
        return {"x": rows.sigma_s / rows.sigma_t * xp.exp(-eta * h),
                "x0": rows.alpha_s[:, None] * weights(start, h, order, through(moments((1 + eta) * h, order))),
                "std": rows.sigma_s * xp.sqrt(-xp.expm1(-2 * eta * h))}

    return walk(functools.partial(_step, stochastic=eta > 0), denoiser, x, times, key, cond=cond,
                coefficients=coefficients, carry=remembered(x, order))


def _step(denoiser: Callable, x: Array, row: walks.Row, carry: tuple, noise: Callable, *, stochastic: bool) -> tuple:
    x0 = denoiser(x, row.t)
    seen = (x0, *carry)
    mean = row.c["x"] * x + combined(row.c["x0"], seen)
    return noise(mean, row.c["std"]) if stochastic else mean, seen[:-1], x0
