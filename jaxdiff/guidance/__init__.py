"""Guidance: functions from denoiser to denoiser, freely composed.

What guides adds a difference of two predictions, `D + (w - 1) Δ`, and is off at w = 1, to the bit
(`classifier`, a factor on a gradient, is off at 0).  What comes after it in a chain sees only the
denoiser before: `interval` and `rescale` switch its guidance off, thresholds bound what it returns.
"""

from jaxdiff.guidance.conditions import classifier_free, negative
from jaxdiff.guidance.limits import interval, rescale
from jaxdiff.guidance.manifold import cfg_plus_plus
from jaxdiff.guidance.models import autoguidance, classifier
from jaxdiff.guidance.projection import projected
from jaxdiff.guidance.thresholds import dynamic_threshold, static_threshold

__all__ = [
    "autoguidance", "cfg_plus_plus", "classifier", "classifier_free", "dynamic_threshold", "interval", "negative",
    "projected", "rescale", "static_threshold",
]
