"""Resampling of images by two with a separable FIR filter, aligned as in EDM.

The filter of 2m taps lies symmetrically about the new samples, so that nothing shifts by half a pixel:
(1, 1) averages 2 x 2 pixels and repeats them, (1, 3, 3, 1) is the smoother filter of NCSN++.
Beyond the border there are zeros, as in EDM.
"""

import jax
import jax.numpy as jnp

from jaxdiff.protocols import Array

__all__ = ["down", "up"]


def down(x: Array, taps: tuple[float, ...] = (1, 1), pad: int | None = None) -> Array:
    """Halves the height and width of x.

    Args:
      x: [b, h, w, c], h and w even.
      taps: an even number; their sum does not matter.
      pad: zeros beyond each border, half of the taps less one if None; a convolution before the filter may
        have left fewer to add.

    Returns:
      [b, h/2, w/2, c] in the dtype of x; with `pad`, (h + 2 pad - taps)/2 + 1 pixels high.

    Raises:
      ValueError: an odd size or number of taps.

    Source: Karras et al. 2022 (EDM), `resample_filter`; Zhang 2019.
    """
    weights = _weights(taps)
    if x.shape[1] % 2 or x.shape[2] % 2:
        raise ValueError(f"an image of {x.shape[1]}x{x.shape[2]} cannot be halved")
    if taps == (1, 1) and not pad:
        b, h, w, c = x.shape
        return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))  # the same numbers, cheaper to differentiate
    border = len(taps) // 2 - 1 if pad is None else pad
    for axis in (1, 2):
        padded = _pad(x, axis, border, border, 0)
        last = padded.shape[axis] - len(taps)  # where the filter is laid last
        x = sum(weight * jax.lax.slice_in_dim(padded, i, i + last + 1, 2, axis) for i, weight in enumerate(weights))
    return x


def up(x: Array, taps: tuple[float, ...] = (1, 1)) -> Array:
    """Doubles the height and width of x: the transpose of `down`, times 4.

    Args:
      x: [b, h, w, c].
      taps: an even number; their sum does not matter.

    Returns:
      [b, 2h, 2w, c] in the dtype of x.

    Raises:
      ValueError: an odd number of taps.

    Source: as `down`.
    """
    weights = _weights(taps)
    if taps == (1, 1):
        b, h, w, c = x.shape
        return jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)
    border = len(taps) // 2
    for axis in (1, 2):
        size = 2 * x.shape[axis]
        padded = _pad(x, axis, border, border, 1)  # zeros between the samples
        x = sum(2 * weight * jax.lax.slice_in_dim(padded, i, i + size, 1, axis)
                for i, weight in enumerate(reversed(weights)))
    return x


def _pad(x: Array, axis: int, low: int, high: int, between: int) -> Array:
    amounts = [(0, 0, 0)] * x.ndim
    amounts[axis] = (low, high, between)
    return jax.lax.pad(x, jnp.zeros((), x.dtype), amounts)


def _weights(taps: tuple[float, ...]) -> list[float]:
    if not taps or len(taps) % 2 or not sum(taps):
        raise ValueError(f"a filter has an even number of taps with a sum that is not 0, got {taps}")
    return [tap / sum(taps) for tap in taps]
