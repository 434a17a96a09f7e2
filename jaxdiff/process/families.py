"""Processes with a closed form: variance preserving, variance exploding, and flows."""

import math

from jaxdiff.process.derived import check_span
from jaxdiff.protocols import Array, frozen

__all__ = ["EDM", "VE", "VP", "Cosine", "RectifiedFlow", "Sigmoid", "SubVP", "TrigFlow"]


def _integral(beta_min: float, beta_max: float, t: Array) -> Array:
    """B(t) = ∫₀ᵗ β for β linear in t."""
    return beta_min * t + 0.5 * (beta_max - beta_min) * t * t


def _time(beta_min: float, beta_max: float, integral: Array) -> Array:
    """The t at which B(t) is `integral`; the form of the root without cancellation."""
    xp = integral.__array_namespace__()
    return 2 * integral / (beta_min + xp.sqrt(beta_min**2 + 2 * (beta_max - beta_min) * integral))


def _check_betas(name: str, beta_min: float, beta_max: float) -> None:
    if not 0 < beta_min <= beta_max:
        raise ValueError(f"{name} needs 0 < beta_min <= beta_max, got {beta_min} and {beta_max}")


@frozen()
class VP:
    """Variance preserving, β linear in t (Song et al. 2021, eq. 33; DDPM's limit).

    α = exp(-B/2), σ² = 1 - exp(-B), B = β_min t + (β_max - β_min) t²/2.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    span: tuple[float, float] = (1e-5, 1.0)

    def __post_init__(self) -> None:
        _check_betas("VP", self.beta_min, self.beta_max)
        check_span(self)

    def log_alpha(self, t: Array) -> Array:
        return -0.5 * _integral(self.beta_min, self.beta_max, t)

    def log_sigma(self, t: Array) -> Array:
        xp = t.__array_namespace__()
        return 0.5 * xp.log(-xp.expm1(-_integral(self.beta_min, self.beta_max, t)))

    def t_of_logsnr(self, logsnr: Array) -> Array:
        xp = logsnr.__array_namespace__()
        return _time(self.beta_min, self.beta_max, xp.logaddexp(xp.zeros_like(logsnr), -logsnr))


@frozen()
class SubVP:
    """Sub-VP: VP's α with a smaller variance, σ = 1 - exp(-B) (Song et al. 2021, eq. 29)."""

    beta_min: float = 0.1
    beta_max: float = 20.0
    span: tuple[float, float] = (1e-4, 1.0)

    def __post_init__(self) -> None:
        _check_betas("SubVP", self.beta_min, self.beta_max)
        check_span(self)

    def log_alpha(self, t: Array) -> Array:
        return -0.5 * _integral(self.beta_min, self.beta_max, t)

    def sigma(self, t: Array) -> Array:
        xp = t.__array_namespace__()
        return -xp.expm1(-_integral(self.beta_min, self.beta_max, t))

    def log_sigma(self, t: Array) -> Array:
        xp = t.__array_namespace__()
        return xp.log(self.sigma(t))

    def t_of_logsnr(self, logsnr: Array) -> Array:
        # σ/α = 2 sinh(B/2)
        xp = logsnr.__array_namespace__()
        return _time(self.beta_min, self.beta_max, 2 * xp.asinh(0.5 * xp.exp(-0.5 * logsnr)))


@frozen()
class Cosine:
    """α = cos(πt/2), σ = sin(πt/2): the cosine schedule in continuous time.

    As published (Nichol & Dhariwal 2021, eq. 17) it has an offset and clipped β: `Discrete(schedule="cosine")`.
    """

    span: tuple[float, float] = (1e-4, 1 - 1e-4)

    def __post_init__(self) -> None:
        check_span(self)

    def alpha(self, t: Array) -> Array:
        xp = t.__array_namespace__()
        return xp.sin(0.5 * math.pi * (1 - t))  # cos(πt/2), and 0 to the bit at t = 1

    def sigma(self, t: Array) -> Array:
        xp = t.__array_namespace__()
        return xp.sin(0.5 * math.pi * t)

    def log_alpha(self, t: Array) -> Array:
        xp = t.__array_namespace__()
        return xp.log(self.alpha(t))

    def log_sigma(self, t: Array) -> Array:
        xp = t.__array_namespace__()
        return xp.log(self.sigma(t))

    def t_of_logsnr(self, logsnr: Array) -> Array:
        xp = logsnr.__array_namespace__()
        return (2 / math.pi) * xp.atan(xp.exp(-0.5 * logsnr))


@frozen()
class TrigFlow:
    """α = cos θ, σ = σ_d sin θ, θ = πt/2: every x_t has the data's standard deviation (Lu & Song 2024, sec. 3.1)."""

    sigma_data: float = 0.5
    span: tuple[float, float] = (1e-4, 1 - 1e-4)

    def __post_init__(self) -> None:
        if not self.sigma_data > 0:
            raise ValueError(f"TrigFlow needs sigma_data > 0, got {self.sigma_data}")
        check_span(self)

    def alpha(self, t: Array) -> Array:
        xp = t.__array_namespace__()
        return xp.sin(0.5 * math.pi * (1 - t))

    def sigma(self, t: Array) -> Array:
        xp = t.__array_namespace__()
        return self.sigma_data * xp.sin(0.5 * math.pi * t)

    def log_alpha(self, t: Array) -> Array:
        xp = t.__array_namespace__()
        return xp.log(self.alpha(t))

    def log_sigma(self, t: Array) -> Array:
        xp = t.__array_namespace__()
        return xp.log(self.sigma(t))

    def t_of_logsnr(self, logsnr: Array) -> Array:
        xp = logsnr.__array_namespace__()
        return (2 / math.pi) * xp.atan(xp.exp(-0.5 * logsnr) / self.sigma_data)

    def norm(self, alpha: Array, sigma: Array) -> Array:
        return (alpha**2 + (sigma / self.sigma_data) ** 2) ** 0.5


