"""Weights and images for FID's Inception, drawn anew from their seeds with numpy alone, bit for bit.

The weights have the names and shapes of the published file.  A deep network of plain random weights sees hardly any
difference between images, so here no kernel responds to a shift of all its inputs, and the running statistics are
those of 32 of these images: `golden/fid_statistics.npz` holds them, in 7-bit mantissas, as measured in float64 with
torch-fidelity's network when the specification was written.  Every 37th channel has 1/100 of the variance, so that
BatchNorm's eps counts.
"""

import functools
import zlib
from pathlib import Path

import numpy as np

STATISTICS = Path(__file__).resolve().parent.parent / "golden" / "fid_statistics.npz"
SIZES = ((32, 32), (64, 64), (299, 299), (48, 80), (320, 256))
CHECKSUM = 0xD805994F


def weights(shapes):
    """Returns name -> float32 array for name -> shape of the 472 tensors."""
    made = {}
    for key, shape in shapes.items():
        if key.endswith(".conv.weight"):
            made |= _layer(key.removesuffix(".conv.weight"), shape)
    r = _seeded("fc")
    made["fc.weight"] = r.randn(*shapes["fc.weight"]) * 0.35
    made["fc.bias"] = 0.5 * r.randn(*shapes["fc.bias"])
    made = {key: value.astype(np.float32) for key, value in made.items()}
    with np.load(STATISTICS) as file:
        values = np.ldexp(file["mantissa"] / 128.0, file["exponent"].astype(np.int32)).astype(np.float32)
    start = 0
    for key in sorted(key for key in made if ".running_" in key):
        made[key] = values[start:start + len(made[key])]
        start += len(made[key])
    return made


def checksum(made):
    """Returns the CRC-32 of all arrays, in the order of their names."""
    return functools.reduce(lambda crc, key: zlib.crc32(made[key].tobytes(), crc), sorted(made), 0)


def _seeded(text, more=0):
    return np.random.RandomState((zlib.crc32(text.encode()) + more) % 2**32)


def _layer(name, shape):
    r, out = _seeded(name), shape[0]
    kernel = r.randn(*shape)
    if shape[1] > 3:
        kernel -= kernel.mean(axis=1, keepdims=True)
    kernel *= np.sqrt(3.0 / np.prod(shape[1:]))
    var = np.exp(0.3 * r.randn(out))
    var[::37] *= 0.01
    parts = {"conv.weight": kernel * np.sqrt(var)[:, None, None, None], "bn.weight": r.uniform(0.7, 1.3, out),
             "bn.bias": 0.2 * r.randn(out), "bn.running_mean": 0.1 * r.randn(out) * np.sqrt(var),
             "bn.running_var": var}
    return {f"{name}.{part}": value for part, value in parts.items()}


def images(kind, n, height, width):
    """Returns [n, height, width, 3] uint8: waves with discs (`real`) or with squares and more noise (`fake`)."""
    return np.stack([_image(_seeded(f"{kind}_{height}x{width}", 7919 * i), height, width, kind == "fake")
                     for i in range(n)])


def _image(r, height, width, fake):
    y, x = (np.arange(height) / height)[:, None, None], (np.arange(width) / width)[None, :, None]
    across, down = r.uniform(-1, 1, (2, 3))
    made = 0.5 + 0.3 * (across * (x - 0.5) + down * (y - 0.5))
    for _ in range(3):
        wave = r.uniform(1, 9 if fake else 6, 2) * r.choice([-1, 1], 2)
        phase = r.uniform(0, 2 * np.pi)
        made = made + 0.18 * r.uniform(-1, 1, 3) * np.cos(2 * np.pi * (wave[0] * x + wave[1] * y) + phase)
    for _ in range(4):
        cx, cy = r.uniform(0, 1, 2)
        radius = r.uniform(0.05, 0.25)
        colour = r.uniform(0, 1, 3)
        disc = (x - cx) ** 2 + (y - cy) ** 2 < radius**2
        square = (np.abs(x - cx) < radius) & (np.abs(y - cy) < radius)
        made = np.where(square if fake else disc, colour, made)
    made = 0.5 + (made - made.mean()) * (r.uniform(0.18, 0.24) / made.std())
    made = made + (0.06 if fake else 0.03) * r.randn(height, width, 3)
    return np.clip(np.floor(made * 255 + 0.5), 0, 255).astype(np.uint8)


def pattern(height, width, channels=3):
    """Returns [1, height, width, channels] uint8 by a formula: every neighbour differs, many by more than 100."""
    i, j, k = np.ogrid[:height, :width, :channels]
    return ((i * i * 37 + j * 101 + i * j * 29 + k * 57 + 11) % 256).astype(np.uint8)[None]


def clouds():
    """Returns float32 features, real [60, 16] and fake [50, 16], and logits [43, 20]; whose values are in FID.md 4."""
    r = np.random.RandomState(7)
    real, fake = np.abs(0.4 + r.randn(60, 16) * 0.3), np.abs(0.45 + r.randn(50, 16) * 0.35)
    return real.astype(np.float32), fake.astype(np.float32), (2.5 * r.randn(43, 20)).astype(np.float32)


def spread(n, d, a=0.0):
    """Returns [n, d] in [0, 1) by a formula: the inputs of FID.md 6."""
    i, j = np.ogrid[:n, :d]
    return ((a + 0.1) * (i + 1) * (j + 2) + i * np.sqrt(2) + j * np.sqrt(3)) % 1
