"""Whether samples are copies: nearest neighbours of made images in the training set, against those of unseen images."""

from typing import Any

import numpy as np

from jaxdiff.metrics.pairwise import centred, nearest, rows_of, squared, tiles

__all__ = ["duplicates", "memorisation"]


def memorisation(made: Any, train: Any, held_out: Any, *, quantile: float = 0.01) -> dict[str, float]:
    """Returns how much nearer to training images samples are than images of the same law that were not trained on.

    `copied` is near `quantile` for a model that does not copy, whatever its features: the threshold is the data's own.
    A model whose samples lie off the data has few copies and a ratio above 1.

    Args:
      made: features [n, d].
      train: features [m, d] of the training images.
      held_out: features [k, d] of images of the data that were not trained on.
      quantile: of the held-out distances, 0 to 1; below it a sample counts as copied.

    Returns:
      `copied`: the share of made rows strictly nearer to their nearest training row than the quantile.
      `copied_threshold`: that distance.
      `exact`: the share of made rows that are a training row.
      `median_ratio`: the median of the made distances over that of the held-out ones; infinite where that is 0.

    Raises:
      ValueError: a quantile out of range, an empty set, other dimensions, values that are not finite.

    Source: after Meehan et al. 2020 (three samples, distances to training); Carlini et al. 2023, section 4.
    """
    if not 0 <= quantile <= 1:
        raise ValueError(f"a quantile is 0 to 1, got {quantile}")
    near, usual = nearest(made, train).distances, nearest(held_out, train).distances
    threshold, half = float(np.quantile(usual, quantile)), float(np.median(usual))
    return {"copied": float((near < threshold).mean()), "copied_threshold": threshold,
            "exact": float((near == 0).mean()),
            "median_ratio": float(np.median(near)) / half if half else float("inf")}


def duplicates(features: Any, *, threshold: float) -> np.ndarray:
    """Returns the pairs [p, 2] of rows i < j at a Euclidean distance of at most `threshold`, in order of i, j.

    Args:
      features: [n, d].
      threshold: at least 0; at 0 equal rows alone.

    Raises:
      ValueError: a negative threshold, values that are not finite.
    """
    if not threshold >= 0:
        raise ValueError(f"a threshold is >= 0, got {threshold}")
    rows = rows_of(features, "given")
    low, = centred(rows)
    # float32 finds what may be near enough, with room for its rounding; float64 decides
    room = 4e-6 * float((low.astype(np.float64) ** 2).sum(1).max())
    pairs = []
    for start, count, tile in tiles(low, len(low)):
        near = np.asarray(squared(tile, low)[:count] <= threshold**2 * (1 + 1e-5) + room)
        i, j = np.nonzero(near)
        pairs.append(np.stack([i + start, j], 1)[i + start < j])
    found = np.concatenate(pairs)
    kept = [pair for pair in found if np.linalg.norm(np.subtract(*rows[pair].astype(np.float64))) <= threshold]
    return np.array(kept, np.int64).reshape(-1, 2)
