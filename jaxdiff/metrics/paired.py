"""An image against the one it should be: PSNR, SSIM and a distance of a network's inner maps."""

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["perceptual", "psnr", "ssim"]

PEAK = 255.0
WIDTH, SIGMA = 11, 1.5  # of SSIM's window
K1, K2 = 0.01, 0.03
TINY = 1e-10  # LPIPS adds it to the length of a channel vector


def psnr(a: Any, b: Any) -> np.ndarray:
    """Returns 10 log10(255² / mean squared difference) [n] in decibels; infinite for equal images.

    Args:
      a: images [n, h, w, c] uint8.
      b: images [n, h, w, c] uint8.

    Raises:
      ValueError: other shapes, or other values than bytes.
    """
    a, b = _images(a, b)
    error = np.array([((x.astype(np.float64) - y) ** 2).mean() for x, y in zip(a, b, strict=True)])
    with np.errstate(divide="ignore"):
        return 10 * np.log10(PEAK**2 / error)


def ssim(a: Any, b: Any) -> np.ndarray:
    """Returns the structural similarity [n] of pairs, -1 to 1: the mean over places and channels of

        (2 μ_a μ_b + C1)(2 σ_ab + C2) / ((μ_a² + μ_b² + C1)(σ_a² + σ_b² + C2)),

    whose moments are under a Gaussian window, 11 wide with σ = 1.5, at every place where it lies inside the image;
    C1 = (.01·255)², C2 = (.03·255)².

    Args:
      a: images [n, h, w, c] uint8, h and w at least 11.
      b: images [n, h, w, c] uint8.

    Raises:
      ValueError: other shapes, images smaller than the window, or other values than bytes.

    Source: Wang et al. 2004, section III.B and C.
    """
    a, b = _images(a, b)
    if min(a.shape[1:3]) < WIDTH:
        raise ValueError(f"SSIM's window is {WIDTH} wide, images {a.shape[1]}x{a.shape[2]} are smaller")
    return np.array([_similarity(x.astype(np.float64), y.astype(np.float64)) for x, y in zip(a, b, strict=True)])


def perceptual(a_maps: Sequence[Any], b_maps: Sequence[Any], weights: Sequence[Any] | None = None) -> np.ndarray:
    """Returns Σ_l mean_hw Σ_c w_lc (â - b̂)² [n], where â and b̂ are maps with channel vectors brought to length 1.

    It is LPIPS with the maps of its network and its weights; without weights every channel counts alike
    (the paper's "baseline").

    Args:
      a_maps: the maps [n, h, w, c] of each layer l of the one side.
      b_maps: those of the other.
      weights: a vector [c] >= 0 for each layer.

    Raises:
      ValueError: other numbers of layers or shapes, or negative weights.

    Source: Zhang et al. 2018, eq. 1; lengths as in its code, whose 1e-10 is added outside the root.
    """
    weights = [np.ones(np.shape(a)[-1]) for a in a_maps] if weights is None else [np.asarray(w) for w in weights]
    if not 0 < len(a_maps) == len(b_maps) == len(weights):
        raise ValueError(f"one map a layer on each side and one weight vector: got {len(a_maps)}, {len(b_maps)} "
                         f"and {len(weights)}")
    total: Any = 0.0
    for one, other, w in zip(a_maps, b_maps, weights, strict=True):
        a, b = np.asarray(one, np.float64), np.asarray(other, np.float64)
        if a.ndim != 4 or a.shape != b.shape or w.shape != a.shape[-1:] or (w < 0).any():
            raise ValueError("maps [n, h, w, c] of one shape and weights [c] >= 0, got "
                             f"{a.shape}, {b.shape}, {w.shape}")
        total = total + (((_unit(a) - _unit(b)) ** 2) @ w).mean((1, 2))
    return total


def _images(a: Any, b: Any) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.ndim != 4:
        raise ValueError(f"pairs of images need two arrays [n, h, w, c] of one shape, got {a.shape} and {b.shape}")
    if not a.dtype == b.dtype == np.uint8:
        raise ValueError(f"images are compared as uint8, got {a.dtype} and {b.dtype}")
    return a, b


def _similarity(a: np.ndarray, b: np.ndarray) -> float:
    mean_a, mean_b = _windowed(a), _windowed(b)
    var_a, var_b = _windowed(a * a) - mean_a**2, _windowed(b * b) - mean_b**2
    both = _windowed(a * b) - mean_a * mean_b
    c1, c2 = (K1 * PEAK) ** 2, (K2 * PEAK) ** 2
    return float(((2 * mean_a * mean_b + c1) * (2 * both + c2)
                  / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean())


def _windowed(x: np.ndarray) -> np.ndarray:
    """The Gaussian means [h - 10, w - 10, c] of x [h, w, c]."""
    window = np.exp(-(np.arange(WIDTH) - WIDTH // 2) ** 2 / (2 * SIGMA**2))
    window /= window.sum()
    for axis in (0, 1):
        x = np.lib.stride_tricks.sliding_window_view(x, WIDTH, axis) @ window
    return x


def _unit(x: np.ndarray) -> np.ndarray:
    return x / (np.sqrt((x * x).sum(-1, keepdims=True)) + TINY)
