"""Processes that were published as a table of betas: DDPM, Stable Diffusion, the clipped cosine.

Level i of T lies at t = i/T, so that a network's timestep n = 0..T-1 is t = (n + 1)/T; t = 0 is
the data, which no table holds.  Between levels ln(σ/α) is linear in t, below the first σ/α falls
linearly to 0.  All is variance preserving, α² = sigmoid(λ).
"""

import math

import numpy as np

from jaxdiff.process.derived import check_span
from jaxdiff.protocols import Array, frozen

__all__ = ["Discrete", "betas"]

SCHEDULES = ("linear", "scaled_linear", "cosine")
ENDS = {"linear": (1e-4, 0.02), "scaled_linear": (0.00085, 0.012)}  # for T = 1000


def betas(schedule: str, *, levels: int = 1000, beta_min: float | None = None,
          beta_max: float | None = None) -> np.ndarray:
    """Returns β_1..β_T, float64 [levels].

    Args:
      schedule: "linear" (Ho et al. 2020), "scaled_linear", linear in √β (Rombach et al. 2022), or "cosine",
        clipped at 0.999 (Nichol & Dhariwal 2021, eq. 17).
      levels: T, at least 2.
      beta_min, beta_max: first and last β of the two linear ones; the papers' own unless given.

    Raises:
      ValueError: another schedule, fewer than 2 levels, or betas out of order.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got {schedule!r}")
    if levels < 2:
        raise ValueError(f"a table needs at least 2 levels, got {levels}")
    if schedule == "cosine":
        if beta_min is not None or beta_max is not None:
            raise ValueError("schedule 'cosine' has no beta_min nor beta_max: its betas follow from the cosine")
        bars = np.cos((np.arange(levels + 1) / levels + 0.008) / 1.008 * math.pi / 2) ** 2
        return np.minimum(1 - bars[1:] / bars[:-1], 0.999)
    low, high = ENDS[schedule]
    low, high = low if beta_min is None else beta_min, high if beta_max is None else beta_max
    if not 0 < low <= high < 1:
        raise ValueError(f"a table needs 0 < beta_min <= beta_max < 1, got {low} and {high}")
    power = 0.5 if schedule == "scaled_linear" else 1.0
    return np.linspace(low**power, high**power, levels) ** (1 / power)


@frozen()
class Discrete:
    """Variance preserving, with the levels of a published table of `levels` betas; see `betas`."""

    schedule: str = "linear"
    levels: int = 1000
    beta_min: float | None = None
    beta_max: float | None = None

    def __post_init__(self) -> None:
        betas(self.schedule, levels=self.levels, beta_min=self.beta_min, beta_max=self.beta_max)
        check_span(self)

    @property
    def span(self) -> tuple[float, float]:
        return 1 / self.levels, 1.0

    def log_ratios(self) -> np.ndarray:
        """Returns ln(σ/α) at t = 1/T, 2/T, ..., 1: float64 [levels]."""
        log_bars = np.cumsum(np.log1p(-betas(self.schedule, levels=self.levels, beta_min=self.beta_min,
                                             beta_max=self.beta_max)))
        return 0.5 * (np.log(-np.expm1(log_bars)) - log_bars)

    def log_alpha(self, t: Array) -> Array:
        xp = t.__array_namespace__()
        return -0.5 * xp.logaddexp(xp.zeros_like(t), 2 * self._log_ratio(t))

    def log_sigma(self, t: Array) -> Array:
        xp = t.__array_namespace__()
        return -0.5 * xp.logaddexp(xp.zeros_like(t), -2 * self._log_ratio(t))

    def _log_ratio(self, t: Array) -> Array:
        xp, at = t.__array_namespace__(), t * self.levels - 1  # 0 is the first level
        table = xp.asarray(self.log_ratios(), dtype=t.dtype)
        left = xp.clip(xp.floor(at), 0, self.levels - 2).astype(int)
        between = table[left] + (at - left) * (table[left + 1] - table[left])
        below = table[0] + xp.log(xp.where(at < 0, 1 + at, xp.ones_like(at)))
        return xp.where(at < 0, below, between)

    def t_of_logsnr(self, logsnr: Array) -> Array:
        xp = logsnr.__array_namespace__()
        wanted = -0.5 * logsnr
        table = xp.asarray(self.log_ratios(), dtype=logsnr.dtype)
        left = xp.clip(xp.searchsorted(table, wanted) - 1, 0, self.levels - 2)
        between = left + (wanted - table[left]) / (table[left + 1] - table[left])
        return xp.where(wanted < table[0], xp.exp(wanted - table[0]), 1 + between) / self.levels
