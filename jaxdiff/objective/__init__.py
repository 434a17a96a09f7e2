"""Losses: `init(batch, key)`, `(params, batch, key, context) -> (loss, metrics)`, `denoiser(params)`."""

from jaxdiff.objective import levels, weighting
from jaxdiff.objective.adversarial import autoencoding
from jaxdiff.objective.bound import vlb
from jaxdiff.objective.matching import denoising
from jaxdiff.objective.uncertainty import balanced

__all__ = ["autoencoding", "balanced", "denoising", "levels", "vlb", "weighting"]
