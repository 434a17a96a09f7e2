"""The reverse SDEs of Song et al.: Euler-Maruyama, reverse diffusion, and a Langevin corrector.

For every noise scale η ≥ 0, at constant noise or not, the reverse-time SDE

    dx = (f x - ½ (1 + η²) g² ∇ln p) dt + η g dw

has the marginals of the forward one: η = 0 is the probability-flow ODE, η = 1 the reverse SDE (Song et al. 2021,
eq. 6 and 13), more of it is Langevin dynamics on the way.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jaxdiff import process as processes
from jaxdiff import walk as walks
from jaxdiff.denoiser import Denoiser
from jaxdiff.protocols import Array, Cond, Key
from jaxdiff.times import Times

__all__ = ["euler_maruyama", "predictor_corrector"]

PREDICTORS = ("reverse_diffusion", "euler_maruyama", "ancestral", "none")
NORMS = ("expected", "own", "batch")


def euler_maruyama(denoiser: Denoiser, x: Array, times: Times, key: Key | None = None, *, cond: Cond = None,
                   walk: Callable = walks.walk, noise: float = 1.0) -> tuple[Array, dict]:
    """Euler-Maruyama in t on the family of reverse SDEs.

    Args:
      denoiser: D(x, t, cond).
      x: [b, ...] at the level of the first time.
      times: the grid; its first step out of alpha = 0 is `walk`'s, since f is infinite there.
      key: needed for noise > 0; one, or one a sample [b].
      cond: leaves [b, ...].
      walk: `jaxdiff.walk.walk`, or it with some options bound.
      noise: η >= 0: 0 is the ODE, 1 the reverse SDE, above 1 more noise than it.

    Returns:
      x [b, ...] and `{"nfe": steps, "seen": ...}`.  Order 1 for noise = 0, else weak order 1.

    Raises:
      ValueError: noise < 0, or noise > 0 on a rising grid.

    Source: Song et al. 2021 (arXiv:2011.13456), app. D and E.
    """
    if not noise >= 0:
        raise ValueError(f"noise must be >= 0, got {noise}")
    if noise:
        times.must_fall("euler_maruyama with noise=0")
    return walk(functools.partial(_predict, stochastic=noise > 0), denoiser, x, times, key, cond=cond,
                coefficients=functools.partial(_maruyama, process=denoiser.process, noise=noise))


def _maruyama(rows: walks.Row, process: Any, noise: float = 1.0) -> dict:
    """Factors of x, of σ times the score, and of fresh noise."""
    xp = rows.alpha_t.__array_namespace__()
    step = rows.t - rows.s
    push = 0.5 * (1 + noise**2) * processes.diffusion(process, rows.t) * step
    return {"x": 1 - processes.drift(process, rows.t) * step, "score": push / rows.sigma_t,
            "std": noise * xp.sqrt(xp.maximum(processes.diffusion(process, rows.t) * step, 0))}


def _reverse_diffusion(rows: walks.Row, process: Any) -> dict:
    """The same with ∫f and ∫g² over the step, exact for x/α: Song et al. 2021, eq. 46."""
    del process
    xp = rows.alpha_t.__array_namespace__()
    scale = rows.alpha_s / rows.alpha_t
    added = (scale * rows.sigma_t) ** 2 - rows.sigma_s**2
    return {"x": scale, "score": added / (scale * rows.sigma_t), "std": xp.sqrt(added)}


def _ancestral(rows: walks.Row, process: Any) -> dict:
    made = _reverse_diffusion(rows, process)
    return {**made, "std": made["std"] * rows.sigma_s * rows.alpha_t / (rows.alpha_s * rows.sigma_t)}


def _nothing(rows: walks.Row, process: Any) -> dict:
    """A level lowered by the corrector alone: x/α is left as it is."""
    del process
    return {"x": rows.alpha_s / rows.alpha_t, "score": 0 * rows.sigma_t, "std": 0 * rows.sigma_t}


def _predict(denoiser: Callable, x: Array, row: walks.Row, carry: tuple, noise: Callable, *,
             stochastic: bool) -> tuple:
    x0 = denoiser(x, row.t)
    mean = row.c["x"] * x + row.c["score"] * (row.alpha_t * x0 - x) / row.sigma_t
    return noise(mean, row.c["std"]) if stochastic else mean, carry, x0


def predictor_corrector(denoiser: Denoiser, x: Array, times: Times, key: Key | None = None, *, cond: Cond = None,
                        walk: Callable = walks.walk, predictor: str = "reverse_diffusion", corrections: int = 1,
                        snr: float = 0.16, norms: str = "expected") -> tuple[Array, dict]:
    """Predictor-corrector sampling: at every level some Langevin steps, then a step of the reverse SDE.

    A correction is `x + h ∇ln p + √(2h) z` with `h = 2 (snr |z|/|∇ln p|)²`.

    Args:
      denoiser, x, times, cond, walk: as in `euler_maruyama`.
      key: needed; one, or one a sample [b].
      predictor: "reverse_diffusion", "euler_maruyama", "ancestral", or "none" for annealed Langevin dynamics alone.
      corrections: Langevin steps a level, >= 0.
      snr: r of the paper, > 0; 0.16 for its CIFAR-10 models.
      norms: "expected" takes |z| and |∇ln p| as those of pure noise, so that h = 2 (snr σ)²; "own" takes each
        sample's; "batch" their means over the batch, as score_sde does: samples then depend on one another.

    Returns:
      x [b, ...] and `{"nfe": ..., "seen": ...}`: 1 + corrections evaluations a step (corrections for "none"),
      one where a step touches alpha = 0 or the data.

    Raises:
      ValueError: an unknown predictor or norm, corrections < 0, none of both, snr <= 0, or a rising grid.

    Source: Song et al. 2021 (arXiv:2011.13456), algorithms 2 to 5; VP's extra factor α_i = 1 - β_i of h is left out.
    """
    for word, value, allowed in (("predictor", predictor, PREDICTORS), ("norms", norms, NORMS)):
        if value not in allowed:
            raise ValueError(f"{word} must be one of {', '.join(allowed)}, got {value!r}")
    if corrections < 0 or (predictor == "none" and not corrections):
        raise ValueError(f"corrections must be >= 0, and >= 1 without a predictor, got {corrections}")
    if not snr > 0:
        raise ValueError(f"snr must be > 0, got {snr}")
    times.must_fall("ddim")
    made = {"reverse_diffusion": _reverse_diffusion, "euler_maruyama": _maruyama, "ancestral": _ancestral,
            "none": _nothing}[predictor]
    step = functools.partial(_corrected, corrections=corrections, snr=snr, norms=norms, predicts=predictor != "none")
    return walk(step, denoiser, x, times, key, cond=cond, evals=corrections + (predictor != "none"),
                coefficients=functools.partial(made, process=denoiser.process))


def _corrected(denoiser: Callable, x: Array, row: walks.Row, carry: tuple, noise: Callable, *, corrections: int,
               snr: float, norms: str, predicts: bool) -> tuple:
    for _ in range(corrections):
        x0 = denoiser(x, row.t)
        push = (row.alpha_t * x0 - x) / row.sigma_t  # σ ∇ln p
        if norms == "expected":
            x = noise(x + 2 * snr**2 * row.sigma_t * push, 2 * snr * row.sigma_t)
        else:
            z = noise(jnp.zeros_like(x), jnp.ones((), x.dtype))
            size = snr * _norm(z, norms) / _norm(push, norms)
            x = x + row.sigma_t * (2 * size**2 * push + 2 * size * z)
    if predicts:
        return _predict(denoiser, x, row, carry, noise, stochastic=True)
    return row.c["x"] * x, carry, x0


def _norm(values: Array, norms: str) -> Array:
    """|v| of each sample [b, 1, ...], or their mean over the batch []."""
    own = jnp.sqrt((values**2).sum(tuple(range(1, values.ndim)), keepdims=True))
    return own.mean() if norms == "batch" else own
