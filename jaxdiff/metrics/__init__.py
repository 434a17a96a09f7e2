"""Arrays in, numbers out: how far samples are from data, and how often they are what was asked for.

An *extractor* (`jaxdiff.metrics.features`) turns images into features; `moments` of features
are compared by `frechet`.  A Fréchet distance falls with the number of samples on either side,
so two of them are comparable only at equal numbers: `Moments` carries its own.
"""

from jaxdiff.metrics import features
from jaxdiff.metrics.gaussian import Moments, frechet, merge, moments
from jaxdiff.metrics.rates import wilson

__all__ = ["Moments", "features", "frechet", "merge", "moments", "wilson"]
