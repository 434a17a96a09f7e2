"""EDM's samplers, Euler and Heun, in the coordinates x/α and σ/α of any process.

There the probability-flow ODE of every process is one and the same, dx̂/dσ̂ = (x̂ - D)/σ̂
(Karras et al. 2022, eq. 3 and 4).  Churn raises the noise level by 1 + γ before a step.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

from jaxdiff import process as processes
from jaxdiff import walk as walks
from jaxdiff.denoiser import Denoiser
from jaxdiff.protocols import Array, Cond, Key
from jaxdiff.times import Times

__all__ = ["euler", "heun", "step"]


def euler(denoiser: Denoiser, x: Array, times: Times, key: Key | None = None, *, cond: Cond = None,
          walk: Callable = walks.walk, s_churn: float = 0.0, s_min: float = 0.0, s_max: float = math.inf,
          s_noise: float = 1.0) -> tuple[Array, dict]:
    """Euler's method in σ/α; without churn the same map as DDIM with eta = 0.

    Args: as in `heun`.

    Returns:
      x [b, ...] and `{"nfe": steps, "seen": ...}`.  Order 1.
    """
    churn = _churn(times.steps, s_churn, s_min, s_max, s_noise)
    return walk(functools.partial(step, second=False, churning=s_churn > 0), denoiser, x, times, key, cond=cond,
                coefficients=functools.partial(churn, denoiser.process))


def heun(denoiser: Denoiser, x: Array, times: Times, key: Key | None = None, *, cond: Cond = None,
         walk: Callable = walks.walk, s_churn: float = 0.0, s_min: float = 0.0, s_max: float = math.inf,
         s_noise: float = 1.0) -> tuple[Array, dict]:
    """Heun's second-order method, with churn EDM's stochastic sampler.

    Args:
      denoiser: D(x, t, cond).
      x: [b, ...] at the level of the first time.
      times: the grid, usually `times.karras`.
      key: needed for s_churn > 0; one, or one a sample [b].
      cond: leaves [b, ...].
      walk: `jaxdiff.walk.walk`, or it with some options bound.
      s_churn: total churn; a step raises the noise by γ = min(s_churn/steps, √2 - 1).
      s_min, s_max: levels σ/α between which there is churn.  The last step, into the data, has none.
      s_noise: scale of the added noise.

    Returns:
      x [b, ...] and `{"nfe": 2 steps - 1, "seen": ...}`; 2 steps - 2 where the first time has
      alpha = 0 and steps > 1; 1 for one step.  Order 2.

    Raises:
      ValueError: a negative churn or noise, or s_min above s_max.

    Source: Karras et al. 2022 (arXiv:2206.00364), algorithms 1 (s_churn = 0) and 2.
    """
    churn = _churn(times.steps, s_churn, s_min, s_max, s_noise)
    return walk(functools.partial(step, second=True, churning=s_churn > 0), denoiser, x, times, key, cond=cond,
                coefficients=functools.partial(churn, denoiser.process), evals=2)


def _churn(steps: int, s_churn: float, s_min: float, s_max: float, s_noise: float) -> Callable:
    if s_churn < 0 or s_noise < 0:
        raise ValueError(f"s_churn and s_noise must be >= 0, got {s_churn} and {s_noise}")
    if s_min > s_max:
        raise ValueError(f"s_min must not lie above s_max, got {s_min} and {s_max}")
    most = min(s_churn / steps, math.sqrt(2) - 1)

    def coefficients(process: Any, rows: walks.Row) -> dict:
        xp = rows.alpha_t.__array_namespace__()
        level, target = rows.sigma_t / rows.alpha_t, rows.sigma_s / rows.alpha_s
        if not s_churn:
            return {"t": rows.t, "alpha": rows.alpha_t, "level": level, "target": target}
        gamma = xp.where((s_min <= level) & (level <= s_max), most, 0.0)
        raised = level * (1 + gamma)
        t = xp.where(gamma > 0, processes.t_of_logsnr(process, -2 * xp.log(raised)), rows.t)
        if not hasattr(process, "t_of_logsnr"):  # found within [0, 1] only: no level above the last is reached
            raised = xp.minimum(raised, xp.maximum(level, processes.ratio(process, process.span[1])))
        grows = raised > level
        added = xp.where(grows, xp.sqrt(xp.where(grows, raised**2 - level**2, 1.0)), 0.0)
        return {"t": t, "alpha": xp.where(gamma > 0, processes.alpha(process, t), rows.alpha_t), "level": raised,
                "target": target, "added": s_noise * added}

    return coefficients


def step(denoiser: Callable, x: Array, row: walks.Row, carry: tuple, noise: Callable, *, second: bool,
         churning: bool) -> tuple:
    """One step from `c["level"]` at `c["t"]` to `c["target"]`, for `walk`: Euler's, or Heun's where `second`."""
    c = row.c
    scaled = x / row.alpha_t
    if churning:
        scaled = noise(scaled, c["added"])
    x0 = denoiser(c["alpha"] * scaled, c["t"])
    slope = (scaled - x0) / c["level"]
    moved = scaled + (c["target"] - c["level"]) * slope
    if second:
        corrected = (moved - denoiser(row.alpha_s * moved, row.s)) / c["target"]
        moved = scaled + (c["target"] - c["level"]) * 0.5 * (slope + corrected)
    return row.alpha_s * moved, carry, x0
