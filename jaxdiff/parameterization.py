"""What a network predicts: `y = A x0 + B ε`.

A type of prediction is two functions (A, B) of α, σ and their slopes.  Together with
`x = α x0 + σ ε` they form a 2x2 system of determinant Δ = α B - σ A, so that one solve
turns any type into any other:

    x0 = (B x - σ y) / Δ        ε = (α y - A x) / Δ

and |δy|² = (Δ/α)² |δε|² turns any loss into any other.  The network itself is shown
`c_in x`, of unit variance for data of standard deviation `sigma_data`, and `c_noise(λ)`,
never t: a schedule can be changed after training.  Networks trained elsewhere were shown other things: a timestep
(`timestep`), the logarithm of σ (`log_sigma`), and with `raw` x itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxdiff.protocols import Array, Process, frozen

__all__ = [
    "Linear", "determinant", "edm", "eps", "log_sigma", "score", "solve", "timestep", "v", "velocity", "x0",
]

LOGSNR_LIMIT = 20.0  # beyond it float32 schedules have no digits left


def solve(y: Array, x: Array, a: Array, b: Array, alpha: Array, sigma: Array) -> tuple[Array, Array]:
    """Returns (x0, ε) from `y = a x0 + b ε` and `x = α x0 + σ ε`; all broadcast together."""
    delta = determinant(a, b, alpha, sigma)
    return (b * x - sigma * y) / delta, (alpha * y - a * x) / delta


def determinant(a: Array, b: Array, alpha: Array, sigma: Array) -> Array:
    """Returns Δ = α b - σ a, which vanishes where y and x say the same thing."""
    return alpha * b - sigma * a


@frozen()
class Linear:
    """A linear prediction type.

    Attributes:
      pair: `(α, σ, α', σ', sigma_data) -> (A, B)`, a module-level function.
      sigma_data: standard deviation of the data, > 0.
      embed: `λ -> c_noise`, hashable; λ arrives clipped to ±20.
      raw: show the network x itself, c_in = 1.
    """

    pair: Callable
    sigma_data: float
    embed: Callable
    raw: bool = False

    def __post_init__(self) -> None:
        if not self.sigma_data > 0:
            raise ValueError(f"sigma_data must be > 0, got {self.sigma_data}")

    def coefficients(self, alpha: Array, sigma: Array, d_alpha: Array, d_sigma: Array) -> tuple[Array, Array]:
        """Returns (A, B), shaped like α."""
        return self.pair(alpha, sigma, d_alpha, d_sigma, self.sigma_data)

    def c_in(self, alpha: Array, sigma: Array) -> Array:
        """Returns 1/√(α² sigma_data² + σ²), or 1."""
        if self.raw:
            return 0 * alpha + 1
        return (alpha**2 * self.sigma_data**2 + sigma**2) ** -0.5

    def c_noise(self, logsnr: Array) -> Array:
        """Returns what the network is shown of the noise level."""
        xp = logsnr.__array_namespace__()
        return self.embed(xp.clip(logsnr, -LOGSNR_LIMIT, LOGSNR_LIMIT))


@dataclass(frozen=True)
class LogSigma:
    """See `log_sigma`."""

    scale: float
    offset: float

    def __call__(self, logsnr: Array) -> Array:
        return (-0.5 * self.scale) * logsnr + self.offset


def log_sigma(*, scale: float = 0.25, offset: float = 0.0) -> LogSigma:
    """Shows the network `scale ln(σ/α) + offset`: EDM's ¼ ln σ (Karras et al. 2022, table 1), its VE's ln(σ/2)."""
    return LogSigma(scale, offset)


QUARTER_LOG_SIGMA = log_sigma()


@dataclass(frozen=True)
class Timestep:
    """See `timestep`."""

    process: Any
    scale: float
    offset: float

    def __post_init__(self) -> None:
        if not hasattr(self.process, "t_of_logsnr"):
            raise ValueError(f"a timestep is of a process that tells its own time, got {self.process!r}")

    def __call__(self, logsnr: Array) -> Array:
        return self.scale * self.process.t_of_logsnr(logsnr) + self.offset


def timestep(process: Process, *, scale: float = 1000.0, offset: float = -1.0) -> Timestep:
    """Shows the network `scale t + offset`, t the time at which `process` is as noisy.

    Args:
      process: with which the network was trained; another one may sample.
      scale: timesteps from t = 0 to 1; negative where the network's clock has data at its end.
      offset: of t = 0.  -1 counts the levels of a table from 0 (DDPM, ADM, Stable Diffusion).

    Raises:
      ValueError: a process without a `t_of_logsnr` of its own; that of a wrapped one follows from what is wrapped.
    """
    return Timestep(process, scale, offset)


def eps(*, sigma_data: float = 1.0, noise: Callable = QUARTER_LOG_SIGMA, raw: bool = False) -> Linear:
    """Predicts the noise (Ho et al. 2020, eq. 14); carries no x0 where α = 0."""
    return Linear(_eps, sigma_data, noise, raw)


def x0(*, sigma_data: float = 1.0, noise: Callable = QUARTER_LOG_SIGMA, raw: bool = False) -> Linear:
    """Predicts the clean data; carries no noise where σ = 0."""
    return Linear(_x0, sigma_data, noise, raw)


def v(*, sigma_data: float = 1.0, noise: Callable = QUARTER_LOG_SIGMA, raw: bool = False) -> Linear:
    """Predicts v = α ε - σ x0 (Salimans & Ho 2022, sec. 3)."""
    return Linear(_v, sigma_data, noise, raw)


def score(*, sigma_data: float = 1.0, noise: Callable = QUARTER_LOG_SIGMA, raw: bool = False) -> Linear:
    """Predicts ∇ ln p = -ε/σ (Song et al. 2021); carries no x0 where α = 0."""
    return Linear(_score, sigma_data, noise, raw)


def velocity(*, sigma_data: float = 1.0, noise: Callable = QUARTER_LOG_SIGMA, raw: bool = False,
             rising: bool = False) -> Linear:
    """Predicts dx/dt (Lipman et al. 2022, eq. 13); `rising`: in a clock that runs from noise to data, as SiT's does."""
    return Linear(_rising if rising else _velocity, sigma_data, noise, raw)


