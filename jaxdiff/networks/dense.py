"""A residual network on vectors, for examples and tests."""

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff import layers
from jaxdiff.networks import choices
from jaxdiff.networks.labels import label_of
from jaxdiff.protocols import Array, Cond

__all__ = ["MLP"]


class MLP(nn.Module):
    """A residual perceptron on vectors, `h = in(x) + emb`, then `h = h + hidden_i(silu(h))`.

    The noise level is shown by random Fourier features; the last layer starts small.

    Attributes:
      width: of the hidden layers.
      depth: number of residual layers, at least 1.
      num_classes: 0 for no condition; label `num_classes` is "no class", the zero vector.
      frequencies: number of random frequencies of the noise level.
      dtype: what the hidden layers compute in, `float32` or `bfloat16`.

    Raises:
      ValueError: a choice that is not listed above.
    """

    width: int = 128
    depth: int = 3
    num_classes: int = 0
    frequencies: int = 16
    dtype: str = "float32"

    def __post_init__(self) -> None:
        choices.check(self, {"dtype": ("float32", "bfloat16")})
        if min(self.width, self.depth, self.frequencies) < 1:
            raise ValueError("width, depth and frequencies of MLP are at least 1, got "
                             f"{self.width}, {self.depth} and {self.frequencies}")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, c_noise: Array, cond: Cond = None, *, train: bool = False) -> Array:
        """Returns the prediction [b, d] float32.

        Args:
          x: [b, d].
          c_noise: [b].
          cond: `{"label": [b]}`, integers in [0, num_classes], or None where num_classes is 0.
          train: changes nothing; every network takes it.

        Raises:
          ValueError: x is not [b, d]; a condition that does not fit `num_classes`.
        """
        del train
        if x.ndim != 2:
            raise ValueError(f"MLP takes vectors [b, d], got {x.shape}")
        label = label_of(cond, self.num_classes)
        emb = layers.Fourier(2 * self.frequencies, scale=0.5, name="map_noise")(c_noise)  # [b, 2 frequencies]
        emb = nn.Dense(self.width, name="map_layer0")(emb)
        if label is not None:
            emb = emb + layers.LabelEmbedding(self.num_classes, self.width, name="map_label")(label)
        emb = nn.Dense(self.width, name="map_layer1")(nn.silu(emb))
        h = nn.Dense(self.width, dtype=self.dtype, name="in")(layers.batched(x)) + emb.astype(self.dtype)
        for i in range(self.depth):
            h = h + nn.Dense(self.width, dtype=self.dtype, name=f"hidden{i}")(nn.silu(layers.batched(h)))
        h = nn.silu(layers.batched(h)).astype(jnp.float32)
        small = nn.initializers.variance_scaling(1e-4, "fan_avg", "uniform")
        return nn.Dense(x.shape[-1], kernel_init=small, name="out")(h)
