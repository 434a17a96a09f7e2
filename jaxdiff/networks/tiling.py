"""Decoding what does not fit in memory at once: in pieces of the batch, or in overlapping tiles of the image.

    image(p) = Σ_i w_i(p) decode(tile_i)(p),   Σ_i w_i(p) = 1

where w rises linearly over the pixels that a tile shares with the one before it, and falls over those it shares with
the next.  Of convolutions alone the image is the whole one but near the edges of tiles, as far as they see; norms and
attention look at a tile where they would have looked at the image, which makes it an approximation everywhere.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.protocols import Array

__all__ = ["blend", "sliced", "tiled"]


def sliced(decode: Callable, z: Array, *, size: int = 1) -> Array:
    """Decodes `size` samples at a time.

    Args:
      decode: `z [k, ...] -> [k, ...]`, for any k, each sample by itself.
      z: [b, ...].
      size: of a piece, >= 1; a smaller one is left at the end where it does not divide b.

    Returns:
      What `decode(z)` does, [b, ...].

    Raises:
      ValueError: size < 1.
    """
    if size < 1:
        raise ValueError(f"a piece of the batch has at least 1 sample, got size={size}")
    if z.shape[0] <= size:
        return decode(z)
    whole = z.shape[0] - z.shape[0] % size
    done = jax.lax.map(decode, z[:whole].reshape(-1, size, *z.shape[1:]))
    done = done.reshape(whole, *done.shape[2:])
    return done if whole == z.shape[0] else jnp.concatenate([done, decode(z[whole:])])


def tiled(decode: Callable, z: Array, *, tile: int = 64, overlap: int = 16) -> Array:
    """Decodes tiles of z one after another and blends them where they overlap.

    Args:
      decode: `z [b, h, w, c] -> [b, f h, f w, c']` with an integer f, for any h and w.
      z: [b, h, w, c].
      tile: height and width of a tile, in pixels of z.
      overlap: at least so many pixels of z are shared by neighbours, 0 <= overlap < tile.

    Returns:
      [b, f h, f w, c'], of one tile `decode(z)` itself.

    Raises:
      ValueError: overlap outside [0, tile); an f that is not an integer.

    Source: diffusers' `AutoencoderKL.tiled_decode`, whose last tiles are smaller; here all have one size, so that one
      program decodes them, and are spread evenly.
    """
    if not 0 <= overlap < tile:
        raise ValueError(f"the overlap of tiles of {tile} lies between 0 and {tile - 1}, got {overlap}")
    b, h, w, c = z.shape
    size = min(tile, h), min(tile, w)
    if size == (h, w):
        return decode(z)
    out = jax.eval_shape(decode, jax.ShapeDtypeStruct((b, *size, c), z.dtype))
    f = out.shape[1] // size[0]
    if out.shape[1:3] != (f * size[0], f * size[1]):
        raise ValueError(f"a tile of {size[0]}x{size[1]} became {out.shape[1]}x{out.shape[2]}: not a multiple of it")
    (rows, down), (columns, across) = (blend(n, k, overlap, f) for n, k in zip((h, w), size, strict=True))

    def add(canvas: Array, place: tuple) -> tuple[Array, None]:
        top, left, vertical, horizontal = place
        piece = decode(jax.lax.dynamic_slice(z, (0, top, left, 0), (b, *size, c)))
        piece = piece * (vertical[:, None, None] * horizontal[:, None])
        start = (0, f * top, f * left, 0)
        under = jax.lax.dynamic_slice(canvas, start, piece.shape)
        return jax.lax.dynamic_update_slice(canvas, under + piece, start), None

    i, j = np.divmod(np.arange(len(rows) * len(columns)), len(columns))
    places = rows[i], columns[j], down[i].astype(out.dtype), across[j].astype(out.dtype)
    return jax.lax.scan(add, jnp.zeros((b, f * h, f * w, out.shape[3]), out.dtype), places)[0]


def blend(size: int, tile: int, overlap: int, f: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Returns where the tiles of an axis start, and how much each of their pixels counts.

    Args:
      size: pixels along the axis, at least `tile`.
      tile: of them in a tile.
      overlap: at least so many are shared by neighbours, 0 <= overlap < tile.
      f: pixels that each becomes.

    Returns:
      Starts [n], and weights [n, f tile], float64, which sum to 1 at each of the f size pixels.
    """
    number = max(math.ceil((size - overlap) / (tile - overlap)), 1)
    starts = np.arange(number) * (size - tile) // max(number - 1, 1)
    shared = f * (tile - np.diff(starts))  # by each tile and the next
    pixels = np.arange(f * tile) + 0.5
    weights = np.ones((number, f * tile))
    weights[1:] *= np.minimum(pixels / np.maximum(shared[:, None], 1), 1)
    weights[:-1] *= np.minimum((f * tile - pixels) / np.maximum(shared[:, None], 1), 1)
    places = f * starts[:, None] + np.arange(f * tile)
    total = np.bincount(places.ravel(), weights.ravel())  # not 1 where a third tile meets two
    return starts, weights / total[places]
