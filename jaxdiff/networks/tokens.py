"""What the transformers share: from the image to tokens, from noise level and class to an embedding, and back.

The functions that make layers are called inside a compact method, whose module then owns these layers.
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff import layers
from jaxdiff.networks import choices
from jaxdiff.protocols import Array

__all__ = ["CHOICES", "SMALL", "XAVIER", "embed", "first_half", "out", "place", "sizes"]

FREQUENCIES = 128  # of the noise level
CHOICES = {"remat": tuple(layers.REMAT), **choices.COMPUTE}
XAVIER = nn.initializers.xavier_uniform()
SMALL = nn.initializers.normal(0.02)


def sizes(given: tuple[int | None, ...], known: tuple[int, ...]) -> tuple[int, ...]:
    """Returns `given`, with `known` where it is None."""
    return tuple(usual if value is None else value for value, usual in zip(given, known, strict=True))


def embed(c_noise: Array, label: Array | None, num_classes: int, width: int) -> tuple[Array, Array | None]:
    """Returns the embedding [b, width] of noise level and class, and that of the class alone; float32.

    Makes the layers `noise0`, `noise1` and `label`, whose last row is the class `num_classes`.
    """
    emb = layers.positional(c_noise, 2 * FREQUENCIES)
    emb = nn.Dense(width, kernel_init=SMALL, name="noise0")(emb)
    emb = nn.Dense(width, kernel_init=SMALL, name="noise1")(nn.silu(emb))
    if label is None:
        return layers.batched(emb), None
    of_class = nn.Embed(num_classes + 1, width, embedding_init=SMALL, name="label")(label)
    return layers.batched(emb + of_class), of_class


def place(tokens: Array, position: str, rows: Array, columns: Array) -> Array:
    """Returns tokens [b, n, c] with what says where they lie added: `sincos`, `learned` or `none`."""
    if position == "learned":
        return layers.LearnedPosition(name="position")(tokens)
    if position == "sincos":
        return tokens + jnp.asarray(layers.sincos(rows, columns, tokens.shape[-1]), tokens.dtype)
    return tokens


def out(tokens: Array, emb: Array, channels: int, norm: str = "layer") -> Array:
    """Returns what is predicted for each token [b, n, channels], float32; zero at the start.

    Makes the layers `modulation` and `out`, and `norm` if that is `rms`.
    """
    make = layers.RMSNorm(name="norm") if norm == "rms" else layers.LayerNorm(affine=False, name="norm")
    shift, scale = layers.modulation(emb, 2, tokens.shape[-1])
    h = layers.modulate(make(layers.wide(tokens)), shift, scale)
    return layers.batched(nn.Dense(channels, kernel_init=nn.initializers.zeros, name="out")(h))


def first_half(y: Array) -> Array:
    """Returns the first half of the channels: the prediction, without its variance."""
    return y[..., :y.shape[-1] // 2]
