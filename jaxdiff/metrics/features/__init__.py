"""Feature extractors: `uint8 [b, h, w, c] -> float32 [b, d]`, and what makes their figures comparable.

An extractor is a pytree whose leaves are its weights: an argument of `jit`, so that sampling and features are one
program and no weights are compiled in.  It has

    name      tells result rows apart
    protocol  how images are prepared; `preparation` lists them
    sha256    of the file of weights, "" where there is none
    outputs(images) -> {"features": [b, d], ...}, and `__call__`, which returns the features

Those that need a file of published weights look for it as `weights` says.
"""

from jaxdiff.metrics.features import agreement
from jaxdiff.metrics.features.contrastive import clip
from jaxdiff.metrics.features.dino import dinov2
from jaxdiff.metrics.features.efficient import lite0
from jaxdiff.metrics.features.inception_v3 import inception
from jaxdiff.metrics.features.small import digits, pixels
from jaxdiff.metrics.features.vgg import vgg16

__all__ = ["agreement", "clip", "digits", "dinov2", "inception", "lite0", "pixels", "vgg16"]
