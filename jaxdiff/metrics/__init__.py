"""Arrays in, numbers out: how far samples are from data, and how often they are what was asked for.

An *extractor* (`jaxdiff.metrics.features`) turns images into features; what compares them takes arrays `made [n, d]`
and `real [m, d]`, the made ones first, and is otherwise free of where they came from.  A Fréchet distance falls with
the number of samples on either side, so two of them are comparable only at equal numbers: `Moments` carries its own.
Sums are float64 on the host; matrices of all pairs are made block by block.
"""

from jaxdiff.metrics import features, references
from jaxdiff.metrics.diversity import vendi
from jaxdiff.metrics.extrapolation import frechet_infinity
from jaxdiff.metrics.gaussian import Moments, frechet, merge, moments
from jaxdiff.metrics.kernel_distances import cmmd, kid
from jaxdiff.metrics.manifold import density_coverage, precision_recall
from jaxdiff.metrics.memory import duplicates, memorisation
from jaxdiff.metrics.paired import perceptual, psnr, ssim
from jaxdiff.metrics.pairwise import nearest, nearest_others
from jaxdiff.metrics.rates import wilson
from jaxdiff.metrics.scores import clip_score, inception_score
from jaxdiff.metrics.streaming import Tally, blocks

__all__ = [
    "Moments", "Tally", "blocks", "clip_score", "cmmd", "density_coverage", "duplicates", "features", "frechet",
    "frechet_infinity", "inception_score", "kid", "memorisation", "merge", "moments", "nearest", "nearest_others",
    "perceptual", "precision_recall", "psnr", "references", "ssim", "vendi", "wilson",
]
