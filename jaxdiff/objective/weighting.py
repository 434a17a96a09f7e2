"""Weightings of the loss: `w(λ)` on the squared error of ε, in expectation over the levels drawn.

One convention for all recipes: what multiplies |δε|² where λ = 2 ln(α/σ) is the log-SNR.
With |δx0|² = e^-λ |δε|² and |δv|² = |δε|²/sigmoid(λ), each is one line.

    E_u w(λ) |δε|²  =  ∫ p(λ) w(λ) |δε|² dλ

so that levels and weighting act together, by p(λ) w(λ).  Recipes that mean `∫ w(λ) |δε|² dλ`
whatever the levels are the same functions under `denoising(..., importance=True)`, which divides
by p(λ): `eps` is then the likelihood weighting (Song et al. 2021b; ½ of it, summed over the
dimensions, is the diffusion term of the bound in nats: `objective.vlb`), and `sigmoid` the loss of
Kingma & Gao 2023 and of SiD2.
"""

import math

import jax
import jax.numpy as jnp

from jaxdiff.protocols import Array

__all__ = ["edm", "eps", "min_snr", "native", "p2", "sigmoid", "soft_min_snr", "v", "velocity", "x0"]


def native(logsnr: Array) -> None:
    """Weight 1 on whatever the network predicts: multiplies nothing."""


def eps(logsnr: Array) -> Array:
    """Weight 1 on ε: DDPM's simple loss (Ho et al. 2020, eq. 14)."""
    return jnp.ones_like(logsnr)


def x0(logsnr: Array) -> Array:
    """Weight 1 on x0."""
    return jnp.exp(-logsnr)


def v(logsnr: Array) -> Array:
    """Weight 1 on v of the variance-preserving frame (Salimans & Ho 2022, eq. 11: SNR + 1 on x0)."""
    return 1 / jax.nn.sigmoid(logsnr)


def velocity(logsnr: Array) -> Array:
    """Weight 1 on the velocity of the straight path, ε - x0 (Lipman et al. 2022): (1 + σ/α)² on ε."""
    return (1 + jnp.exp(-0.5 * logsnr)) ** 2


def edm(logsnr: Array, *, sigma_data: float = 0.5) -> Array:
    """EDM's λ(σ) = (σ² + σ_d²)/(σ σ_d)² on x0, which makes every level's loss 1 at the start; sigma_data > 0."""
    if not sigma_data > 0:
        raise ValueError(f"weighting edm needs sigma_data > 0, got {sigma_data}")
    return (jnp.exp(-logsnr) + sigma_data**2) / sigma_data**2


def min_snr(logsnr: Array, *, gamma: float = 5.0) -> Array:
    """min(SNR, γ)/SNR, that is min(SNR, γ) on x0, for γ > 0 (Hang et al. 2023, eq. 9)."""
    if not gamma > 0:
        raise ValueError(f"weighting min_snr needs gamma > 0, got {gamma}")
    return jnp.minimum(1.0, gamma * jnp.exp(-logsnr))


def soft_min_snr(logsnr: Array, *, gamma: float = 4.0) -> Array:
    """γ/(SNR + γ), that is SNR γ/(SNR + γ) on x0, for γ > 0: k-diffusion's "soft-min-snr", with γ = 1/σ_d²."""
    if not gamma > 0:
        raise ValueError(f"weighting soft_min_snr needs gamma > 0, got {gamma}")
    return jax.nn.sigmoid(math.log(gamma) - logsnr)


def p2(logsnr: Array, *, k: float = 1.0, gamma: float = 1.0) -> Array:
    """1/(k + SNR)^γ for k > 0 and γ >= 0: less weight on the clean levels (Choi et al. 2022, eq. 8)."""
    if not (k > 0 and gamma >= 0):
        raise ValueError(f"weighting p2 needs k > 0 and gamma >= 0, got k={k} and gamma={gamma}")
    return (k + jnp.exp(logsnr)) ** -gamma


def sigmoid(logsnr: Array, *, bias: float = 0.0) -> Array:
    """1/(1 + e^(λ - b)), which falls around λ = b (Kingma & Gao 2023; Hoogeboom et al. 2024, SiD2).

    Theirs with `importance`; the paper on SiD2 writes it e^b sigmoid(λ - b) on x0.
    """
    return jax.nn.sigmoid(bias - logsnr)
