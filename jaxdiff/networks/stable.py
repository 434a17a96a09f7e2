"""The UNet of Stable Diffusion (Rombach et al. 2022): residual blocks, each with transformer blocks after it.

A residual block is `conv1(drop(silu(norm1(conv0(silu(norm0(x))) + affine(emb))))) + skip(x)`; a transformer block is

    x = x + self(norm0(x)),   x = x + cross(norm1(x), text),   x = x + mlp1(a gelu(g)) with [a, g] = mlp0(norm2(x))

between two projections, with the pixels' norm before and a residual around it all.  Images are resampled by a layer
of their own: a convolution of stride 2, padded by a pixel on every side, or one after repeating every pixel.
What the blocks are called does not follow the image's size, so that weights of one size run at another.

    version   transformers    middle   heads
    1.5       (1, 1, 1, 0)    1        8
    2.1       (1, 1, 1, 0)    1        0: one for 64 channels
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff import layers
from jaxdiff.networks import choices, levels
from jaxdiff.protocols import Array, Cond

__all__ = ["StableUNet"]


class TransformerBlock(nn.Module):
    """Self-attention, attention to the text and a gated layer, each with its norm and its residual.

    Attributes:
      heads: of both attentions.
      kernel: of both.
      dtype: what projections and layers compute in.
    """

    heads: int
    kernel: str = "xla"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, text: Array, mask: Array | None = None) -> Array:
        """Returns [b, n, c] of pixels x [b, n, c] and text [b, m, d]; mask [b, 1, 1, m]."""
        c = x.shape[-1]
        init = layers.fan_in_uniform(c)
        attn = layers.SelfAttention(self.heads, qkv_init=init, out_init=init, use_bias=False, out_bias_init=init,
                                    kernel=self.kernel, dtype=self.dtype, name="self")
        x = x + attn(layers.LayerNorm(eps=1e-5, name="norm0")(x))
        cross = layers.CrossAttention(self.heads, q_init=init, kv_init=layers.fan_in_uniform(text.shape[-1]),
                                      out_init=init, out_bias_init=init, kernel=self.kernel, dtype=self.dtype,
                                      name="cross")
        x = x + cross(layers.LayerNorm(eps=1e-5, name="norm1")(x), text, mask)
        h = layers.uniform_dense(layers.LayerNorm(eps=1e-5, name="norm2")(x), 8 * c, "mlp0", dtype=self.dtype)
        value, gate = jnp.split(layers.batched(h), 2, -1)
        return x + layers.uniform_dense(value * nn.gelu(gate, approximate=False), c, "mlp1", dtype=self.dtype)


class SpatialTransformer(nn.Module):
    """Transformer blocks on the pixels of an image, with the residual around them.

    Attributes:
      heads: of the attentions.
      depth: number of blocks.
      kernel: of the attentions.
      dtype: what projections and layers compute in.
    """

    heads: int
    depth: int = 1
    kernel: str = "xla"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, text: Array, mask: Array | None = None) -> Array:
        """Returns [b, h, w, c] of x [b, h, w, c] and text [b, m, d]; mask [b, 1, 1, m]."""
        b, h, w, c = x.shape
        y = layers.GroupNorm(min_channels=1, name="norm")(x).reshape(b, h * w, c)
        y = layers.uniform_dense(y, c, "in", dtype=self.dtype)
        for i in range(self.depth):
            block = TransformerBlock(self.heads, kernel=self.kernel, dtype=self.dtype, name=f"block{i}")
            y = block(layers.batched(y), text, mask)
        y = layers.uniform_dense(y, c, "out", dtype=self.dtype, zero=True)
        return x + layers.batched(y).reshape(b, h, w, c)


class ResidualBlock(nn.Module):
    """A residual block, with the noise level added between its convolutions.

    Attributes:
      channels: of the output.
      dropout: rate before the second convolution, in [0, 1).
      dtype: what the convolutions compute in.
    """

    channels: int
    dropout: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, emb: Array, *, train: bool = False) -> Array:
        """Returns [b, h, w, channels] of x [b, h, w, c] and emb [b, d] float32."""
        h = nn.silu(layers.GroupNorm(min_channels=1, eps=1e-5, name="norm0")(layers.batched(x)))
        h = layers.uniform_conv(h, self.channels, 3, "conv0", dtype=self.dtype)
        shift = layers.uniform_dense(emb, self.channels, "affine")  # float32, as emb
        h = h + shift[:, None, None, :].astype(h.dtype)
        h = nn.silu(layers.GroupNorm(min_channels=1, eps=1e-5, name="norm1")(h))
        h = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(h)
        h = layers.uniform_conv(h, self.channels, 3, "conv1", dtype=self.dtype, zero=True)
        if x.shape[-1] != self.channels:
            x = layers.uniform_conv(x, self.channels, 1, "skip", dtype=self.dtype)
        return h + x


class StableUNet(nn.Module):
    """The text-conditional UNet on latents of any size.

    Attributes:
      channels: width at multiplier 1, a multiple of 32.
      mults: width multipliers, a level each; every further level halves the image.
      blocks: residual blocks in each level of the encoder; the decoder has one more.
      transformers: transformer blocks after each residual block, a number for each level.
      middle: transformer blocks at the bottleneck.
      heads: of the attention, or 0 for as many as have `head_channels` channels.
      head_channels: see `heads`.
      dropout: rate in [0, 1), in training only.
      out_channels: those of the input if None.
      kernel: of the attention, `xla`, `splash` or `cudnn`.
      dtype: what convolutions and attention compute in, `float32` or `bfloat16` (or `float64`); parameters, norms,
        embeddings, softmax, the last convolution and the output are float32 in both.

    Raises:
      ValueError: a choice that is not listed above.

    Source: Rombach et al. 2022, appendix E.2.1, whose last layers of blocks and transformers start at zero.
    """

    channels: int = 320
    mults: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2
    transformers: tuple[int, ...] = (1, 1, 1, 0)
    middle: int = 1
    heads: int = 8
    head_channels: int = 64
    dropout: float = 0.0
    out_channels: int | None = None
    kernel: str = "xla"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        choices.check(self, choices.COMPUTE)
        if len(self.transformers) != len(self.mults):
            raise ValueError("transformers and mults of StableUNet have a number for each level, got "
                             f"{self.transformers} and {self.mults}")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, c_noise: Array, cond: Cond = None, *, train: bool = False) -> Array:
        """Returns the prediction [b, h, w, out_channels] float32.

        Args:
          x: [b, h, w, c].
          c_noise: [b], a step from 0 to 999 in the published weights.
          cond: `{"text": [b, m, d]}`, and where some tokens are none `"mask": [b, m]`, False there.
          train: use dropout, from the random stream `dropout`.

        Raises:
          ValueError: images that do not halve often enough; another condition.
        """
        halvings = len(self.mults) - 1
        if x.ndim != 4 or any(size % 2**halvings for size in x.shape[1:3]):
            raise ValueError(f"StableUNet takes images [b, h, w, c] of sizes that are multiples of {2**halvings}, "
                             f"got {x.shape}")
        text, mask = self._text(cond)
        # The names are those of an image of 2^halvings pixels, whatever its size.
        encoder, decoder = levels.plan(2**halvings, self.channels, self.mults, self.blocks, ())
        out_channels = x.shape[-1] if self.out_channels is None else self.out_channels
        emb = self._embed(c_noise)
        first, *rest = encoder
        skips, level = [layers.uniform_conv(x, first.channels, 3, _name(first, 0), dtype=self.dtype)], 0
        for block in rest:
            level += block.mode == "down"
            skips.append(self._block(skips[-1], emb, text, mask, block, level, train))
        h = skips[-1]
        for block in decoder:
            level -= block.mode == "up"
            if block.skip:
                h = jnp.concatenate([h, skips.pop()], -1)
            h = self._block(h, emb, text, mask, block, level, train)
        h = nn.silu(layers.GroupNorm(min_channels=1, eps=1e-5, name="out_norm")(layers.wide(h)))
        return layers.uniform_conv(h, out_channels, 3, "out_conv", zero=True)

    def _block(self, h: Array, emb: Array, text: Array, mask: Array | None, block: levels.Block, level: int,
               train: bool) -> Array:
        name = _name(block, level)
        if block.mode != "keep":
            stride, h = (2, h) if block.mode == "down" else (1, layers.up(h))
            return layers.uniform_conv(h, block.channels, 3, name, stride=stride, dtype=self.dtype)
        h = ResidualBlock(block.channels, dropout=self.dropout, dtype=self.dtype, name=name)(h, emb, train=train)
        depth = self.middle if name.endswith("in0") else 0 if name.endswith("in1") else self.transformers[level]
        if not depth:
            return h
        heads = self.heads or max(block.channels // self.head_channels, 1)
        transformer = SpatialTransformer(heads, depth=depth, kernel=self.kernel, dtype=self.dtype,
                                         name=f"{name}_transformer")
        return transformer(h, text, mask)

    def _embed(self, c_noise: Array) -> Array:
        """Returns the embedding [b, 4 channels] of the noise level."""
        emb = layers.positional(c_noise, self.channels)
        for name in ("map_layer0", "map_layer1"):
            emb = nn.silu(layers.uniform_dense(emb, 4 * self.channels, name))
        return layers.batched(emb)

    def _text(self, cond: Cond) -> tuple[Array, Array | None]:
        given = set(cond or {})
        if cond is None or not {"text"} <= given <= {"text", "mask"}:
            raise ValueError("StableUNet reads 'text' [b, m, d] and, if it is there, 'mask' [b, m] from its condition, "
                             f"got {', '.join(sorted(given)) or 'none'}")
        mask = jnp.asarray(cond["mask"], bool)[:, None, None, :] if "mask" in cond else None
        return jnp.asarray(cond["text"]), mask


def _name(block: levels.Block, level: int) -> str:
    """`enc_4x4_block0` of a plan is `enc_1_block0` at level 1."""
    side, _, kind = block.name.split("_")
    return f"{side}_{level}_{kind}"
