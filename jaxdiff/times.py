"""Sampling grids: the times at which a denoiser is asked.

A grid starts at t = 1 exactly where α(1) = 0 (never just before it: σ/α is finite there
and huge), at `process.span[1]` elsewhere, falls strictly, and ends at 0, which in a grid
always means the data, whatever the process's formula gives there.
"""

import dataclasses
import math

import jax
import numpy as np

from jaxdiff import process as processes
from jaxdiff.protocols import Process

__all__ = [
    "Times", "aligned", "exponential", "given", "karras", "leading", "logsnr", "quadratic", "trailing", "uniform",
]

SIGMA_MIN, SIGMA_MAX = 0.002, 80.0  # Karras et al. 2022, table 1
# Align Your Steps (Sabour et al. 2024, app. D): timesteps of Stable Diffusion's 1,000, and levels σ/α of SVD.
ALIGNED = {
    "sd": (999, 850, 736, 645, 545, 455, 343, 233, 124, 24),
    "sdxl": (999, 845, 730, 587, 443, 310, 193, 116, 53, 13),
    "svd": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034),
}


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Times:
    """A grid of `steps + 1` strictly monotone times.

    Concrete under `jit`, so that solver coefficients are numpy float64; equal grids share a trace.
    """

    t: tuple[float, ...]
    rounds: bool = False  # it may turn back, as `samplers.restart` does

    def __post_init__(self) -> None:
        t = np.asarray(self.t, np.float64)
        if t.ndim != 1 or len(t) < 2 or not np.isfinite(t).all() or (t < 0).any():
            raise ValueError(f"a grid needs at least two finite times >= 0, got {self.t}")
        if self.rounds and (np.diff(t) != 0).all():
            return
        if not ((np.diff(t) < 0).all() or (np.diff(t) > 0).all()):
            raise ValueError("a grid must fall strictly (or rise strictly, to encode): two of its times are equal "
                             "or out of order")

    @property
    def steps(self) -> int:
        """Number of intervals."""
        return len(self.t) - 1

    def must_fall(self, instead: str) -> None:
        """Refuses a rising grid, for a sampler that draws noise.

        Raises:
          ValueError: the grid rises; it names what encodes `instead`.
        """
        if self.t[-1] > self.t[0]:
            raise ValueError(f"a rising grid encodes, which only a step without noise can do: use {instead}")


def given(process: Process, *, t: tuple) -> Times:
    """Returns the grid of the times `t`, taken as they are."""
    del process
    return Times(tuple(float(value) for value in t))


def uniform(process: Process, *, steps: int) -> Times:
    """Returns `steps` equal intervals of t, the grid of flows."""
    return _grid(process, np.linspace(_start(process), 0, _checked(steps) + 1)[1:-1])


def karras(process: Process, *, steps: int, rho: float = 7.0, sigma_min: float = SIGMA_MIN,
           sigma_max: float | None = None) -> Times:
    """Returns noise levels σ/α spaced by a power law (Karras et al. 2022, eq. 5).

    Args:
      process: the process of the denoiser.
      steps: intervals, >= 1; the last one leads from `sigma_min` to the data.
      rho: power, > 0; 7 crowds the small levels.
      sigma_min: last level before the data; raised to what the process's span can tell.
      sigma_max: where α(1) = 0, the level whose place t = 1 takes (80); elsewhere the grid
        starts at the process's own end and none may be given.

    Raises:
      ValueError: steps < 1, rho <= 0, or levels out of order or not the process's.
    """
    if not rho > 0:
        raise ValueError(f"rho must be > 0, got {rho}")
    high, low = _levels(process, sigma_min, sigma_max)
    ramp = np.linspace(high ** (1 / rho), low ** (1 / rho), _checked(steps)) ** rho
    return _grid(process, processes.t_of_logsnr(process, -2 * np.log(ramp[1:])))


def exponential(process: Process, *, steps: int, rho: float = 1.0, sigma_min: float = SIGMA_MIN,
                sigma_max: float | None = None) -> Times:
    """Returns levels whose logarithms are spaced by a power, as k-diffusion's polyexponential; rho = 1 is `logsnr`.

    Args:
      process, steps, sigma_min, sigma_max: as in `karras`.
      rho: power, > 0; above 1 crowds the small levels.

    Raises:
      ValueError: as `karras`.
    """
    if not rho > 0:
        raise ValueError(f"rho must be > 0, got {rho}")
    high, low = _levels(process, sigma_min, sigma_max)
    ramp = np.linspace(1, 0, _checked(steps)) ** rho
    level = math.log(low) + ramp * (math.log(high) - math.log(low))
    return _grid(process, processes.t_of_logsnr(process, -2 * level[1:]))


def quadratic(process: Process, *, steps: int) -> Times:
    """Returns times whose square roots have equal steps (Song, Meng & Ermon 2020, app. D.3; there from 0.8)."""
    return _grid(process, _start(process) * np.linspace(1, 0, _checked(steps) + 1)[1:-1] ** 2)


