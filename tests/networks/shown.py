"""The weights of the peers, drawn from their names, and what the networks are shown.

Imports numpy alone, since the scripts in `tests/golden` read it in environments of their own.
"""

import zlib

import numpy as np

__all__ = ["LABELS", "TIMES", "drawn", "image", "latent", "patched", "text"]

SEED = 5
LABELS = (1, 4)
TIMES = {"dit": (730, 12), "jit": (0.25, 0.625), "mmdit": (120.0, 12.0), "uvit": (730.0, 12.0)}


def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor that depends on its name and shape alone, of a size with which every part of a network is seen.

    Kernels have the standard deviation 1/√fan_in, also those that start at zero; norms are near 1, biases near 0.
    """
    unit = np.random.default_rng((SEED, zlib.crc32(name.encode()))).standard_normal(shape).astype(np.float32)
    if len(shape) > 1:
        return unit / np.float32(np.sqrt(np.prod(shape[1:])))
    if name.endswith("freqs"):
        return unit
    return np.float32(0.2) * unit + np.float32(name.endswith("weight"))


def patched(channels, size):
    """Images [2, channels, size, size] for the transformers, drawn by their name."""
    return 12 * drawn("x", (2, channels * size * size)).reshape(2, channels, size, size)


def text():
    """Tokens [2, 5, 24] and a pooled vector [2, 12]."""
    return 8 * drawn("text", (2, 5, 24)), 3 * drawn("pooled", (2, 12))


def image():
    """Images [2, 3, 8, 8] for the autoencoder, drawn by their name."""
    return 12 * drawn("x", (2, 3 * 64)).reshape(2, 3, 8, 8)


def latent(channels):
    """Latents [2, channels, 4, 4], drawn by their name."""
    return 8 * drawn("z", (2, channels * 16)).reshape(2, channels, 4, 4)
