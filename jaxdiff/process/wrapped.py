"""Processes made from any other: its noise shifted for another resolution, or brought to an end in pure noise."""

import math

import jax
import numpy as np

from jaxdiff.process import derived
from jaxdiff.protocols import Array, Process, frozen

__all__ = ["Shift", "ZeroTerminalSNR"]


@frozen(leaves=("process",))
class Shift:
    """Every log-SNR lowered by 2 ln(factor), that is σ/α times `factor`, as images of higher resolution need.

    On a flow this is t' = s t/(1 + (s - 1) t) (Esser et al. 2024, eq. 23), on a cosine the shift by 2 ln(d/64)
    of Hoogeboom et al. 2023, eq. 4.  x stays in the frame of the process, whose `norm` is kept.

    Attributes:
      process: the process shifted.
      factor: s > 0; 3 for flows at 1024², side/64 for a cosine.
    """

    process: Process
    factor: float = 3.0

    def __post_init__(self) -> None:
        if isinstance(self.factor, float | int) and not self.factor > 0:
            raise ValueError(f"Shift needs factor > 0, got {self.factor}")

    @property
    def span(self) -> tuple[float, float]:
        return self.process.span

    def _gain(self, t: Array) -> Array:
        alpha, sigma = derived.alpha(self.process, t), derived.sigma(self.process, t)
        return derived.norm(self.process, alpha, sigma) / derived.norm(self.process, alpha, self.factor * sigma)

    def alpha(self, t: Array) -> Array:
        return derived.alpha(self.process, t) * self._gain(t)

    def sigma(self, t: Array) -> Array:
        return self.factor * derived.sigma(self.process, t) * self._gain(t)

    def log_alpha(self, t: Array) -> Array:
        xp = t.__array_namespace__()
        return self.process.log_alpha(t) + xp.log(self._gain(t))

    def log_sigma(self, t: Array) -> Array:
        xp = t.__array_namespace__()
        return self.process.log_sigma(t) + math.log(self.factor) + xp.log(self._gain(t))

    def t_of_logsnr(self, logsnr: Array) -> Array:
        return derived.t_of_logsnr(self.process, logsnr + 2 * math.log(self.factor))

    def norm(self, alpha: Array, sigma: Array) -> Array:
        return derived.norm(self.process, alpha, sigma)


@frozen(leaves=("process",))
class ZeroTerminalSNR:
    """α shifted and scaled so that it ends at 0: sampling starts where training ends, in pure noise.

    α' = (α - α_1) α_a/(α_a - α_1) in the variance-preserving frame, with α_a at the start of the span,
    below which nothing changes (Lin et al. 2023, algorithm 1).
    """

    process: Process

    def __post_init__(self) -> None:
        if isinstance(self.process, Process) and derived.ends_in_noise(self.process):
            raise ValueError(f"{type(self.process).__name__} ends in pure noise already: it needs no ZeroTerminalSNR")

    @property
    def span(self) -> tuple[float, float]:
        return self.process.span[0], 1 - 1e-4

    def _anchors(self) -> tuple[float, float]:
        """1 - α at the start of the span and α at t = 1, of the variance-preserving frame."""
        ends = np.asarray([self.process.span[0], 1.0])
        log_alpha = -0.5 * np.logaddexp(0, -derived.logsnr(self.process, ends))
        return float(-np.expm1(log_alpha[0])), float(np.exp(log_alpha[1]))

    def _parts(self, t: Array) -> tuple[Array, Array]:
        """(α, 1 - α), each to its own last digit."""
        xp = t.__array_namespace__()
        start, end = self._anchors()
        log_alpha = -0.5 * xp.logaddexp(xp.zeros_like(t), -derived.logsnr(self.process, t))
        gap = -xp.expm1(log_alpha)
        scale = (1 - start) / (1 - start - end)
        alpha = scale * (xp.exp(log_alpha) - end)
        alpha = alpha - xp.where(t >= 1, _constant(alpha), xp.zeros_like(alpha))  # 0 to the bit, and its slope kept
        missing = ((1 - start) * gap - end * start) / (1 - start - end)
        early = t <= self.process.span[0]
        return xp.where(early, xp.exp(log_alpha), alpha), xp.where(early, gap, missing)

    def alpha(self, t: Array) -> Array:
        return self._parts(t)[0]

    def sigma(self, t: Array) -> Array:
        xp = t.__array_namespace__()
        alpha, missing = self._parts(t)
        return xp.sqrt(missing * (1 + alpha))

    def log_alpha(self, t: Array) -> Array:
        xp = t.__array_namespace__()
        return xp.log(self.alpha(t))

    def log_sigma(self, t: Array) -> Array:
        xp = t.__array_namespace__()
        return xp.log(self.sigma(t))

    def t_of_logsnr(self, logsnr: Array) -> Array:
        # the same shift undone on 1 - α, which keeps its digits where α is almost 1
        xp = logsnr.__array_namespace__()
        start, end = self._anchors()
        log_alpha = -0.5 * xp.logaddexp(xp.zeros_like(logsnr), -logsnr)
        gap = -xp.expm1(log_alpha)
        inner_gap = (gap * (1 - start - end) + end * start) / (1 - start)
        inner_gap = xp.where(gap <= start, gap, inner_gap)
        log_inner = xp.log1p(-inner_gap)
        inner = 2 * log_inner - xp.log(inner_gap * (1 + xp.exp(log_inner)))
        return derived.t_of_logsnr(self.process, inner)


def _constant(value: Array) -> Array:
    return jax.lax.stop_gradient(value) if isinstance(value, jax.Array) else value