def edm(*, sigma_data: float = 0.5) -> Linear:
    """Predicts EDM's F = (D - c_skip x)/c_out (Karras et al. 2022, eq. 7).

    In the homogeneous form A = σ/(σ_d r), B = -σ_d α/r with r² = σ² + σ_d² α², finite at
    both ends, where the published (1 - c_skip)/c_out is not.
    """
    return Linear(_edm, sigma_data, QUARTER_LOG_SIGMA)


def _eps(alpha: Array, sigma: Array, d_alpha: Array, d_sigma: Array, sigma_data: float) -> tuple[Array, Array]:
    return 0 * alpha, 0 * alpha + 1


def _x0(alpha: Array, sigma: Array, d_alpha: Array, d_sigma: Array, sigma_data: float) -> tuple[Array, Array]:
    return 0 * alpha + 1, 0 * alpha


def _v(alpha: Array, sigma: Array, d_alpha: Array, d_sigma: Array, sigma_data: float) -> tuple[Array, Array]:
    return -sigma, alpha


def _score(alpha: Array, sigma: Array, d_alpha: Array, d_sigma: Array, sigma_data: float) -> tuple[Array, Array]:
    return 0 * alpha, -1 / sigma


def _velocity(alpha: Array, sigma: Array, d_alpha: Array, d_sigma: Array, sigma_data: float) -> tuple[Array, Array]:
    return d_alpha, d_sigma


def _rising(alpha: Array, sigma: Array, d_alpha: Array, d_sigma: Array, sigma_data: float) -> tuple[Array, Array]:
    return -d_alpha, -d_sigma


def _edm(alpha: Array, sigma: Array, d_alpha: Array, d_sigma: Array, sigma_data: float) -> tuple[Array, Array]:
    root = (sigma**2 + sigma_data**2 * alpha**2) ** 0.5
    return sigma / (sigma_data * root), -sigma_data * alpha / root
