"""Criteria: `(made: Side, real: Side, **options) -> {name: figure}`.

A criterion says what it reads, see `rows.Needs`.  A user's own need not: it reads features, of both sides.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxdiff import metrics
from jaxdiff.evaluate.rows import Needs
from jaxdiff.evaluate.sides import Side

__all__ = [
    "cmmd", "density_coverage", "fid", "fid_infinity", "inception_score", "kid", "memorisation", "per_class",
    "precision_recall", "psnr", "sfid", "ssim", "vendi",
]


def _reads(*outputs: str, rows: bool = False, held_out: bool = False, alone: bool = False) -> Callable:
    def marked(criterion: Any) -> Any:
        criterion.needs = Needs(outputs, rows, held_out, alone)
        return criterion
    return marked


@_reads("features")
def fid(made: Side, real: Side) -> dict[str, float]:
    """Returns the Fréchet distance of features (Heusel et al. 2017); of Inception's it is FID."""
    return {"fid": metrics.frechet(real.moments_of("features"), made.moments_of("features"))}


@_reads("spatial")
def sfid(made: Side, real: Side) -> dict[str, float]:
    """Returns the Fréchet distance of spatial features (Nash et al. 2021)."""
    return {"sfid": metrics.frechet(real.moments_of("spatial"), made.moments_of("spatial"))}


@_reads("features", rows=True)
def kid(made: Side, real: Side, *, subsets: int = 100, size: int = 1000) -> dict[str, float]:
    """Returns the kernel distance (Bińkowski et al. 2018), mean and deviation over subsets; see `metrics.kid`."""
    size = min(size, len(made["features"]), len(real["features"]))
    return metrics.kid(made["features"], real["features"], subsets=subsets, size=size)


@_reads("logits", alone=True)
def inception_score(made: Side, real: Side, *, splits: int = 10) -> dict[str, float]:
    """Returns the Inception score (Salimans et al. 2016); the reference is not looked at."""
    return metrics.inception_score(made["logits"], splits=min(splits, len(made["logits"])))


@_reads("features", rows=True)
def precision_recall(made: Side, real: Side, *, k: int = 3) -> dict[str, float]:
    """Returns precision and recall (Kynkäänniemi et al. 2019)."""
    return metrics.precision_recall(made["features"], real["features"], k=k)


@_reads("features", rows=True)
def density_coverage(made: Side, real: Side, *, k: int = 5) -> dict[str, float]:
    """Returns density and coverage (Naeem et al. 2020)."""
    return metrics.density_coverage(made["features"], real["features"], k=k)


@_reads("features")
def fid_infinity(made: Side, real: Side, *, points: int = 15, least: int = 5000) -> dict[str, float]:
    """Returns the Fréchet distance of infinitely many samples (Chong & Forsyth 2020)."""
    least = min(least, len(made["features"]) // 2)
    return {"fid_infinity": metrics.frechet_infinity(made["features"], real.moments_of("features"), points=points,
                                                     least=least)}


@_reads("features", rows=True)
def cmmd(made: Side, real: Side, *, sigma: float = 10.0) -> dict[str, float]:
    """Returns the discrepancy that the paper takes of CLIP's embeddings (Jayasumana et al. 2024)."""
    return {"cmmd": metrics.cmmd(made["features"], real["features"], sigma=sigma)}


@_reads("features", alone=True)
def vendi(made: Side, real: Side, *, q: float = 1.0) -> dict[str, float]:
    """Returns how many different samples there are (Friedman & Dieng 2023); the reference is not looked at."""
    return {"vendi": metrics.vendi(made["features"], q=q)}


@_reads("features", rows=True, held_out=True)
def memorisation(made: Side, real: Side, held_out: Side, *, quantile: float = 0.01) -> dict[str, float]:
    """Returns how much nearer to the reference samples are than held-out images; see `metrics.memorisation`."""
    return metrics.memorisation(made["features"], real["features"], held_out["features"], quantile=quantile)


@_reads("features", "label", rows=True)
def per_class(made: Side, real: Side, *, by: str = "label") -> dict[str, float]:
    """Returns the Fréchet distance of each class, or of each value of another column of both sides.

    A class of few images has a large distance whatever they are: compare classes of one size, or one class between
    models.  One of which a side has a single image, or none, has no distance.
    """
    figures = {}
    for value in np.unique(made[by]):
        ours, theirs = (side["features"][side[by] == value] for side in (made, real))
        if min(len(ours), len(theirs)) < 2:
            continue
        figures[f"fid:{value}"] = metrics.frechet(metrics.moments(theirs), metrics.moments(ours))
    return figures


@_reads("images", rows=True)
def psnr(made: Side, real: Side) -> dict[str, float]:
    """Returns the mean peak signal-to-noise ratio, dB, of pairs: image i on either side."""
    return {"psnr": float(np.mean(metrics.psnr(*_pairs(made, real))))}


@_reads("images", rows=True)
def ssim(made: Side, real: Side) -> dict[str, float]:
    """Returns the mean structural similarity of pairs: image i on either side (Wang et al. 2004)."""
    return {"ssim": float(np.mean(metrics.ssim(*_pairs(made, real))))}


def _pairs(made: Side, real: Side) -> tuple[np.ndarray, np.ndarray]:
    if len(made["images"]) != len(real["images"]):
        raise ValueError(f"pairs need as many images on each side, got {len(made['images'])} and "
                         f"{len(real['images'])} of {real.where}")
    return made["images"], real["images"]
