"""Losses: `init(batch, key)`, `(params, batch, key, context) -> (loss, metrics)`, `denoiser(params)`."""

from jaxdiff.objective import levels, weighting
from jaxdiff.objective.matching import denoising

__all__ = ["denoising", "levels", "weighting"]
