"""Weights for narrow towers, drawn from the names of their tensors with numpy alone, for the tests and their peers."""

import zlib

import numpy as np

WIDTH, DEPTH, EMBEDDING = 128, 2, 96  # published: 1024, 24, 768
GATED = 341 // 8 * 8 + 8  # of SwiGLU: two thirds of 4 * 128, in eights
CHANNELS, HIDDEN = ((4, 6), (8, 6), (8, 10, 8), (12, 10, 12), (12, 12, 10)), 24  # of VGG16


def drawn(kind, shapes):
    """Returns name -> float32 array of a Vision Transformer, those of the specification's `vit_random.py`."""
    return {name: _drawn(kind, name, shape).astype(np.float32) for name, shape in shapes.items()}


def _drawn(kind, name, shape):
    x = np.random.RandomState(zlib.crc32(f"{kind}/{name}".encode())).randn(*shape)
    parts = name.split(".")
    if parts[-1] == "weight" and ("norm" in parts[-2] or "ln_" in parts[-2]):
        return 1 + 0.2 * x
    if parts[-1] == "gamma":
        return 0.5 + 0.2 * x
    if parts[-1] == "proj":
        return x / np.sqrt(shape[0])
    if parts[-1].endswith("weight") and len(shape) > 1:
        return x / np.sqrt(np.prod(shape[1:]))
    return (0.1 if len(shape) == 1 else 0.3) * x


def rectified(kind, shapes):
    """Returns name -> float32 array of layers with relu between them, through which signals keep their size."""
    made = {}
    for name, shape in shapes.items():
        x = np.random.RandomState(zlib.crc32(f"{kind}/{name}".encode())).randn(*shape)
        made[name] = (x * np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.2 * x).astype(np.float32)
    return made
