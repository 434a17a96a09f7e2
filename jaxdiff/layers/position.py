"""Where a token lies: a table of sines, a learned table, or rotations of queries and keys.

A table shows a token's row r and column c as `[sin(c f), cos(c f), sin(r f), cos(r f)]`, f_k = 10000^(-k/n).
A rotation turns pair j of a head's channels by `r f_j` (the first half of the pairs) or `c f_j` (the others), so
that `q·k` depends on the difference of two places alone.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxdiff.layers.precision import wide
from jaxdiff.protocols import Array

__all__ = ["LearnedPosition", "angles", "rotate", "sincos"]


def sincos(rows: Array, columns: Array, channels: int) -> np.ndarray:
    """Returns the table [h*w, channels] float64 of a grid, row by row; columns come first in its channels.

    Args:
      rows: [h], coordinates of the rows of tokens, usually 0, 1, ...
      columns: [w].
      channels: a multiple of 4.

    Raises:
      ValueError: another number of channels.

    Source: Peebles & Xie 2023 (DiT), after He et al. 2022 (MAE).
    """
    if channels % 4:
        raise ValueError(f"sines and cosines of rows and columns take a multiple of 4 channels, got {channels}")
    down, across = _places(rows, columns)
    turns = [place[:, None] * _frequencies(channels // 4, 10_000.0) for place in (across, down)]
    return np.concatenate([wave(turn) for turn in turns for wave in (np.sin, np.cos)], -1)


def angles(rows: Array, columns: Array, channels: int, *, max_period: float = 10_000.0) -> np.ndarray:
    """Returns by how much `rotate` turns each pair of channels, [h*w, channels/2] float64.

    Args:
      rows, columns: as in `sincos`.
      channels: of a head, a multiple of 4.
      max_period: > 1.

    Raises:
      ValueError: another number of channels.

    Source: Su et al. 2021 (RoPE); on grids, Fang et al. 2023 (EVA-02).
    """
    if channels % 4:
        raise ValueError(f"rotations by row and column take heads of a multiple of 4 channels, got {channels}")
    frequencies = _frequencies(channels // 4, max_period)
    return np.concatenate([place[:, None] * frequencies for place in _places(rows, columns)], -1)


def rotate(x: Array, turns: Array) -> Array:
    """Turns the neighbouring channels (2j, 2j + 1) of every head, in float32.

    Args:
      x: queries or keys [b, n, heads, d].
      turns: [n, d/2], from `angles`; zero for tokens that lie nowhere.

    Returns:
      [b, n, heads, d] in the dtype of x.
    """
    pairs = wide(x).reshape(*x.shape[:-1], -1, 2)  # [b, n, heads, d/2, 2]
    first, second = pairs[..., 0], pairs[..., 1]
    turns = jnp.asarray(turns, pairs.dtype)[:, None]
    cos, sin = jnp.cos(turns), jnp.sin(turns)
    turned = jnp.stack([first * cos - second * sin, second * cos + first * sin], -1)
    return turned.reshape(x.shape).astype(x.dtype)


class LearnedPosition(nn.Module):
    """Adds a table that is learned, of the size of the tokens: `x + table`.

    Source: Dosovitskiy et al. 2021 (ViT).
    """

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns [b, n, c] of tokens x [b, n, c], in their dtype."""
        return x + self.param("table", nn.initializers.normal(0.02), x.shape[1:]).astype(x.dtype)


def _places(rows: Array, columns: Array) -> tuple[np.ndarray, np.ndarray]:
    down, across = np.meshgrid(np.asarray(rows, np.float64), np.asarray(columns, np.float64), indexing="ij")
    return down.ravel(), across.ravel()


def _frequencies(number: int, max_period: float) -> np.ndarray:
    return max_period ** (-np.arange(number) / number)
