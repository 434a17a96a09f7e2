"""What becomes of a foreign tensor: turned, cut into heads, joined; and the way back where there is one."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxdiff.protocols import Array

__all__ = [
    "Transform", "flat", "heads", "interleaved", "joined", "kernel", "legacy", "negated", "patches", "pixel_heads",
    "pixel_joined", "same", "swapped", "table",
]


class Transform(NamedTuple):
    """What becomes of a value.

    Attributes:
      there: `(their value, shape of one layer of ours) -> ours`.
      back: `our value -> theirs`; None where their shape does not follow from ours.
    """

    there: Callable[[Array, tuple[int, ...]], Array]
    back: Callable[[Array], Array] | None = None


def _rows(order: tuple[int, int, int]) -> Callable[[Array, tuple[int, ...]], Array]:
    """Packed rows [(3, heads, dim), c], whose axes are in this order, to [c, 3, heads, dim]; biases likewise."""

    def there(value: Array, shape: tuple[int, ...]) -> Array:
        packed = shape[-3:]
        rows = value.reshape(*(packed[i] for i in order), -1).transpose(*np.argsort(order), 3)
        return (np.moveaxis(rows, -1, 0) if len(shape) > 3 else rows).reshape(shape)

    return there


def _moved(value: Array) -> Array:
    return np.moveaxis(value, (-1, -2), (0, 1))


same = Transform(lambda value, shape: value, lambda value: value)
# OI to IO, OIHW to HWIO; a convolution of one pixel may stand for a dense layer.
kernel = Transform(lambda value, shape: np.moveaxis(value, (0, 1), (-1, -2)).reshape(shape), _moved)
# Rows (..., heads, dim) to [c, ..., heads, dim], and their biases.
heads = Transform(lambda value, shape: value.reshape(len(value), -1).T.reshape(shape),
                  lambda value: value.reshape(len(value), -1).T)
flat = Transform(lambda value, shape: value.reshape(shape), lambda value: value.reshape(-1))
interleaved = Transform(_rows((1, 2, 0)))  # (heads, dim, 3): EDM's
legacy = Transform(_rows((1, 0, 2)))  # (heads, 3, dim): ADM's at 128 to 512 pixels
# The output [o, (heads, dim)] to [heads, dim, o]; its convolution of one pixel likewise.
joined = Transform(lambda value, shape: value.reshape(len(value), -1).T.reshape(shape),
                   lambda value: value.reshape(-1, value.shape[-1]).T)
# The same where theirs are convolutions of one pixel, of one head and of q, k or v alone.
pixel_joined = Transform(joined.there, lambda value: value.reshape(-1, value.shape[-1]).T[..., None, None])
pixel_heads = Transform(heads.there, lambda value: value.reshape(len(value), -1).T[..., None, None])
# (scale, shift) to (shift, scale), of a dense layer's rows.
swapped = Transform(lambda value, shape: np.concatenate(np.split(value, 2)[::-1]).T,
                    lambda value: np.concatenate(np.split(value.T, 2)[::-1]))
table = Transform(lambda value, shape: value.reshape(shape), lambda value: value[None])  # [1, n, c] to [n, c]
negated = Transform(lambda value, shape: -kernel.there(value, shape) if value.ndim > 1 else -value)


def patches(size: int) -> Transform:
    """Returns what turns a strided convolution [o, c, size, size] into the dense layer on flattened patches."""
    return Transform(lambda value, shape: value.transpose(2, 3, 1, 0).reshape(shape),
                     lambda value: value.reshape(size, size, -1, value.shape[-1]).transpose(3, 2, 0, 1))
