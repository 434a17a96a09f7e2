"""Sources that need no download: the 8x8 digits of scikit-learn, a mixture in the plane, mock images."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jaxdiff.build import nearest

__all__ = ["MIXTURE", "Mixture", "digits", "mixture", "mock"]

SPLITS = ("train", "test", "all")


class Mixture(NamedTuple):
    """A mixture of isotropic Gaussians, whose exact denoiser is known."""

    weights: tuple[float, ...]
    means: tuple[tuple[float, ...], ...]
    stds: tuple[float, ...]


MIXTURE = Mixture(weights=(0.5, 0.3, 0.2), means=((0.8, 0.2), (-0.7, 0.6), (-0.1, -0.9)), stds=(0.25, 0.35, 0.2))


def digits(*, split: str = "train", seed: int = 0, held_out: int = 297) -> dict[str, np.ndarray]:
    """Returns the 1,797 handwritten digits that scikit-learn carries.

    Args:
      split: `train`, `test` (the held-out images) or `all`.
      seed: which images are held out; the split is the same wherever it is the same.
      held_out: number of held-out images; every class gives its share, rounded up or down.

    Returns:
      `{"image": uint8 [n, 8, 8, 1], "label": int32 [n]}`, with the 17 levels v = 0..16 of the
      set mapped to round(255 v / 16).

    Raises:
      ValueError: unknown split, or no image left in one of them.

    Source: Alpaydin & Kaynak 1998, the test part of "Optical Recognition of Handwritten Digits" (UCI).
    """
    from sklearn.datasets import load_digits

    if split not in SPLITS:
        raise ValueError(f"digits has no split {split!r}{nearest(split, SPLITS)}")
    levels, label = load_digits(return_X_y=True)
    count = len(label)
    if not 0 < held_out < count:
        raise ValueError(f"digits can hold out 1 to {count - 1} images, got {held_out}")
    chosen = {"train": True, "test": False, "all": None}[split]
    kept = np.full(count, True)
    if chosen is not None:
        kept = np.isin(np.arange(count), _stratified(label, held_out, seed), invert=chosen)
    image = np.round(levels * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    return {"image": image[kept], "label": label[kept].astype(np.int32)}


def _stratified(label: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Returns `count` random indices, in which every class has its share."""
    order = np.random.RandomState(seed).permutation(len(label))
    by_class = order[np.argsort(label[order], kind="stable")]
    return by_class[np.arange(count) * len(label) // count]  # evenly spaced, so that no class is off by one or more


def mixture(*, n: int = 8192, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns `n` draws from `MIXTURE`, three Gaussians in the plane.

    Returns:
      `{"x0": float32 [n, 2]}`.

    Raises:
      ValueError: `n` below 1.
    """
    if n < 1:
        raise ValueError(f"mixture needs n >= 1, got {n}")
    rng = np.random.RandomState(seed)  # its stream is frozen, that of `default_rng` is not
    which = rng.choice(len(MIXTURE.weights), size=n, p=MIXTURE.weights)
    x0 = np.asarray(MIXTURE.means)[which] + np.asarray(MIXTURE.stds)[which, None] * rng.randn(n, 2)
    return {"x0": x0.astype(np.float32)}


def mock(*, shape: tuple, classes: int = 0, num: int = 64, seed: int = 0, moments: bool = False,
         conditions: Mapping[str, tuple] | None = None) -> dict[str, np.ndarray]:
    """Returns random images of any shape, with which a config is tried where its data are not.

    Args:
      shape: (height, width, channels).
      classes: labels go through 0 .. classes - 1 in turn; 0 for no labels.
      num: of images, >= 1.
      seed: of the pixels.
      moments: latents in place of images: `{"moments": float16 [num, height, width, 2 channels]}`.
      conditions: shapes of further columns by name, normal float32; "mask" is True throughout.

    Returns:
      `{"image": uint8 [num, *shape], "label": int32 [num]}`.

    Raises:
      ValueError: a shape that is not an image's, or `num` below 1.
    """
    if len(shape) != 3 or min(shape) < 1 or num < 1:
        raise ValueError(f"mock needs a shape (height, width, channels) and num >= 1, got {shape} and {num}")
    rng = np.random.RandomState(seed)
    made: dict[str, np.ndarray] = {}
    if moments:
        mean = rng.randn(num, *shape)
        made["moments"] = np.concatenate([mean, np.full_like(mean, 0.1)], -1).astype(np.float16)
    else:
        made["image"] = rng.randint(0, 256, (num, *shape)).astype(np.uint8)
    if classes:
        made["label"] = np.arange(num, dtype=np.int32) % classes
    for name, extent in (conditions or {}).items():
        made[name] = np.ones((num, *extent), bool) if name == "mask" else rng.randn(num, *extent).astype(np.float32)
    return made
