"""Restart: an ODE sampler that goes back and forth over a stretch of levels, adding fresh noise each time.

The noise contracts the errors that the ODE has gathered, the ODE keeps the error of its own steps small
(Xu et al. 2023, algorithm 1).  Here the grid itself turns back: an interval that rises adds the forward
process's noise, one that falls is a step of Heun's method in σ/α.
"""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxdiff import process as processes
from jaxdiff import walk as walks
from jaxdiff.denoiser import Denoiser
from jaxdiff.protocols import Array, Cond, Key
from jaxdiff.samplers import edm
from jaxdiff.times import Times

__all__ = ["restart"]

RHO = 7.0  # of the levels between the turns (Karras et al. 2022, eq. 5)


def restart(denoiser: Denoiser, x: Array, times: Times, key: Key | None = None, *, cond: Cond = None,
            walk: Callable = walks.walk, intervals: tuple = ((0.06, 0.3, 4, 2),)) -> tuple[Array, dict]:
    """Heun's method with restarts.

    Args:
      denoiser: D(x, t, cond).
      x: [b, ...] at the level of the first time.
      times: the grid of the way down; a turn happens at its time below `high` whose level is nearest to `low`, and
        nowhere if it has none.
      key: needed; one, or one a sample [b].
      cond: leaves [b, ...].
      walk: `jaxdiff.walk.walk`, or it with some options bound.
      intervals: (low, high, steps, turns) for each stretch: levels σ/α between which it goes, steps of
        the way back down (>= 1), how often (>= 1).  Empty: Heun's method.

    Returns:
      x [b, ...] and `{"nfe": ..., "seen": ...}`: two evaluations a falling step, none a rising one, one where a step
      touches alpha = 0 or the data.  Order 2.

    Raises:
      ValueError: a rising grid, or an interval that is none.

    Source: Xu et al. 2023 (arXiv:2306.14878), algorithm 1.
    """
    times.must_fall("heun")
    if not intervals:
        return edm.heun(denoiser, x, times, cond=cond, walk=walk)
    t, falling = _turns(denoiser.process, times, tuple(tuple(interval) for interval in intervals))
    first = int(processes.ends_in_noise(denoiser.process) and t[0] == 1)
    evals = lambda n: 2 * sum(falling[first:first + n])
    return walk(_step, denoiser, x, Times(t, rounds=True), key, cond=cond, coefficients=_coefficients, evals=evals)


def _turns(process: Any, times: Times, intervals: tuple) -> tuple[tuple[float, ...], tuple[bool, ...]]:
    """Returns the grid with its turns, and for each of its steps whether it falls."""
    if isinstance(processes.alpha(process, np.float64(1)), jax.core.Tracer):
        raise ValueError("restart needs a process whose levels are known, and this one is being learned: sample "
                         "outside of jit")
    down = np.asarray(times.t, np.float64)
    noise = processes.ends_in_noise(process) and down[0] == 1
    inner = down[int(noise):][down[int(noise):] > 0]
    ratios = np.asarray(processes.ratio(process, inner), np.float64)
    back: dict[float, list[float]] = {}
    most = np.inf if noise else ratios[0]
    for interval in intervals:
        low, high, steps, turns = _checked(interval, most)
        if not (ratios < high).any():
            continue  # so short a grid has no time to go back from
        nearest = int(np.argmin(np.abs(np.log(ratios / low)) + np.where(ratios < high, 0, np.inf)))
        ramp = np.linspace(high ** (1 / RHO), ratios[nearest] ** (1 / RHO), steps + 1)[:-1] ** RHO
        again = [*(float(t) for t in processes.t_of_logsnr(process, -2 * np.log(ramp))), float(inner[nearest])]
        back.setdefault(float(inner[nearest]), []).extend(again * turns)
    t = tuple(value for time in times.t for value in [time, *back.get(time, [])])
    return t, tuple(later < sooner for sooner, later in itertools.pairwise(t))


def _checked(interval: tuple, most: float) -> tuple[float, float, int, int]:
    if len(interval) != 4:
        raise ValueError(f"an interval is (low, high, steps, turns), got {interval}")
    low, high, steps, turns = interval
    if not 0 < low < high <= most * (1 + 1e-9):
        raise ValueError(f"an interval needs 0 < low < high <= {most:.6g}, where the grid starts, got low {low} and "
                         f"high {high}")
    if steps < 1 or turns < 1:
        raise ValueError(f"an interval needs steps >= 1 and turns >= 1, got {steps} and {turns}")
    return low, high, int(steps), int(turns)


def _coefficients(rows: walks.Row) -> dict:
    xp, rises = rows.alpha_t.__array_namespace__(), rows.s > rows.t
    scale = xp.where(rises, rows.alpha_s / rows.alpha_t, 1.0)
    added = xp.where(rises, rows.sigma_s**2 - (scale * rows.sigma_t) ** 2, 0.0)
    return {"rises": rises, "scale": scale, "std": xp.sqrt(xp.maximum(added, 0.0)), "t": rows.t, "alpha": rows.alpha_t,
            "level": rows.sigma_t / rows.alpha_t, "target": rows.sigma_s / rows.alpha_s}


def _step(denoiser: Callable, x: Array, row: walks.Row, carry: tuple, noise: Callable) -> tuple:
    c = row.c
    x = noise(c["scale"] * x, c["std"])  # x itself where the level falls

    up = lambda: (x, carry, x / row.alpha_s)  # nothing is asked of the denoiser
    down = lambda: edm.step(denoiser, x, row, carry, noise, second=True, churning=False)
    return jax.lax.cond(c["rises"] > 0, up, down)
