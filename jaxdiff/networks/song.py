"""DDPM++, the UNet of Song et al. 2021 as EDM trains it (Karras et al. 2022, appendix F.2).

A block is `h = conv1(drop(silu(norm1(conv0(silu(norm0(x))) + affine(emb)))))`, then `(h + skip(x))/√2`, and where
it attends `(attn(norm2(h)) + h)/√2`.  Last convolutions start at 1e-5 of the usual size, so that a
block starts as its skip and the network as zero.  Names and layout are EDM's.
"""

import math

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff import layers
from jaxdiff.networks import levels
from jaxdiff.networks.labels import label_of
from jaxdiff.protocols import Array, Cond

__all__ = ["SongUNet"]

HALF = math.sqrt(0.5)  # the sum of two unit variances, scaled back to one


def xavier(gain: float = 1.0) -> nn.initializers.Initializer:
    """Returns Xavier's uniform initializer times `gain`."""
    return nn.initializers.variance_scaling(gain**2, "fan_avg", "uniform")


SMALL = xavier(1e-5)


class UNetBlock(nn.Module):
    """A residual block of DDPM++, with the resampling and the attention that its plan asks for.

    Attributes:
      plan: what to build.
      dropout: rate before the second convolution, in [0, 1).
      dtype: what the convolutions compute in.
    """

    plan: levels.Block
    dropout: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, emb: Array, *, train: bool = False) -> Array:
        """Returns [b, h', w', channels] of x [b, h, w, c] and emb [b, d] float32."""
        channels, mode = self.plan.channels, self.plan.mode
        resample = {"keep": lambda x: x, "down": layers.down, "up": layers.up}[mode]
        x = layers.batched(x)
        h = nn.silu(layers.GroupNorm(name="norm0")(x))
        h = self._conv(resample(h), channels, 3, xavier(), "conv0")
        shift = nn.Dense(channels, kernel_init=xavier(), name="affine")(emb)  # float32, as emb
        h = h + shift[:, None, None, :].astype(h.dtype)
        h = nn.silu(layers.GroupNorm(name="norm1")(h))
        h = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(h)
        h = self._conv(h, channels, 3, SMALL, "conv1")
        if mode != "keep" or x.shape[-1] != channels:
            x = self._conv(resample(x), channels, 1, xavier(), "skip")
        h = (h + x) * HALF
        return self._attend(h) if self.plan.attention else h

    def _conv(self, x: Array, channels: int, size: int, init: nn.initializers.Initializer, name: str) -> Array:
        conv = nn.Conv(channels, (size, size), dtype=self.dtype, kernel_init=init, name=name)
        return layers.batched(conv(x))

    def _attend(self, x: Array) -> Array:
        b, h, w, c = x.shape
        tokens = layers.GroupNorm(name="norm2")(x).reshape(b, h * w, c)
        attn = layers.SelfAttention(heads=1, qkv_init=xavier(math.sqrt(0.2)), out_init=SMALL, dtype=self.dtype,
                                    name="attn")
        return (attn(tokens).reshape(b, h, w, c) + x) * HALF


class SongUNet(nn.Module):
    """DDPM++ on square images.

    Attributes:
      channels: width at multiplier 1, a multiple of 4.
      mults: width multipliers, a level each; every further level halves the image.
      blocks: residual blocks in each level of the encoder; the decoder has one more.
      attention: resolutions with self-attention.
      dropout: rate in [0, 1), in training only.
      num_classes: 0 for no condition; label `num_classes` is "no class", a zero one-hot vector.
      out_channels: those of the input if None.
      noise_embedding: `positional`, or `fourier`, which is twice as wide as in NCSN++.
      dtype: what convolutions and attention compute in, `float32` or `bfloat16`; parameters, norms,
        embeddings, softmax, the last convolution and the output are float32 always.

    Raises:
      ValueError: a choice that is not listed above.

    Source: Karras et al. 2022 (EDM), table 7 and appendix F.2; Song et al. 2021, appendix H.
    """

    channels: int = 128
    mults: tuple[int, ...] = (1, 2, 2, 2)
    blocks: int = 4
    attention: tuple[int, ...] = (16,)
    dropout: float = 0.1
    num_classes: int = 0
    out_channels: int | None = None
    noise_embedding: str = "positional"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for field, allowed in (("noise_embedding", ("positional", "fourier")), ("dtype", ("float32", "bfloat16"))):
            if getattr(self, field) not in allowed:
                raise ValueError(f"SongUNet has no {field} {getattr(self, field)!r}; it may be {' or '.join(allowed)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")
        if self.channels < 4 or self.channels % 4:
            raise ValueError(f"channels must be a multiple of 4, got {self.channels}")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, c_noise: Array, cond: Cond = None, *, train: bool = False) -> Array:
        """Returns the prediction [b, h, w, out_channels] float32.

        Args:
          x: [b, h, w, c], h = w.
          c_noise: [b].
          cond: `{"label": [b]}`, integers in [0, num_classes], or None where num_classes is 0.
          train: use dropout, from the random stream `dropout`.

        Raises:
          ValueError: images that are not square or do not halve often enough; a condition that does not
            fit `num_classes`.
        """
        if x.ndim != 4 or x.shape[1] != x.shape[2]:
            raise ValueError(f"SongUNet takes square images [b, h, w, c], got {x.shape}")
        encoder, decoder = levels.plan(x.shape[1], self.channels, self.mults, self.blocks, self.attention)
        emb = self._embed(c_noise, label_of(cond, self.num_classes))
        out_channels = x.shape[-1] if self.out_channels is None else self.out_channels
        first, *rest = encoder
        h = nn.Conv(first.channels, (3, 3), dtype=self.dtype, kernel_init=xavier(), name=first.name)(layers.batched(x))
        skips = [layers.batched(h)]
        for block in rest:
            skips.append(self._block(block)(skips[-1], emb, train=train))
        h = skips[-1]
        for block in decoder:
            if block.skip:
                h = jnp.concatenate([h, skips.pop()], -1)
            h = self._block(block)(h, emb, train=train)
        h = nn.silu(layers.GroupNorm(name="out_norm")(h.astype(jnp.float32)))
        return nn.Conv(out_channels, (3, 3), dtype="float32", kernel_init=SMALL, name="out_conv")(layers.batched(h))

    def _block(self, block: levels.Block) -> UNetBlock:
        return UNetBlock(block, dropout=self.dropout, dtype=self.dtype, name=block.name)

    def _embed(self, c_noise: Array, label: Array | None) -> Array:
        """Returns the embedding [b, 4 channels] of noise level and class."""
        if self.noise_embedding == "fourier":
            emb = layers.Fourier(2 * self.channels, name="map_noise")(c_noise)
        else:
            emb = layers.positional(c_noise, self.channels, endpoint=True)
            emb = jnp.roll(emb, self.channels // 2, -1)  # sines first, as EDM's checkpoints have it
        if label is not None:
            emb = emb + layers.LabelEmbedding(self.num_classes, emb.shape[-1], use_bias=True, name="map_label")(label)
        for name in ("map_layer0", "map_layer1"):
            emb = nn.silu(nn.Dense(4 * self.channels, kernel_init=xavier(), name=name)(emb))
        return layers.batched(emb)
