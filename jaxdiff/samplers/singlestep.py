"""Exponential one-step samplers, which look ahead within a step instead of back: DPM-Solver and DPM-Solver++(2S).

In ℓ = ln(α/σ), h = ℓ_s - ℓ_t (Lu et al. 2022a, eq. 3.4, and 2022b, eq. 14):

    x_s = (α_s/α_t) x - σ_s ∫₀^h e^(h - u) ε̂ du        x_s = (σ_s/σ_t) x + α_s ∫₀^h e^(u - h) D du
"""

import functools
from collections.abc import Callable
from typing import Any

from jaxdiff import process as processes
from jaxdiff import walk as walks
from jaxdiff.denoiser import Denoiser
from jaxdiff.protocols import Array, Cond, Key
from jaxdiff.samplers.interpolation import combined, exponential_moments, steps
from jaxdiff.times import Times

__all__ = ["dpm_solver", "dpmpp_2s"]

PLACES = {1: (), 2: (1 / 2,), 3: (1 / 3, 2 / 3)}  # r of the evaluations within a step


def dpm_solver(denoiser: Denoiser, x: Array, times: Times, key: Key | None = None, *, cond: Cond = None,
               walk: Callable = walks.walk, order: int = 3) -> tuple[Array, dict]:
    """DPM-Solver-1, -2 and -3, on the noise.

    Args:
      denoiser: D(x, t, cond).
      x: [b, ...] at the level of the first time.
      times: the grid.
      key: not used.
      cond: leaves [b, ...].
      walk: `jaxdiff.walk.walk`, or it with some options bound.
      order: 1 to 3; 1 is DDIM.

    Returns:
      x [b, ...] and `{"nfe": ..., "seen": ...}`: `order` evaluations a step, one in a first step out of
      alpha = 0 and in the last into the data.  Of that order.

    Raises:
      ValueError: order outside 1..3.

    Source: Lu et al. 2022 (arXiv:2206.00927), algorithms 1 and 2 with r1 = 1/2, and r1, r2 = 1/3, 2/3.
    """
    if order not in PLACES:
        raise ValueError(f"dpm_solver has orders 1, 2 and 3, got {order}")
    return walk(functools.partial(_step, places=PLACES[order]), denoiser, x, times, key, cond=cond, evals=order,
                coefficients=functools.partial(_coefficients, process=denoiser.process, places=PLACES[order]))


def _levels_within(rows: walks.Row, process: Any, place: float) -> tuple[Array, Array, Array]:
    """(t, α, σ) at the share `place` of each step in ℓ, [n]."""
    start, h = steps(rows)
    t = processes.t_of_logsnr(process, 2 * (start + place * h))
    return t, processes.alpha(process, t), processes.sigma(process, t)


def _coefficients(rows: walks.Row, process: Any, places: tuple[float, ...]) -> dict:
    """Of each evaluation within the step, and of its end: factors of x, of ε̂ and of the slopes ε̂_j - ε̂."""
    _, h = steps(rows)
    xp = h.__array_namespace__()
    within, made = [_levels_within(rows, process, place) for place in places], []
    for j, place in enumerate([*places, 1.0]):
        alpha, sigma = within[j][1:] if j < len(places) else (rows.alpha_s, rows.sigma_s)
        # ∫ e^(h - u) (u/h)^m du, as an exponential moment of a step of -h seen from its end
        c = -exponential_moments(-place * h, 2)
        slope = 0.5 * c[:, 0] if len(places) == 1 else c[:, 1]  # DPM-Solver-2 takes the midpoint's
        factors = [c[:, 0], *([slope * place / places[j - 1]] if j else [])]
        made.append({"x": alpha / rows.alpha_t, "eps": -sigma[:, None] * xp.stack(factors, axis=-1)})
    return {"within": tuple(within), "stages": tuple(made)}


def _step(denoiser: Callable, x: Array, row: walks.Row, carry: tuple, noise: Callable, *,
          places: tuple[float, ...]) -> tuple:
    del noise
    x0 = denoiser(x, row.t)
    eps = (x - row.alpha_t * x0) / row.sigma_t
    seen = [eps]
    for (t, alpha, sigma), stage in zip(row.c["within"], row.c["stages"], strict=False):
        there = stage["x"] * x + combined(stage["eps"], seen)
        seen = [eps, (there - alpha * denoiser(there, t)) / sigma - eps]
    end = row.c["stages"][-1]
    return end["x"] * x + combined(end["eps"], seen), carry, x0


def dpmpp_2s(denoiser: Denoiser, x: Array, times: Times, key: Key | None = None, *, cond: Cond = None,
             walk: Callable = walks.walk, eta: float = 0.0) -> tuple[Array, dict]:
    """DPM-Solver++(2S), with eta > 0 followed by fresh noise as in ancestral sampling.

    Args:
      denoiser, x, times, cond, walk: as in `dpm_solver`.
      key: needed for eta > 0; one, or one a sample [b].
      eta: 0 (deterministic) to 1 (ancestral).

    Returns:
      x [b, ...] and `{"nfe": 2 steps - 1, "seen": ...}`; one less from alpha = 0.  Order 2; weak order 2 for eta > 0.

    Raises:
      ValueError: eta outside [0, 1], or above 0 on a rising grid.

    Source: Lu et al. 2022 (arXiv:2211.01095), algorithm 1 with r = 1/2; the noise as in k-diffusion's
    `sample_dpmpp_2s_ancestral`.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1], got {eta}")
    if eta:
        times.must_fall("eta=0")
    return walk(functools.partial(_step_2s, stochastic=eta > 0), denoiser, x, times, key, cond=cond, evals=2,
                coefficients=functools.partial(_coefficients_2s, process=denoiser.process, eta=eta))


def _coefficients_2s(rows: walks.Row, process: Any, eta: float) -> dict:
    xp = rows.alpha_t.__array_namespace__()
    std, down = 0 * rows.sigma_s, rows.sigma_s
    if eta:
        std = eta * rows.sigma_s * xp.sqrt(1 - (rows.alpha_t * rows.sigma_s / (rows.alpha_s * rows.sigma_t)) ** 2)
        down = xp.sqrt(rows.sigma_s**2 - std**2)  # the level aimed at, which the noise brings back to σ_s
    lowered = rows._replace(sigma_s=down)
    t, alpha, sigma = _levels_within(lowered, process, 0.5)
    _, h = steps(lowered)
    return {"t": t, "x": sigma / rows.sigma_t, "x0": -alpha * xp.expm1(-0.5 * h), "x_s": down / rows.sigma_t,
            "x0_s": -rows.alpha_s * xp.expm1(-h), "std": std}


def _step_2s(denoiser: Callable, x: Array, row: walks.Row, carry: tuple, noise: Callable, *,
             stochastic: bool) -> tuple:
    c = row.c
    x0 = denoiser(x, row.t)
    middle = denoiser(c["x"] * x + c["x0"] * x0, c["t"])
    mean = c["x_s"] * x + c["x0_s"] * middle
    return noise(mean, c["std"]) if stochastic else mean, carry, x0
