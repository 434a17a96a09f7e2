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

__all__ = ["Times", "given", "karras", "logsnr", "uniform"]

SIGMA_MIN, SIGMA_MAX = 0.002, 80.0  # Karras et al. 2022, table 1


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


def logsnr(process: Process, *, steps: int, sigma_min: float = SIGMA_MIN, sigma_max: float | None = None) -> Times:
    """Returns levels uniform in log-SNR, the limit ρ → ∞ of `karras` (Lu et al. 2022, sec. 3.3)."""
    high, low = _levels(process, sigma_min, sigma_max)
    ramp = np.linspace(math.log(high), math.log(low), _checked(steps))
    return _grid(process, processes.t_of_logsnr(process, -2 * ramp[1:]))


def _checked(steps: int) -> int:
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    return steps


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
