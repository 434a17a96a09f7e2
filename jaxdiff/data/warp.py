"""Images read through a map of the plane, so that nothing aliases.

An image is taken to twice its size by an orthogonal wavelet filter, read there bilinearly, and brought back by the
filter's transpose: where the map moves nothing, it comes back as it was.  Beyond its border it is its mirror image,
over and over.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.protocols import Array

__all__ = ["mirrored", "warped"]

SYM6 = (  # Daubechies' least asymmetric filter of six vanishing moments
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466,
    0.787641141030194, 0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578,
    0.0017677118642428036, -0.007800708325034148,
)
CENTRE = sum(k * tap for k, tap in enumerate(SYM6)) / sum(SYM6)  # where it lays a smooth image: 5.1, not 5.5
EXACT = jax.lax.Precision.HIGHEST


def warped(x: Array, matrix: Array) -> Array:
    """Returns images [b, h, w, c] float32, each seen through its map.

    Args:
      x: the images.
      matrix: [b, 3, 3]; where a pixel (x, y, 1) of the result was before, both in pixels from the centre, y downward.

    Source: Karras et al. 2020 (ADA), appendix B.2.
    """
    b, h, w, c = x.shape
    (up_y, down_y), (up_x, down_x) = _filters(h), _filters(w)
    rows, columns = len(up_y), len(up_x)
    x = jnp.moveaxis(x, -1, 1)  # [b, c, h, w]: a few channels make a poor last axis
    flat = _product(up_y, x, up_x.T).reshape(b, c, rows * columns)
    # The grid of twice the pixels: sample k of a row lies at pixel (k - CENTRE)/2.
    to_y, to_x = (((np.arange(k) - CENTRE) / 2 - (n - 1) / 2).astype(np.float32) for k, n in ((rows, h), (columns, w)))
    a = matrix[:, :2, :, None, None]
    from_x, from_y = (a[:, i, 0] * to_x + a[:, i, 1] * to_y[:, None] + a[:, i, 2] + (n - 1) / 2
                      for i, n in enumerate((w, h)))  # [b, rows, columns]
    at_x, at_y = _inside(from_x, w, columns), _inside(from_y, h, rows)
    left, top = (jnp.clip(jnp.floor(at), 0, k - 2) for at, k in ((at_x, columns), (at_y, rows)))
    first = (top * columns + left).astype(int).reshape(b, 1, -1)
    dx, dy = (at_x - left)[:, None], (at_y - top)[:, None]

    def read(beyond: int) -> Array:
        return jnp.take_along_axis(flat, first + beyond, 2, mode="clip").reshape(b, c, rows, columns)

    upper, lower = (read(start) + dx * (read(start + 1) - read(start)) for start in (0, columns))
    return jnp.moveaxis(_product(down_y, upper + dy * (lower - upper), down_x.T), 1, -1)


def _product(left: Array, x: Array, right: Array) -> Array:
    return jnp.matmul(jnp.matmul(left, x, precision=EXACT), right, precision=EXACT)


def _inside(pixel: Array, n: int, k: int) -> Array:
    """Returns the place in a row of `k` samples of twice the pixels; from beyond it, mirrored about the end pixels."""
    index = 2 * pixel + CENTRE
    return jnp.where((index < 0) | (index > k - 1), 2 * mirrored(pixel, n) + CENTRE, index)


def mirrored(pixel: Array, n: int) -> Array:
    """Returns the place in 0..n-1 that a mirror at each end shows at `pixel`; numpy or JAX."""
    return n - 1 - abs(n - 1 - pixel % max(2 * n - 2, 1))


@functools.lru_cache
def _filters(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the filters of a row as matrices: [k, n] to twice the pixels with a margin, and [n, k] back.

    Their product is the identity, since the shifts by two of the taps are orthonormal.
    """
    k = 2 * n + len(SYM6) - 2
    up, down = np.zeros((k, n)), np.zeros((n, k))
    for pixel in range(-len(SYM6), n + len(SYM6)):
        for tap, weight in enumerate(SYM6):
            if 0 <= 2 * pixel + tap < k:
                up[2 * pixel + tap, int(mirrored(np.array(pixel), n))] += math.sqrt(2) * weight
                if 0 <= pixel < n:
                    down[pixel, 2 * pixel + tap] = weight / math.sqrt(2)
    return up.astype(np.float32), down.astype(np.float32)
