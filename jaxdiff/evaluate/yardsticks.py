"""What a figure is read beside: noise of the data's pixel moments, and how often a class was what was asked for."""

import numpy as np

from jaxdiff import metrics

__all__ = ["matched_noise", "requested_accuracy"]


def matched_noise(images: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Returns independent Gaussian pixels of the mean and variance of each pixel, uint8, shaped like `images`."""
    rng = np.random.default_rng(seed)
    mean, std = images.mean(0), images.std(0)
    return np.clip(np.rint(mean + std * rng.standard_normal(images.shape)), 0, 255).astype(np.uint8)


def requested_accuracy(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Returns the share of images in which a classifier sees the class asked for, with its Wilson interval.

    Args:
      logits: [n, classes].
      labels: [n], what was asked for.
    """
    right = int((logits.argmax(-1) == labels).sum())
    low, high = metrics.wilson(right, len(labels))
    return {"accuracy": right / len(labels), "accuracy_low": low, "accuracy_high": high}
