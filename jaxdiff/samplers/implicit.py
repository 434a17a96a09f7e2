"""DDIM and ancestral sampling: Gaussian steps through the posterior of x0.

One step from t to s, with ε̂ = (x - α_t D)/σ_t and τ the standard deviation of its fresh noise:

    x_s = α_s D + √(σ_s² - τ²) ε̂ + τ z,     τ² = η² σ_s² (1 - e^(λ_t - λ_s))

η = 0 is the probability-flow ODE, η = 1 the reverse Markov chain (Song et al. 2020, eq. 12 and 16).
"""

import functools
from collections.abc import Callable

from jaxdiff import walk as walks
from jaxdiff.denoiser import Denoiser
from jaxdiff.protocols import Array, Cond, Key
from jaxdiff.times import Times

__all__ = ["ancestral", "ddim"]


def ddim(denoiser: Denoiser, x: Array, times: Times, key: Key | None = None, *, cond: Cond = None,
         walk: Callable = walks.walk, eta: float = 0.0) -> tuple[Array, dict]:
    """Denoising diffusion implicit models.

    Args:
      denoiser: D(x, t, cond).
      x: [b, ...] at the level of the first time.
      times: the grid.
      key: needed for eta > 0; one, or one a sample [b].
      cond: leaves [b, ...].
      walk: `jaxdiff.walk.walk`, or it with some options bound.
      eta: 0 (deterministic) to 1 (ancestral).

    Returns:
      x [b, ...] and `{"nfe": steps, "seen": ...}`.  Order 1; weak order 1 for eta > 0.

    Raises:
      ValueError: eta outside [0, 1], or above 0 on a rising grid.

    Source: Song, Meng & Ermon 2020 (arXiv:2010.02502), eq. 12.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1], got {eta}")
    if eta:
        times.must_fall("ddim with eta=0")
    step = functools.partial(_step, stochastic=eta > 0)
    return walk(step, denoiser, x, times, key, cond=cond, coefficients=lambda rows: _posterior(rows, eta))


def ancestral(denoiser: Denoiser, x: Array, times: Times, key: Key | None = None, *, cond: Cond = None,
              walk: Callable = walks.walk, variance: str = "small") -> tuple[Array, dict]:
    """DDPM's ancestral sampling, on any grid.

    Args:
      denoiser, x, times, key, cond, walk: as in `ddim`; the key is needed.
      variance: "small", the posterior's own (DDIM with eta = 1), or "large", that of the forward
        step x_t given x_s: DDPM's two choices, right for a point and for white data.

    Returns:
      x [b, ...] and `{"nfe": steps, "seen": ...}`.  Weak order 1.

    Raises:
      ValueError: another variance, or a rising grid.

    Source: Ho, Jain & Abbeel 2020 (arXiv:2006.11239), sec. 3.2 and algorithm 2.
    """
    if variance not in ("small", "large"):
        raise ValueError(f"variance must be 'small' or 'large', got {variance!r}")
    times.must_fall("ddim with eta=0")
    step = functools.partial(_step, stochastic=True)
    return walk(step, denoiser, x, times, key, cond=cond,
                coefficients=lambda rows: _posterior(rows, 1.0, large=variance == "large"))


def _posterior(rows: walks.Row, eta: float, large: bool = False) -> dict:
    """Factors of x, of D and of fresh noise."""
    xp = rows.alpha_t.__array_namespace__()
    # 1 - e^(λ_t - λ_s), from the ratios themselves: exact where a level is 0.
    share = xp.maximum(1 - (rows.alpha_t * rows.sigma_s / (rows.alpha_s * rows.sigma_t)) ** 2, 0.0)
    std = eta * rows.sigma_s * xp.sqrt(share)
    kept = xp.sqrt(rows.sigma_s**2 - std**2) / rows.sigma_t
    return {"x": kept, "x0": rows.alpha_s - rows.alpha_t * kept,
            "std": rows.sigma_t * xp.sqrt(share) if large else std}


def _step(denoiser: Callable, x: Array, row: walks.Row, carry: tuple, noise: Callable, *, stochastic: bool) -> tuple:
    x0 = denoiser(x, row.t)
    mean = row.c["x"] * x + row.c["x0"] * x0
    return noise(mean, row.c["std"]) if stochastic else mean, carry, x0