def trailing(process: Process, *, steps: int) -> Times:
    """Returns times of a table, counted down from its last level in equal steps, rounded.

    Raises:
      ValueError: steps < 1 or more than the table has, or a process without a table.

    Source: Lin et al. 2023 (arXiv:2305.08891), table 2.
    """
    table = _table(process, steps)
    return _grid(process, np.round(table - np.arange(1, steps) * table / steps) / table)


def leading(process: Process, *, steps: int, offset: int = 0) -> Times:
    """Returns times of a table, counted up from its first level in equal whole steps: it starts below t = 1.

    Args:
      process: one with a table, `process.Discrete` or made from it.
      steps: at most the levels of the table.
      offset: added to each timestep; Stable Diffusion has 1.

    Raises:
      ValueError: as `trailing`, or an offset that leads out of the table.

    Source: Song, Meng & Ermon 2020 (arXiv:2010.02502), app. D.3; Lin et al. 2023, table 2.
    """
    table = _table(process, steps)
    timesteps = np.arange(steps) * (table // steps) + offset
    if offset < 0 or timesteps[-1] >= table:
        most = table - 1 - int(timesteps[-1]) + offset
        raise ValueError(f"offset must lie between 0 and {most} for {steps} steps of {table}, got {offset}")
    return Times((*(float(t) for t in (timesteps[::-1] + 1) / table), 0.0))


def aligned(process: Process, *, steps: int, model: str = "sd") -> Times:
    """Returns the levels of Align Your Steps, interpolated linearly in ln(σ/α) for other than 10 steps.

    Args:
      process: its own end stands in the place of the first level.
      steps: intervals, >= 1; the last one leads to the data.
      model: "sd" and "sdxl" (levels of Stable Diffusion's table), or "svd".

    Raises:
      ValueError: another model, steps < 1, or a process that ends below the second level.

    Source: Sabour et al. 2024 (arXiv:2404.14507); a table fitted to these models, not a method.
    """
    if model not in ALIGNED:
        raise ValueError(f"model must be one of {', '.join(ALIGNED)}, got {model!r}")
    table = np.asarray(ALIGNED[model])
    stable = processes.Discrete(schedule="scaled_linear")
    level = np.log(table) if model == "svd" else -0.5 * processes.logsnr(stable, (table + 1) / 1000)
    made = np.interp(np.linspace(0, 1, _checked(steps)), np.linspace(0, 1, len(level)), level)[1:]
    end = np.inf if processes.ends_in_noise(process) else float(processes.ratio(process, process.span[1]))
    if len(made) and np.exp(made[0]) >= end:
        raise ValueError(f"model {model!r} has levels up to {np.exp(made[0]):.6g} after its first, "
                         f"{type(process).__name__} ends at {end:.6g}")
    return _grid(process, processes.t_of_logsnr(process, -2 * made))


def logsnr(process: Process, *, steps: int, sigma_min: float = SIGMA_MIN, sigma_max: float | None = None) -> Times:
    """Returns levels uniform in log-SNR, the limit ρ → ∞ of `karras` (Lu et al. 2022, sec. 3.3)."""
    high, low = _levels(process, sigma_min, sigma_max)
    ramp = np.linspace(math.log(high), math.log(low), _checked(steps))
    return _grid(process, processes.t_of_logsnr(process, -2 * ramp[1:]))


def _checked(steps: int) -> int:
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    return steps


def _table(process: Process, steps: int) -> int:
    """Levels of the table that a process is made from."""
    inner = process
    while hasattr(inner, "process"):
        inner = inner.process
    if not hasattr(inner, "levels"):
        raise ValueError(f"{type(inner).__name__} has no table of timesteps; use 'uniform', which is their limit")
    if not 1 <= steps <= inner.levels:
        raise ValueError(f"steps must lie between 1 and the table's {inner.levels}, got {steps}")
    return inner.levels


def _start(process: Process) -> float:
    return 1.0 if processes.ends_in_noise(process) else float(process.span[1])


def _grid(process: Process, middle: np.ndarray) -> Times:
    return Times((_start(process), *(float(t) for t in middle), 0.0))


def _levels(process: Process, sigma_min: float, sigma_max: float | None) -> tuple[float, float]:
    """Returns the largest and smallest σ/α of a grid."""
    if processes.ends_in_noise(process):
        high = SIGMA_MAX if sigma_max is None else sigma_max
    else:
        high = float(processes.ratio(process, process.span[1]))
        if sigma_max is not None and not math.isclose(sigma_max, high, rel_tol=1e-6):
            raise ValueError(f"sigma_max={sigma_max}: sampling starts where {type(process).__name__} ends, at "
                             f"{high:.6g}; change the process instead")
    low = max(sigma_min, float(processes.ratio(process, process.span[0])))
    if not 0 < low < high:
        raise ValueError(f"a grid needs 0 < sigma_min < sigma_max, got {low:.6g} and {high:.6g}")
    return high, low
