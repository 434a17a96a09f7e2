"""How images come to the size that a network was made for: each published protocol by its name.

    tf1         bilinear at i·in/out, no antialias: TTUR, ADM, EDM, StyleGAN, torch-fidelity, torchmetrics
    half_pixel  bilinear at (i+½)·in/out − ½, no antialias: pytorch-fid, dgm-eval's Inception
    legacy_pytorch  the same on 0..255, clipped: clean-fid
    clean       Pillow's bicubic in float, antialiased, clipped and not rounded: clean-fid
    edm2        the same kernel, neither clipped nor rounded: EDM2's FD-DINOv2
    edm2_pil    Pillow's bicubic on bytes, rounded after each axis: EDM2's other one, dgm-eval's DINOv2
    cmmd        the largest square in the middle, then as edm2_pil

Each axis is one matrix, made on the host: positions computed inside `jit` are fused to one rounding and move the
image by up to 5e-3 grey levels.  Bicubic is Keys' kernel with a = -½.  The width goes first, as in Pillow up to 12;
13 begins with the height where that shrinks much more, which on bytes moves tall images by a few grey levels.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.build import nearest
from jaxdiff.protocols import Array

__all__ = ["IMAGENET", "PROTOCOLS", "Protocol", "checked", "resized", "signed", "standardised"]

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and standard deviation of r, g, b in 0..1
BITS = 22  # after the point, of Pillow's whole-numbered weights


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How an image is resized.

    Attributes:
      grid: `corner`, `centre` or `bicubic`: which matrix.
      centred: values 0..255 become (x - 128)/128 rather than 2x/255 - 1, where the network wants -1..1.
      clips: to 0..255 afterwards.
      rounds: to bytes, after each axis.
      crops: to the largest square in the middle, first.
    """

    grid: str
    centred: bool = False
    clips: bool = False
    rounds: bool = False
    crops: bool = False


PROTOCOLS = {
    "tf1": Protocol("corner", centred=True),
    "half_pixel": Protocol("centre"),
    "legacy_pytorch": Protocol("centre", clips=True),
    "clean": Protocol("bicubic", centred=True, clips=True),
    "edm2": Protocol("bicubic"),
    "edm2_pil": Protocol("bicubic", rounds=True),
    "cmmd": Protocol("bicubic", rounds=True, crops=True),
}


def checked(protocol: str, allowed: tuple[str, ...], name: str) -> str:
    """Returns the protocol, if it is one of those that an extractor has.

    Raises:
      ValueError: it is not.
    """
    if protocol not in allowed:
        raise ValueError(f"features {name!r} have no protocol {protocol!r}{nearest(protocol, allowed)}")
    return protocol


def resized(images: Array, protocol: str, size: int, *, name: str = "images", dtype: Array = jnp.float32) -> Array:
    """Brings bytes to the size of a network.

    Args:
      images: [b, h, w, c] uint8, c 1 (made grey of three equal channels) or 3; no alpha.
      protocol: a name in `PROTOCOLS`.
      size: of a side afterwards.
      name: of the extractor, for errors.
      dtype: in which it is done.

    Returns:
      [b, size, size, 3] of `dtype`, in 0..255 (`edm2`: beyond, where an edge overshoots).

    Raises:
      ValueError: no bytes, or another number of channels or dimensions.
    """
    if images.dtype != jnp.uint8 or images.ndim != 4:
        raise ValueError(f"features {name!r} are of uint8 images [b, h, w, c], got {images.dtype} {images.shape}")
    if images.shape[-1] not in (1, 3):
        raise ValueError(f"features {name!r} are of images of 1 or 3 channels, got {images.shape}; drop an alpha first")
    how, x = PROTOCOLS[protocol], jnp.asarray(images)
    if how.crops:
        height, width = x.shape[1:3]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        x = x[:, top:top + side, left:left + side]
    x = _rounding(x, size) if how.rounds else _smoothly(x.astype(dtype), how.grid, size)
    x = jnp.clip(x, 0, 255) if how.clips else x
    return jnp.broadcast_to(x, (*x.shape[:-1], 3)).astype(dtype)


def signed(x: Array, protocol: str) -> Array:
    """Returns values 0..255 in about -1..1, as the protocol has it."""
    return (x - 128) / 128 if PROTOCOLS[protocol].centred else 2 * (x / 255) - 1


def standardised(x: Array, mean: tuple[float, ...] = IMAGENET[0], std: tuple[float, ...] = IMAGENET[1]) -> Array:
    """Returns values 0..255 [..., 3] as (x/255 - mean)/std, mean and std a channel in 0..1."""
    return (x / 255 - np.asarray(mean, x.dtype)) / np.asarray(std, x.dtype)


def _smoothly(x: Array, grid: str, size: int) -> Array:
    height, width = x.shape[1:3]
    by = lambda side: matrix(grid, side, size, jnp.dtype(x.dtype).name)
    if width != size:
        x = jnp.einsum("bhwc,ow->bhoc", x, by(width), precision=jax.lax.Precision.HIGHEST)
    if height != size:
        x = jnp.einsum("bhwc,oh->bowc", x, by(height), precision=jax.lax.Precision.HIGHEST)
    return x


def _rounding(x: Array, size: int) -> Array:
    """Pillow's arithmetic on bytes: weights in units of 2^-22, a rounding and a clip after each axis."""
    x = x.astype(jnp.int32)
    for axis, equation in ((2, "bhwc,ow->bhoc"), (1, "bhwc,oh->bowc")):
        if x.shape[axis] != size:
            sums = jnp.einsum(equation, x, _whole(x.shape[axis], size), preferred_element_type=jnp.int32)
            x = jnp.clip((sums + (1 << (BITS - 1))) >> BITS, 0, 255)
    return x


@functools.cache
def matrix(grid: str, given: int, wanted: int, dtype: str = "float64") -> np.ndarray:
    """Returns the weights [wanted, given] of one axis; rows sum to 1."""
    if grid == "bicubic":
        return _bicubic(given, wanted).astype(dtype)
    at, ratio = np.arange(wanted), float(np.float32(given / wanted))  # the tools keep the ratio in float32
    if grid == "corner":
        position = at.astype(dtype) * np.asarray(ratio, dtype)
    else:
        position = np.maximum(ratio * (at + 0.5) - 0.5, 0).astype(dtype)  # rounded once, as torch's fused product is
    low = np.minimum(position.astype(int), given - 1)
    weight = position - low.astype(dtype)
    made = np.zeros((wanted, given), dtype)
    np.add.at(made, (at, low), 1 - weight)
    np.add.at(made, (at, np.minimum(low + 1, given - 1)), weight)
    return made


def _bicubic(given: int, wanted: int) -> np.ndarray:
    ratio = given / wanted
    wide = max(ratio, 1.0)
    centre = (np.arange(wanted)[:, None] + 0.5) * ratio
    first = np.maximum((centre - 2 * wide + 0.5).astype(int), 0)
    last = np.minimum((centre + 2 * wide + 0.5).astype(int), given)
    pixel = np.arange(given)
    distance = np.abs(pixel + 0.5 - centre) / wide
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    kernel = np.where(distance < 1, near, np.where(distance < 2, far, 0.0))
    kernel = np.where((pixel >= first) & (pixel < last), kernel, 0.0)
    return kernel / kernel.sum(1, keepdims=True)


@functools.cache
def _whole(given: int, wanted: int) -> np.ndarray:
    scaled = _bicubic(given, wanted) * (1 << BITS)
    return np.trunc(scaled + np.copysign(0.5, scaled)).astype(np.int32)
