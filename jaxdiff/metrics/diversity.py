"""How many different things there are in one set: the Vendi score."""

from typing import Any

import numpy as np

from jaxdiff.metrics.pairwise import rows_of

__all__ = ["vendi"]

MOST = 20_000  # rows or dimensions of the matrix whose eigenvalues are taken


def vendi(features: Any, *, q: float = 1.0) -> float:
    """Returns the effective number of different samples, 1 to n.

        exp H_q(λ),   H_q = log Σ λ^q / (1 - q),   H_1 = -Σ λ log λ,   H_∞ = -log max λ

    where λ are the eigenvalues of K/n, K the cosines of all pairs.  Where n > d they are those of the d by d matrix
    XᵀX/n, and all others are 0.  Small q counts rare kinds more.

    Args:
      features: [n, d], no row of length 0; min(n, d) <= 20,000.
      q: order, 0 to infinity; 0 counts the eigenvalues above 1e-12 of the largest.

    Raises:
      ValueError: a negative order, too large a matrix, a row of length 0, values that are not finite.

    Source: Friedman & Dieng 2023, definition 2; Pasarkar & Dieng 2024 (orders).
    """
    if not q >= 0:
        raise ValueError(f"the order q must be >= 0, got {q}")
    x = rows_of(features, "given").astype(np.float64)
    if min(x.shape) > MOST:
        raise ValueError(f"eigenvalues of a matrix of {min(x.shape)} rows: take at most {MOST} samples")
    length = np.linalg.norm(x, axis=1, keepdims=True)
    if not length.all():
        raise ValueError(f"{int((length == 0).sum())} of {len(x)} rows have length 0")
    x /= length
    values = np.linalg.eigvalsh((x.T @ x if len(x) > x.shape[1] else x @ x.T) / len(x))
    values = values[values > 1e-12 * values.max()]
    if q == 1:
        return float(np.exp(-(values * np.log(values)).sum()))
    if np.isinf(q):
        return float(1 / values.max())
    return float((values**q).sum() ** (1 / (1 - q)))
