"""UniPC: a predictor of order p and a corrector that makes it p + 1 with the evaluation of the next step.

With D(x, t) as m_0, earlier evaluations as m_1, m_2, ..., r_j = (ℓ_j - ℓ_t)/h in ℓ = ln(α/σ) and some B(h),

    x_s = (σ_s/σ_t) x + α_s (1 - e^-h) m_0 + α_s B(h) Σ_j ρ_j (m_j - m_0)/r_j

where ρ solves Σ_j ρ_j r_j^(m-1) = b_m; the corrector also has the node r = 1, D at s (Zhao et al. 2023, eq. 3 and 9).
Where as many conditions as nodes are solved B cancels; it remains where one node has ρ = ½.
"""

import functools
from collections.abc import Callable
from typing import Any

from jaxdiff import walk as walks
from jaxdiff.denoiser import Denoiser
from jaxdiff.protocols import Array, Cond, Key
from jaxdiff.samplers.interpolation import combined, exponential_moments, remembered, solve, steps, weights
from jaxdiff.times import Times

__all__ = ["unipc"]


def unipc(denoiser: Denoiser, x: Array, times: Times, key: Key | None = None, *, cond: Cond = None,
          walk: Callable = walks.walk, order: int = 3, b: str = "bh2", corrector: bool = True) -> tuple[Array, dict]:
    """The unified predictor-corrector of Zhao et al.

    Args:
      denoiser: D(x, t, cond).
      x: [b, ...] at the level of the first time.
      times: the grid.
      key: not used.
      cond: leaves [b, ...].
      walk: `jaxdiff.walk.walk`, or it with some options bound.
      order: p of the predictor, 1 to 3.
      b: "bh1", B = h, or "bh2", B = 1 - e^-h; they differ where a step has one node of its own.
      corrector: with it the order is p + 1; it asks nothing of the denoiser.

    Returns:
      x [b, ...] and `{"nfe": steps, "seen": ...}`.  Order p + 1, or p without the corrector.

    Raises:
      ValueError: order outside 1..3, or another b.

    Source: Zhao et al. 2023 (arXiv:2302.04867), algorithms 1 to 4, data prediction.
    """
    if order not in (1, 2, 3):
        raise ValueError(f"unipc has orders 1, 2 and 3, got {order}")
    if b not in ("bh1", "bh2"):
        raise ValueError(f"b must be 'bh1' or 'bh2', got {b!r}")
    carry = (x, remembered(x, order + 1))
    return walk(_step, denoiser, x, times, key, cond=cond, carry=carry,
                coefficients=functools.partial(_coefficients, order=order, b=b, corrector=corrector))


def _coefficients(rows: walks.Row, order: int, b: str, corrector: bool) -> dict:
    """Weights of the predictor, and of the corrector of the step before, which the first step has not."""
    start, h = steps(rows)
    xp = h.__array_namespace__()
    predicts = weights(start, h, order, lambda nodes, at: _integrals(nodes, h[at], b, 0)) * rows.alpha_s[:, None]
    made = {"x": rows.sigma_s / rows.sigma_t, "x0": predicts}
    first = xp.asarray(xp.arange(len(h)) == 0, dtype=start.dtype)
    kept, old, seen = first, xp.zeros_like(h), xp.zeros((len(h), order + 1), dtype=start.dtype)
    if corrector:
        corrects = weights(start[:-1], h[:-1], order, lambda nodes, at: _integrals(nodes, h[at], b, 1), ahead=True)
        corrects = corrects * rows.alpha_s[:-1, None]
        old = xp.concatenate([old[:1], made["x"][:-1]])
        seen = xp.concatenate([seen[:1], corrects])
    else:
        kept = xp.ones_like(h)
    return {**made, "kept": kept, "old": old, "seen": seen}


def _integrals(nodes: Array, h: Array, b: str, now: int) -> Array:
    """Weights for nodes [n, k], of which number `now` is r = 0; one node beside it has ρ = ½."""
    xp = nodes.__array_namespace__()
    count = nodes.shape[-1]
    if count != 2:
        return solve(nodes, exponential_moments(h, count))
    slope = 0.5 * (h if b == "bh1" else -xp.expm1(-h)) / nodes[:, 1 - now]
    rest = -xp.expm1(-h) - slope
    return xp.stack([slope, rest] if now else [rest, slope], axis=-1)


def _step(denoiser: Callable, x: Array, row: walks.Row, carry: Any, noise: Callable) -> tuple:
    del noise
    c, (before, seen) = row.c, carry
    x0 = denoiser(x, row.t)
    corrected = c["kept"] * x + c["old"] * before + combined(c["seen"], (x0, *seen))
    seen = (x0, *seen[:-1])
    return c["x"] * corrected + combined(c["x0"], seen), (corrected, seen), x0
