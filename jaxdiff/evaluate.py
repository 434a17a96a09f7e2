"""Evaluation: values in, result rows out.

A row names its own protocol (features, n on each side, sampler, evaluations), so that rows of
different n are never taken for one another: a Fréchet distance falls with n.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxdiff import metrics
from jaxdiff import workdir as workdirs

__all__ = ["append", "distance", "features_of", "matched_noise", "requested_accuracy", "yardsticks"]


def features_of(images: np.ndarray, extract: Callable, *, batch: int = 512) -> np.ndarray:
    """Returns features [n, d] of images [n, h, w, c] uint8, in equal batches (the last one padded)."""
    parts = []
    for start in range(0, len(images), batch):
        part = images[start:start + batch]
        padded = np.concatenate([part, np.repeat(part[-1:], batch - len(part), 0)])
        parts.append(np.asarray(extract(padded))[: len(part)])
    return np.concatenate(parts)


def distance(real: np.ndarray, made: np.ndarray, extract: Callable) -> float:
    """Returns the Fréchet distance between images [n, h, w, c] uint8 and as many others.

    Raises:
      ValueError: other shapes, or another number on one side.
    """
    if real.shape != made.shape:
        raise ValueError(f"a distance needs as many images of one size on each side, got {real.shape} and {made.shape}")
    return metrics.frechet(metrics.moments(features_of(real, extract)), metrics.moments(features_of(made, extract)))


def matched_noise(images: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Returns independent Gaussian pixels of the mean and variance of each pixel, uint8, shaped like `images`."""
    rng = np.random.default_rng(seed)
    mean, std = images.mean(0), images.std(0)
    return np.clip(np.rint(mean + std * rng.standard_normal(images.shape)), 0, 255).astype(np.uint8)


def yardsticks(reference: np.ndarray, held_out: np.ndarray, extract: Callable, *, seed: int = 0) -> dict[str, float]:
    """Returns the distances of real images nobody trained on (the floor) and of matched noise (the ceiling).

    Args:
      reference: real images [n, h, w, c] uint8.
      held_out: as many others.
      extract: the features.
      seed: of the noise.
    """
    return {"floor": distance(reference, held_out, extract),
            "ceiling": distance(reference, matched_noise(reference, seed=seed), extract)}


def requested_accuracy(images: np.ndarray, labels: np.ndarray, classify: Callable, *, batch: int = 512) -> dict:
    """Returns the share of images in which a classifier sees the class asked for, with its Wilson interval."""
    seen = features_of(images, lambda part: np.asarray(classify(part))[:, None], batch=batch)[:, 0]
    right = int((seen == labels).sum())
    low, high = metrics.wilson(right, len(labels))
    return {"accuracy": right / len(labels), "accuracy_low": low, "accuracy_high": high}


def append(path: Any, row: Mapping[str, Any]) -> dict:
    """Appends a row, with the time, to a file of JSON lines; returns it."""
    row = {**row, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    workdirs.append(path, row)
    return row
