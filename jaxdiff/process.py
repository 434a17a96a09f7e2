"""What noise does: `x_t = α(t) x0 + σ(t) ε`, with t from 0 (data) to 1 (noise).

A process is a frozen dataclass with `log_alpha`, `log_sigma` and `span`, the times between
which its log-SNR λ = 2 ln(α/σ) is finite in float32 and from which training times are drawn.
`alpha` and `sigma` are their exponentials unless the process gives a form that also holds
where one of them vanishes.  Everything else is derived here, once:

    drift      f  = α'/α                     dx = f x dt + g dw  (Song et al. 2021, eq. 5)
    diffusion  g² = 2 σ (σ' - σ α'/α) = -σ² λ'
    t ← s      α_ts = α_t/α_s,  σ_ts² = -σ_t² expm1(λ_t - λ_s)   (Kingma et al. 2021, app. A)

Functions take numpy arrays (float64 on the host, for schedules) and JAX arrays alike.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.protocols import Array, Process, frozen

__all__ = [
    "EDM", "VE", "VP", "Cosine", "RectifiedFlow", "alpha", "diffusion", "drift", "expand", "ends_in_noise",
    "logsnr", "perturb", "prior_scale", "ratio", "sigma", "slopes", "t_of_logsnr", "transition",
]


@frozen()
class VP:
    """Variance preserving, β linear in t (Song et al. 2021, eq. 33; DDPM's limit).

    α = exp(-B/2), σ² = 1 - exp(-B), B = β_min t + (β_max - β_min) t²/2.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    span: tuple[float, float] = (1e-5, 1.0)

    def __post_init__(self) -> None:
        if not 0 < self.beta_min <= self.beta_max:
            raise ValueError(f"VP needs 0 < beta_min <= beta_max, got {self.beta_min} and {self.beta_max}")

    def _integral(self, t: Array) -> Array:
        return self.beta_min * t + 0.5 * (self.beta_max - self.beta_min) * t * t

    def log_alpha(self, t: Array) -> Array:
        return -0.5 * self._integral(t)

    def log_sigma(self, t: Array) -> Array:
        xp = t.__array_namespace__()
        return 0.5 * xp.log(-xp.expm1(-self._integral(t)))

    def t_of_logsnr(self, logsnr: Array) -> Array:
        xp = logsnr.__array_namespace__()
        integral = xp.logaddexp(xp.zeros_like(logsnr), -logsnr)
        slope = self.beta_max - self.beta_min
        return 2 * integral / (self.beta_min + xp.sqrt(self.beta_min**2 + 2 * slope * integral))


@frozen()
class Cosine:
    """α = cos(πt/2), σ = sin(πt/2): the continuous cosine schedule (Nichol & Dhariwal 2021)."""

    span: tuple[float, float] = (1e-4, 1 - 1e-4)

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

    def log_alpha(self, t: Array) -> Array:
        return 0 * t

    def log_sigma(self, t: Array) -> Array:
        return math.log(self.sigma_min) + t * math.log(self.sigma_max / self.sigma_min)

    def t_of_logsnr(self, logsnr: Array) -> Array:
        return (-0.5 * logsnr - math.log(self.sigma_min)) / math.log(self.sigma_max / self.sigma_min)


@frozen()
class EDM:
    """α = 1, σ = σ_max t (Karras et al. 2022, table 1)."""

    sigma_max: float = 80.0
    span: tuple[float, float] = (1e-6, 1.0)

    def __post_init__(self) -> None:
        if not self.sigma_max > 0:
            raise ValueError(f"EDM needs sigma_max > 0, got {self.sigma_max}")

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


@frozen()
class RectifiedFlow:
    """α = 1 - t, σ = t (Liu et al. 2022; Lipman et al. 2022, turned round: 0 is data here)."""

    span: tuple[float, float] = (1e-4, 1 - 1e-4)

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


def _array(t: Any) -> Array:
    return t if hasattr(t, "__array_namespace__") else np.asarray(t, np.float64)


def alpha(process: Process, t: Array) -> Array:
    """Returns α(t), of the shape and kind of `t`."""
    t = _array(t)
    return process.alpha(t) if hasattr(process, "alpha") else _exp(process.log_alpha(t))


def sigma(process: Process, t: Array) -> Array:
    """Returns σ(t), of the shape and kind of `t`."""
    t = _array(t)
    with np.errstate(divide="ignore"):
        return process.sigma(t) if hasattr(process, "sigma") else _exp(process.log_sigma(t))


def _exp(x: Array) -> Array:
    return x.__array_namespace__().exp(x)


def logsnr(process: Process, t: Array) -> Array:
    """Returns λ(t) = 2 ln(α/σ); infinite where α or σ vanishes."""
    t = _array(t)
    with np.errstate(divide="ignore"):
        return 2 * (process.log_alpha(t) - process.log_sigma(t))


def ratio(process: Process, t: Array) -> Array:
    """Returns σ/α, the noise level in EDM's coordinates x/α; infinite where α vanishes."""
    t = _array(t)
    with np.errstate(divide="ignore"):
        return sigma(process, t) / alpha(process, t)


def slopes(process: Process, t: Array) -> tuple[Array, Array]:
    """Returns (α'(t), σ'(t)), of the shape of `t`; float64 for a numpy `t`, inside `jit` too."""
    t = _array(t)
    if isinstance(t, jax.Array):
        return _slopes(process, t)
    with jax.enable_x64(True), jax.ensure_compile_time_eval():
        d_alpha, d_sigma = _slopes(process, jnp.asarray(t, jnp.float64))
        return np.asarray(d_alpha), np.asarray(d_sigma)


def _slopes(process: Process, t: jax.Array) -> tuple[jax.Array, jax.Array]:
    # Of α and σ themselves: the slope of exp(log α) is NaN where α = 0.
    return jax.jvp(lambda u: (alpha(process, u), sigma(process, u)), (t,), (jnp.ones_like(t),))[1]


def drift(process: Process, t: Array) -> Array:
    """Returns f(t) = α'/α of dx = f x dt + g dw."""
    return slopes(process, t)[0] / alpha(process, t)


def diffusion(process: Process, t: Array) -> Array:
    """Returns g²(t) = 2 σ (σ' - f σ)."""
    d_alpha, d_sigma = slopes(process, t)
    s = sigma(process, t)
    return 2 * s * (d_sigma - s * d_alpha / alpha(process, t))


def transition(process: Process, t: Array, s: Array) -> tuple[Array, Array]:
    """Returns (α_ts, σ_ts) of x_t given x_s, for s < t (Kingma et al. 2021, app. A.1)."""
    jump = logsnr(process, t) - logsnr(process, s)
    xp = jump.__array_namespace__()
    return alpha(process, t) / alpha(process, s), sigma(process, t) * xp.sqrt(-xp.expm1(jump))


def t_of_logsnr(process: Process, logsnr_: Array) -> Array:
    """Returns the t at which λ(t) is `logsnr_`, by bisection unless the process knows.

    The bisection looks within [0, 1]; a closed form may go beyond, as EDM's churn does.
    """
    wanted = _array(logsnr_)
    if hasattr(process, "t_of_logsnr"):
        return process.t_of_logsnr(wanted)
    xp = wanted.__array_namespace__()
    low, high = xp.zeros_like(wanted), xp.ones_like(wanted)
    for _ in range(60):  # halves the interval below float64's spacing
        middle = 0.5 * (low + high)
        noisier = logsnr(process, middle) > wanted  # λ falls: the answer lies above
        low, high = xp.where(noisier, middle, low), xp.where(noisier, high, middle)
    return 0.5 * (low + high)


def ends_in_noise(process: Process) -> bool:
    """Says whether α(1) = 0: pure noise, where ε and score carry nothing of x0."""
    return bool(alpha(process, np.float64(1.0)) == 0)


def prior_scale(process: Process, t: Array = 1.0) -> Array:
    """Returns the standard deviation of the noise from which sampling starts, σ(t)."""
    return sigma(process, t)


def expand(value: Array, x: Array) -> Array:
    """Gives a value () or [b] trailing axes, so that it multiplies `x` [b, ...]."""
    value = jnp.asarray(value)
    return value.reshape(value.shape + (1,) * (x.ndim - value.ndim)) if value.ndim else value


def perturb(process: Process, x0: Array, eps: Array, t: Array) -> Array:
    """Returns x_t = α(t) x0 + σ(t) ε, for x0 and ε [b, ...] and t () or [b]."""
    return expand(alpha(process, t), x0) * x0 + expand(sigma(process, t), x0) * eps
