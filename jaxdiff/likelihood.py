"""Log-density of what a denoiser generates, and bits per dimension, by the probability-flow ODE.

The ODE is integrated from the data to the noise together with its divergence (Chen et al. 2018).
In the frame x̃ = x/r, r = √(α² + σ²), whose clock is the angle φ = atan(σ/α), it is the same for
every process, and finite from the data (φ → 0) to pure noise (φ = π/2), with n the dimensions:

    dx̃/dφ = (cos φ x̃ - D)/sin φ          ∇·(dx̃/dφ) = (n cos φ - tr ∂D/∂x̃)/sin φ
    ln p(x0) = ln N(x̃_1; 0, sin² φ_1) + ∫ ∇·(dx̃/dφ) dφ + n ln cos φ_0

p is the density of x0 plus the noise σ/α at the start of the process's span, or of the grid where
that starts later.  The prior is what sampling starts from; where α > 0 at the end it differs from
the law of x_1: by at most (α/σ)² |x0|²/2 nats in the mean, and by about (α/σ)|x0||ε| for one x0.
Data of scale 1 in the plane lose 1e-2 at most where σ/α ends at 80, 4e-2 at Stable Diffusion's 14.6.

The trace is summed over a basis, or estimated without bias by v·∂D/∂x̃ v for E[vvᵀ] = I, v held fixed
along the path (Skilling 1989, Hutchinson 1990, Grathwohl et al. 2019); signs have the least variance.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import process as processes
from jaxdiff import walk as walks
from jaxdiff.build import nearest
from jaxdiff.denoiser import Denoiser
from jaxdiff.protocols import Array, Cond, Key, Process
from jaxdiff.times import Times

__all__ = ["Recorded", "bits_per_dim", "centred", "log_density"]

# Explicit Runge-Kutta methods: the rows of a, and the weights b; a stage lies at the sum of its row.
METHODS = {
    "heun": (((), (1.0,)), (0.5, 0.5)),
    "rk4": (((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
}
TRACES = {"rademacher": jax.random.rademacher, "gaussian": jax.random.normal}
_STATIC = ("trace", "probes", "method", "tolerance", "precision")


@jax.tree_util.register_static
class Recorded(str):
    """A word that goes through `jit` with the numbers it belongs to."""


@functools.partial(jax.jit, static_argnames=_STATIC)
def log_density(denoiser: Denoiser, x0: Array, times: Times, key: Key | None = None, *, cond: Cond = None,
                trace: str = "rademacher", probes: int = 1, method: str = "rk4", tolerance: float = 1e-5,
                precision: str = "highest") -> tuple[Array, dict]:
    """Returns the log-density of x0 under the denoiser's model.

    Args:
      denoiser: D(x, t, cond); guided ones have a density too, of what their ODE generates.
      x0: clean data [b, ...], floats; the arithmetic is of their dtype.
      times: the grid, falling or rising, up to the noise; moved into the process's span.  As for sampling, 0 in it is
        the data.
      key: for the probes; one, or one a sample [b]: then sample i depends on its own key alone, whatever the batch.
      cond: leaves [b, ...].
      trace: "exact" (n Jacobian products a call: up to some hundred dimensions), "rademacher" or "gaussian".
      probes: vectors averaged over by an estimate, >= 1.
      method: "rk4" (order 4, 4 calls a step), "heun" (order 2, 2 calls), or "adaptive", between the grid's ends:
        Tsitouras' 5(4) of diffrax, each sample at its own pace.
      tolerance: relative and absolute, of "adaptive", > 0.
      precision: of matrix products, as in `jax.default_matmul_precision`; a TPU's own default has 3 digits.

    Returns:
      nats [b], and `{"nfe": denoiser calls () or [b], "precision": precision}`.

    Raises:
      ValueError: an unknown trace or method, probes < 1, tolerance <= 0, a missing or raw key, x0 that are not floats,
        or a grid that ends before the noise.

    Source: Song et al. 2021 (arXiv:2011.13456), eq. 39 and app. D.2, in another frame.
    """
    _check(x0, trace, probes, method, tolerance)
    grid = _rising(denoiser.process, times)
    with jax.default_matmul_precision(precision):
        directions = _directions(x0, key, trace, probes)
        _, cos, sin = _angles(denoiser.process, _ends(grid))
        shrink, spread = jnp.asarray(cos[0], x0.dtype), jnp.asarray(sin[1], x0.dtype)
        given = denoiser, shrink * x0, grid, directions, cond
        x, gained, nfe = _adaptive(*given, tolerance) if method == "adaptive" else _fixed(*given, method)
        size = math.prod(x0.shape[1:])
        prior = -0.5 * _sum(x**2) / spread**2 - size * (jnp.log(spread) + 0.5 * math.log(2 * math.pi))
        return prior + gained + size * jnp.log(shrink), {"nfe": nfe, "precision": Recorded(precision)}


def centred(pixel: Array) -> Array:
    """Returns x = 2 p/256 - 1 of pixels p in [0, 256]: bits/dim are then -log2 p(x)/n + 7."""
    return pixel / 128 - 1


def bits_per_dim(denoiser: Denoiser, image: Array, times: Times, key: Key, *, pixels: Callable = centred,
                 cond: Cond = None, trace: str = "rademacher", probes: int = 1, method: str = "rk4",
                 tolerance: float = 1e-5, precision: str = "highest") -> tuple[Array, dict]:
    """Returns -log2 p(pixels)/n of uniformly dequantised images, an upper bound of the discrete code's length.

    A pixel k becomes p = k + u, u uniform in [0, 1), and x = `pixels`(p); the density of p is that of x times
    |dx/dp|, which the map itself is asked for.  Integers alone have infinite density: a model that has learned
    them reaches any number of bits, below 0 too.

    Args:
      denoiser: D(x, t, cond).
      image: uint8 [b, ...], values k = 0..255.
      times, cond, trace, probes, method, tolerance, precision: as in `log_density`.
      key: for u and the probes; one, or one a sample [b].
      pixels: p in [0, 256] -> x, elementwise.  `centred` is the published convention, offset log2(128) = 7;
        p/127.5 - 1, the map of `data.to_float`, has log2(127.5) = 6.99435 and is a half-step off.

    Returns:
      bits a dimension [b], and what `log_density` says.

    Raises:
      ValueError: images that are not uint8, a missing or raw key, or as in `log_density`.

    Source: Theis et al. 2016, sec. 3.1; Song et al. 2021, sec. 4.3 and its code's offset.
    """
    if image.dtype != jnp.uint8:
        raise ValueError(f"bits/dim are of uint8 images, got {image.dtype}; log_density takes floats")
    u = _drawn(jax.random.uniform, _folded(key, 0), image.shape)
    pixel = jnp.asarray(image, u.dtype) + u
    x, slope = jax.jvp(pixels, (pixel,), (jnp.ones_like(pixel),))
    nats, aux = log_density(denoiser, x, times, _folded(key, 1), cond=cond, trace=trace, probes=probes, method=method,
                            tolerance=tolerance, precision=precision)
    return -(nats + _sum(jnp.log(jnp.abs(slope)))) / (math.prod(image.shape[1:]) * math.log(2)), aux


def _check(x0: Array, trace: str, probes: int, method: str, tolerance: float) -> None:
    if not jnp.issubdtype(x0.dtype, jnp.floating):
        raise ValueError(f"log_density takes x0 as floats, got {x0.dtype}; bits_per_dim takes uint8 images")
    for what, given, allowed in (("trace", trace, ("exact", *TRACES)), ("method", method, ("adaptive", *METHODS))):
        if given not in allowed:
            raise ValueError(f"unknown {what} {given!r}{nearest(given, allowed)}")
    if probes < 1:
        raise ValueError(f"probes must be at least 1, got {probes}")
    if not tolerance > 0:
        raise ValueError(f"tolerance must be > 0, got {tolerance}")


def _rising(process: Process, times: Times) -> Times:
    """The grid from data to noise, within the span, where log-SNR is finite and the network was trained."""
    low, high = max(process.span[0], 1e-6), process.span[1]  # a walk's 0 is the data without noise
    t = np.unique(np.clip(times.t, low, high))
    if t[-1] < high or len(t) < 2:
        raise ValueError(f"the grid ends at t={t[-1]:.6g}, before the noise at {high:.6g}, whose density is known")
    return Times(tuple(float(value) for value in t))


def _angles(process: Process, t: Array) -> tuple[Array, Array, Array]:
    """(r, cos φ, sin φ) with x̃ = x/r, shaped like t."""
    alpha, sigma = processes.alpha(process, t), processes.sigma(process, t)
    r = (alpha**2 + sigma**2) ** 0.5
    return r, alpha / r, sigma / r


def _sum(x: Array) -> Array:
    return x.reshape(x.shape[0], -1).sum(1)


def _folded(key: Key | None, number: int) -> Key | None:
    if key is None or not key.ndim:
        return key if key is None else jax.random.fold_in(key, number)
    return jax.vmap(jax.random.fold_in, (0, None))(key, number)


def _drawn(draw: Callable, key: Key | None, shape: tuple[int, ...], *, each: tuple[int, ...] = (),
           **options: Any) -> Array:
    """Draws [*each, b, ...]; with a key a sample, sample i from its own alone."""
    if key is None or not jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key):
        got = "none" if key is None else f"{key.dtype}{list(key.shape)}"
        raise ValueError(f"this draws: give it a typed key, jax.random.key(seed), got {got}")
    if not key.ndim:
        return draw(key, (*each, *shape), **options)
    return jax.vmap(lambda one: draw(one, (*each, *shape[1:]), **options), out_axes=len(each))(key)


def _directions(x0: Array, key: Key | None, trace: str, probes: int) -> Array:
    """Vectors [k, b, ...] or [k, 1, ...], the trace of any J is the sum of v·Jv over them, or its mean is."""
    size = math.prod(x0.shape[1:])
    if trace == "exact":
        return jnp.eye(size, dtype=x0.dtype).reshape(size, 1, *x0.shape[1:])
    return _drawn(TRACES[trace], key, x0.shape, each=(probes,), dtype=x0.dtype) / math.sqrt(probes)


def _slope(bound: Callable, x: Array, stage: Sequence[Array], directions: Array) -> tuple[Array, Array]:
    """dx̃/dφ [b, ...] and its divergence [b] at x̃ and (t, r, cos φ, sin φ)."""
    t, r, cos, sin = stage
    x0, push = jax.linearize(lambda y: bound(r * y, t), x)
    along = lambda v: _sum(v * (cos * v - push(jnp.broadcast_to(v, x.shape))))
    return (cos * x - x0) / sin, jax.vmap(along)(directions).sum(0) / sin


def _fixed(denoiser: Denoiser, x: Array, grid: Times, directions: Array, cond: Cond,
           method: str) -> tuple[Array, Array, Any]:
    """(x̃_1, integrated divergence [b], calls) by an explicit Runge-Kutta method in φ."""
    rows, weights = METHODS[method]
    places = [sum(row) for row in rows]

    def coefficients(at: walks.Row) -> dict:
        xp = at.alpha_t.__array_namespace__()
        start, end = xp.atan2(at.sigma_t, at.alpha_t), xp.atan2(at.sigma_s, at.alpha_s)
        inside = lambda c: processes.t_of_logsnr(denoiser.process, -2 * xp.log(xp.tan(start + c * (end - start))))
        t = xp.stack([at.t if c == 0 else at.s if c == 1 else inside(c) for c in places], -1)  # [steps, stages]
        r, cos, sin = _angles(denoiser.process, t)
        return {"length": end - start, "stages": (t, r, cos, sin)}

    def step(bound: Callable, x: Array, row: walks.Row, carry: tuple, noise: Callable) -> tuple:
        del noise
        moves: list[Array] = []
        gains: list[Array] = []
        for a, *stage in zip(rows, *row.c["stages"], strict=True):
            inner = x + row.c["length"] * sum(w * move for w, move in zip(a, moves, strict=True))
            move, gain = _slope(bound, inner, stage, directions)
            moves.append(move)
            gains.append(gain)
        move, gain = (sum(w * part for w, part in zip(weights, parts, strict=True)) for parts in (moves, gains))
        return x + row.c["length"] * move, carry, row.c["length"] * gain

    # What a step gained stands where a sampler's x0 would, and is recorded.
    x, aux = walks.walk(step, denoiser, x, grid, None, cond=cond, coefficients=coefficients, evals=len(rows),
                        observe=lambda row, x, gain: gain)
    return x, aux["seen"].sum(0), aux["nfe"]


def _adaptive(denoiser: Denoiser, x: Array, grid: Times, directions: Array, cond: Cond,
              tolerance: float) -> tuple[Array, Array, Any]:
    """(x̃_1, integrated divergence [b], calls [b]) by diffrax, in ln(σ/α), where dφ = sin φ cos φ d ln(σ/α)."""
    import diffrax

    ends = [jnp.asarray(value, x.dtype) for value in -0.5 * processes.logsnr(denoiser.process, _ends(grid))]
    controller = diffrax.PIDController(rtol=tolerance, atol=tolerance)

    def one(x: Array, directions: Array, cond: Cond) -> tuple:
        bound = lambda x, t: denoiser(x, t, cond)

        def slope(level: Array, state: tuple, args: None) -> tuple:
            t = processes.t_of_logsnr(denoiser.process, -2 * level)
            r, cos, sin = _angles(denoiser.process, t)
            move, gain = _slope(bound, state[0], (t, r, cos, sin), directions)
            return sin * cos * move, sin * cos * gain

        found = diffrax.diffeqsolve(diffrax.ODETerm(slope), diffrax.Tsit5(), *ends, None, (x, jnp.zeros(1, x.dtype)),
                                    stepsize_controller=controller, max_steps=10_000)
        return found.ys[0][0, 0], found.ys[1][0, 0], 6 * found.stats["num_steps"] + 1

    single = jax.tree.map(lambda leaf: leaf[:, None], (x, cond))  # a batch of one each
    each = jnp.broadcast_to(directions, (len(directions), *x.shape))[:, :, None]
    return jax.vmap(one, in_axes=(0, 1, 0))(single[0], each, single[1])


def _ends(grid: Times) -> np.ndarray:
    return np.asarray([grid.t[0], grid.t[-1]])