@frozen()
class Sigmoid:
    """Variance preserving, α² a piece of a falling sigmoid, brought to 1 at t = 0 and to 0 at t = 1.

    α² = (s(b) - s(a + (b - a) t)) / (s(b) - s(a)),  s(u) = 1/(1 + e^(-u/τ))

    Source: Jabri et al. 2022 (arXiv:2212.11972), app. B; in sinh and cosh, which keep their digits at both ends.
    """

    start: float = -3.0
    end: float = 3.0
    tau: float = 1.0
    span: tuple[float, float] = (1e-5, 1 - 1e-5)

    def __post_init__(self) -> None:
        if not (self.start < self.end and self.tau > 0):
            raise ValueError(f"Sigmoid needs start < end and tau > 0, got {self.start}, {self.end} and {self.tau}")
        check_span(self)

    def _width(self) -> float:
        return (self.end - self.start) / (2 * self.tau)

    def _skew(self) -> float:
        """ln(cosh(b/2τ)/cosh(a/2τ)): 0 for a piece around 0."""
        return math.log(math.cosh(self.end / (2 * self.tau)) / math.cosh(self.start / (2 * self.tau)))

    def log_alpha(self, t: Array) -> Array:
        xp = t.__array_namespace__()
        return -0.5 * xp.logaddexp(xp.zeros_like(t), -self._logsnr(t))

    def log_sigma(self, t: Array) -> Array:
        xp = t.__array_namespace__()
        return -0.5 * xp.logaddexp(xp.zeros_like(t), self._logsnr(t))

    def _logsnr(self, t: Array) -> Array:
        xp = t.__array_namespace__()
        width = self._width()
        return xp.log(xp.sinh(width * (1 - t))) - xp.log(xp.sinh(width * t)) - self._skew()

    def t_of_logsnr(self, logsnr: Array) -> Array:
        # sinh(w t) = k sinh(w (1 - t)), solved for tanh(w t)
        xp = logsnr.__array_namespace__()
        width, k = self._width(), xp.exp(-logsnr - self._skew())
        return xp.clip(xp.atanh(math.sinh(width) / (1 / k + math.cosh(width))) / width, 0, 1)


@frozen()
class VE:
    """Variance exploding, σ = σ_min (σ_max/σ_min)^t (Song et al. 2021, eq. 30).

    Its span starts just above 0, since t = 0 in a grid means the data, not σ_min.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    span: tuple[float, float] = (1e-5, 1.0)

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(f"VE needs 0 < sigma_min < sigma_max, got {self.sigma_min} and {self.sigma_max}")
        check_span(self)

    def log_alpha(self, t: Array) -> Array:
        return 0 * t

    def log_sigma(self, t: Array) -> Array:
        return math.log(self.sigma_min) + t * math.log(self.sigma_max / self.sigma_min)

    def t_of_logsnr(self, logsnr: Array) -> Array:
        return (-0.5 * logsnr - math.log(self.sigma_min)) / math.log(self.sigma_max / self.sigma_min)

    def norm(self, alpha: Array, sigma: Array) -> Array:
        del sigma
        return alpha


@frozen()
class EDM:
    """α = 1, σ = σ_max t (Karras et al. 2022, table 1)."""

    sigma_max: float = 80.0
    span: tuple[float, float] = (1e-6, 1.0)

    def __post_init__(self) -> None:
        if not self.sigma_max > 0:
            raise ValueError(f"EDM needs sigma_max > 0, got {self.sigma_max}")
        check_span(self)

    def sigma(self, t: Array) -> Array:
        return self.sigma_max * t

    def log_alpha(self, t: Array) -> Array:
        return 0 * t

    def log_sigma(self, t: Array) -> Array:
        xp = t.__array_namespace__()
        return math.log(self.sigma_max) + xp.log(t)

    def t_of_logsnr(self, logsnr: Array) -> Array:
        xp = logsnr.__array_namespace__()
        return xp.exp(-0.5 * logsnr) / self.sigma_max

    def norm(self, alpha: Array, sigma: Array) -> Array:
        del sigma
        return alpha


@frozen()
class RectifiedFlow:
    """α = 1 - t, σ = t (Liu et al. 2022; Lipman et al. 2022, turned round: 0 is data here)."""

    span: tuple[float, float] = (1e-4, 1 - 1e-4)

    def __post_init__(self) -> None:
        check_span(self)

    def alpha(self, t: Array) -> Array:
        return 1 - t

    def sigma(self, t: Array) -> Array:
        return t

    def log_alpha(self, t: Array) -> Array:
        xp = t.__array_namespace__()
        return xp.log1p(-t)

    def log_sigma(self, t: Array) -> Array:
        xp = t.__array_namespace__()
        return xp.log(t)

    def t_of_logsnr(self, logsnr: Array) -> Array:
        xp = logsnr.__array_namespace__()
        return 1 / (1 + xp.exp(0.5 * logsnr))

    def norm(self, alpha: Array, sigma: Array) -> Array:
        return alpha + sigma
