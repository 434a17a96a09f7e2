"""Losses: `init(batch, key)`, `(params, batch, key, context) -> (loss, metrics)`, `denoiser(params)`."""

from jaxdiff.objective import levels, weighting
from jaxdiff.objective.bound import vlb
from jaxdiff.objective.matching import denoising
from jaxdiff.objective.uncertainty import balanced

__all__ = ["balanced", "denoising", "levels", "vlb", "weighting"]
