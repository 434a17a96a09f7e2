"""Embeddings of noise levels and of classes, in float32: bfloat16 would round the angles away."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdiff.layers.precision import wide
from jaxdiff.protocols import Array

__all__ = ["Fourier", "LabelEmbedding", "positional"]


def positional(c_noise: Array, channels: int, *, max_period: float = 10_000.0, endpoint: bool = False) -> Array:
    """Returns `[cos(c f_k), sin(c f_k)]` at the frequencies `f_k = max_period^(-k/n)`, n = channels/2.

    Args:
      c_noise: [b].
      channels: even, at least 4 with `endpoint`.
      max_period: > 1.
      endpoint: divide k by n - 1, so that the last frequency is 1/max_period (EDM's DDPM++).

    Returns:
      [b, channels] float32.

    Raises:
      ValueError: channels that are odd or too few.

    Source: Vaswani et al. 2017, sec. 3.5; Ho et al. 2020.
    """
    half = channels // 2
    if channels % 2 or half <= endpoint:
        raise ValueError(f"a positional embedding has an even number of channels, at least {2 + 2 * endpoint}, "
                         f"got {channels}")
    frequencies = max_period ** (-jnp.arange(half, dtype=jnp.float32) / (half - endpoint))
    angles = wide(c_noise)[..., None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)


class Fourier(nn.Module):
    """Random Fourier features with frequencies `f ~ N(0, scale²)`, drawn once and never trained.

    `[cos(2π f c), sin(2π f c)]` with channels/2 frequencies, or with `phases` `√2 cos(2π (f c + φ))`,
    one frequency and one phase φ ~ U(0, 1) a channel; both have unit second moment, the first over a pair.

    Attributes:
      channels: even unless `phases`.
      scale: standard deviation of the frequencies, > 0.
      phases: draw phases.

    Source: Tancik et al. 2020; NCSN++ (Song et al. 2021); with phases, Karras et al. 2024 (EDM2).
    """

    channels: int
    scale: float = 16.0
    phases: bool = False

    @nn.compact
    def __call__(self, c_noise: Array) -> Array:
        """Returns [b, channels] float32 of c_noise [b].

        Raises:
          ValueError: an odd number of channels without phases.
        """
        if self.channels % 2 and not self.phases:
            raise ValueError(f"Fourier features in pairs need an even number of channels, got {self.channels}")
        number = self.channels if self.phases else self.channels // 2
        # Parameters, so that they are saved with the rest; they get no gradient.
        freqs = jax.lax.stop_gradient(self.param("freqs", nn.initializers.normal(self.scale), (number,)))
        angles = wide(c_noise)[..., None] * freqs
        if not self.phases:
            return jnp.concatenate([jnp.cos(2 * jnp.pi * angles), jnp.sin(2 * jnp.pi * angles)], -1)
        phases = jax.lax.stop_gradient(self.param("phases", nn.initializers.uniform(1.0), (number,)))
        return math.sqrt(2) * jnp.cos(2 * jnp.pi * (angles + phases))


class LabelEmbedding(nn.Module):
    """A linear map of the one-hot class times √num_classes, which gives its input unit mean square.

    Index `num_classes`, the null class, is the zero vector.

    Attributes:
      num_classes: at least 1.
      channels: of the embedding.
      use_bias: add a bias, which the null class gets as well.
      scaled: multiply by √num_classes; without it the kernel is a table that starts as N(0, 1).

    Source: Karras et al. 2022 (EDM), whose DDPM++ is scaled and has a bias and whose ADM is and has neither.
    """

    num_classes: int
    channels: int
    use_bias: bool = False
    scaled: bool = True

    @nn.compact
    def __call__(self, label: Array) -> Array:
        """Returns [b, channels] float32 of label [b], integers in [0, num_classes]."""
        hot = jax.nn.one_hot(label, self.num_classes) * (math.sqrt(self.num_classes) if self.scaled else 1.0)
        init = nn.initializers.xavier_uniform() if self.scaled else nn.initializers.normal(1.0)
        return nn.Dense(self.channels, use_bias=self.use_bias, kernel_init=init, name="linear")(hot)
