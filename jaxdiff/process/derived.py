"""What follows from a process, derived once: log-SNR, slopes, drift, diffusion, transitions, and the way back.

    drift      f  = α'/α                     dx = f x dt + g dw  (Song et al. 2021, eq. 5)
    diffusion  g² = 2 σ (σ' - σ α'/α) = -σ² λ'
    t ← s      α_ts = α_t/α_s,  σ_ts² = -σ_t² expm1(λ_t - λ_s)   (Kingma et al. 2021, app. A)

Functions take numpy arrays (float64 on the host, for schedules) and JAX arrays alike.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.protocols import Array, Process

__all__ = [
    "alpha", "check_span", "diffusion", "drift", "ends_in_noise", "expand", "logsnr", "norm", "perturb", "prior_scale",
    "ratio", "sigma", "slopes", "t_of_logsnr", "transition",
]


HALVINGS = 60  # of [0, 1]: below float64's spacing


def _array(t: Any) -> Array:
    return t if hasattr(t, "__array_namespace__") else np.asarray(t, np.float64)


def alpha(process: Process, t: Array) -> Array:
    """Returns α(t), of the shape and kind of `t`."""
    t = _array(t)
    with np.errstate(divide="ignore"):
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


def norm(process: Process, alpha_: Array, sigma_: Array) -> Array:
    """Returns what stays put along the path of the process, √(α² + σ²) unless it says otherwise."""
    return process.norm(alpha_, sigma_) if hasattr(process, "norm") else (alpha_**2 + sigma_**2) ** 0.5


def slopes(process: Process, t: Array) -> tuple[Array, Array]:
    """Returns (α'(t), σ'(t)), of the shape of `t`; float64 for a numpy `t`, inside `jit` too."""
    t = _array(t)
    learned = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(process))
    if isinstance(t, jax.Array) or learned:
        return _slopes(process, jnp.asarray(t))
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
    return _bisected_jax(process, wanted) if isinstance(wanted, jax.Array) else _bisected(process, wanted)


def _bisected(process: Process, wanted: Array) -> Array:
    low, high = np.zeros_like(wanted), np.ones_like(wanted)
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        noisier = np.asarray(logsnr(process, middle)) > wanted  # λ falls: the answer lies above
        low, high = np.where(noisier, middle, low), np.where(noisier, high, middle)
    return 0.5 * (low + high)


def _bisected_jax(process: Process, wanted: jax.Array) -> jax.Array:
    def halve(_: Array, bounds: tuple) -> tuple:
        low, high = bounds
        middle = 0.5 * (low + high)
        noisier = logsnr(process, middle) > wanted
        return jnp.where(noisier, middle, low), jnp.where(noisier, high, middle)

    t = jax.lax.stop_gradient(0.5 * sum(jax.lax.fori_loop(
        0, HALVINGS, halve, (jnp.zeros_like(wanted), jnp.ones_like(wanted)))))
    # One step of Newton's method, which moves nothing and carries the derivative of the implicit function.
    found, slope = jax.jvp(lambda u: logsnr(process, u), (t,), (jnp.ones_like(t),))
    finite = jnp.isfinite(found) & jnp.isfinite(wanted) & (slope < 0)
    safe = jnp.where(finite, jax.lax.stop_gradient(slope), 1.0)
    return t - jnp.where(finite, found - jnp.where(finite, wanted, 0.0), 0.0) / safe


def ends_in_noise(process: Process) -> bool:
    """Says whether α(1) = 0: pure noise, where ε and score carry nothing of x0."""
    end = alpha(process, np.float64(1.0))
    return not isinstance(end, jax.core.Tracer) and bool(end == 0)  # a schedule being learned is finite


def check_span(process: Process) -> None:
    """Refuses a span that is no piece of [0, 1].

    Raises:
      ValueError: the span, and what it may be.
    """
    low, high = process.span
    if not 0 <= low < high <= 1:
        raise ValueError(f"the span of {type(process).__name__} must be 0 <= first < last <= 1, got {(low, high)}")


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
