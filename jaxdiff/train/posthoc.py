"""Averages of any length from snapshots of a few, after training.

A power average of exponent γ at time T weighs the parameters of time τ by the profile

    p(τ) = (γ + 1) τ^γ / T^(γ + 1)   on [0, T],   ∫ p = 1,

which `averages.advance` keeps exactly: the parameters of step j are those of j - 1 < τ <= j.  Averages are linear in
the parameters, so weights w whose mix of stored profiles is near the wanted one, Σ w_i p_i ≈ p, give its average,
Σ w_i θ_i.  They are the least squares in L² under Σ w_i = 1: without it an error of 1 % in the sum is one of 1 % of
the parameters, far more than they move.  Of two profiles

    ∫ p_a p_b = (γ_a + 1)(γ_b + 1) / (γ_a + γ_b + 1) · (T_min / T_max)^γ / T_max,   γ of the later one.

Source: Karras et al. 2024 (EDM2), section 3.1 and appendix C (algorithm 3), there without Σ w_i = 1.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxdiff.train.averages import power_exponent

__all__ = ["Profile", "mix", "products"]

RANK = 1e-12  # of singular values: below it, weights would be huge and cancel, and carry the snapshots' rounding


class Profile(NamedTuple):
    """What a power average has seen: of all steps up to `step`, with this relative length (standard deviation)."""

    step: float
    length: float


def products(one: Sequence[Profile], other: Sequence[Profile]) -> np.ndarray:
    """Returns ∫ p_a p_b of all pairs, [len(one), len(other)] float64."""
    (s, a), (t, b) = (np.array([(profile.step, power_exponent(profile.length)) for profile in profiles],
                               np.float64).T for profiles in (one, other))
    s, a = s[:, None], a[:, None]
    of_later = np.where(s > t, a, b)
    early, late = np.minimum(s, t), np.maximum(s, t)
    return (a + 1) * (b + 1) / (a + b + 1) * (early / late)**of_later / late


def mix(stored: Sequence[Profile], wanted: Profile) -> tuple[np.ndarray, float]:
    """Returns the weights of stored averages that make the wanted one, and how far off their mix is.

    Args:
      stored: at least one.
      wanted: of any step and length.

    Returns:
      Weights [len(stored)] float64 that sum to 1, and the relative error of the profile in L², from 0 (exact) up.

    Raises:
      ValueError: nothing stored.
    """
    if not stored:
        raise ValueError("an average is made of at least one snapshot")
    if wanted in stored:
        return np.array([float(number == stored.index(wanted)) for number in range(len(stored))]), 0.0
    norms = np.sqrt(np.diag(products(stored, stored)))
    aim, norm = products(stored, [wanted])[:, 0], np.sqrt(products([wanted], [wanted])[0, 0])
    gram = products(stored, stored) / np.outer(norms, norms)  # of profiles of norm 1: better conditioned
    system = np.block([[gram, 1 / norms[:, None]], [1 / norms[None], np.zeros((1, 1))]])
    scaled = np.linalg.lstsq(system, np.append(aim / norms, 1.0), rcond=RANK)[0][:-1]
    weights = scaled / norms
    squared = weights @ products(stored, stored) @ weights - 2 * weights @ aim + norm**2
    return weights, float(np.sqrt(max(squared, 0.0)) / norm)
