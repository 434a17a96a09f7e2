"""ADM, the UNet of Dhariwal & Nichol 2021, in OpenAI's layout and in that of EDM (Karras et al. 2022).

A block is `h = conv0(silu(norm0(x)))`, then `conv1(drop(silu((1 + scale) norm1(h) + shift)))` with scale and shift
from the embedding, plus the skip, and where it attends `attn(norm2(h)) + h`.  Images are resampled inside the blocks.
The last convolution of a block, the attention's output and the network's start at zero, all else as in PyTorch.

The two layouts are one function but for two choices:

    layout   groups of a norm   no class
    edm      min(32, c/4)       the zero vector, label `num_classes`
    openai   32                 none: every label is a class
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff import layers
from jaxdiff.networks import choices, levels
from jaxdiff.networks.labels import extra_of, label_of
from jaxdiff.protocols import Array, Cond

__all__ = ["ADM"]

CHOICES = {"layout": ("edm", "openai"), **choices.COMPUTE}


class ADMBlock(nn.Module):
    """A residual block of ADM, with the resampling and the attention that its plan asks for.

    Attributes:
      plan: what to build.
      min_channels: least number of channels in a group of a norm.
      heads: of the attention, or 0 for as many as have `head_channels` channels.
      head_channels: see `heads`.
      dropout: rate before the second convolution, in [0, 1).
      kernel: of the attention.
      dtype: what the convolutions compute in.
    """

    plan: levels.Block
    min_channels: int = 4
    heads: int = 0
    head_channels: int = 64
    dropout: float = 0.0
    kernel: str = "xla"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, emb: Array, *, train: bool = False) -> Array:
        """Returns [b, h', w', channels] of x [b, h, w, c] and emb [b, d] float32."""
        channels = self.plan.channels
        resample = {"keep": lambda x: x, "down": layers.down, "up": layers.up}[self.plan.mode]
        x = layers.batched(x)
        h = resample(nn.silu(self._norm("norm0")(x)))
        h = layers.uniform_conv(h, channels, 3, "conv0", dtype=self.dtype)
        modulation = layers.uniform_dense(emb, 2 * channels, "affine")[:, None, None, :]  # float32, as emb
        scale, shift = jnp.split(modulation.astype(h.dtype), 2, -1)
        h = nn.silu(self._norm("norm1")(h) * (1 + scale) + shift)
        h = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(h)
        h = layers.uniform_conv(h, channels, 3, "conv1", dtype=self.dtype, zero=True)
        x = resample(x)
        if x.shape[-1] != channels:
            x = layers.uniform_conv(x, channels, 1, "skip", dtype=self.dtype)
        h = h + x
        return self._attend(h) if self.plan.attention else h

    def _norm(self, name: str) -> layers.GroupNorm:
        return layers.GroupNorm(min_channels=self.min_channels, eps=1e-5, name=name)

    def _attend(self, x: Array) -> Array:
        b, h, w, c = x.shape
        init = layers.fan_in_uniform(c)
        attn = layers.SelfAttention(heads=self.heads or max(c // self.head_channels, 1), qkv_init=init, bias_init=init,
                                    kernel=self.kernel, dtype=self.dtype, name="attn")
        tokens = self._norm("norm2")(x).reshape(b, h * w, c)
        return attn(tokens).reshape(b, h, w, c) + x


class ADM(nn.Module):
    """ADM on square images.

    Attributes:
      channels: width at multiplier 1, a multiple of 4.
      mults: width multipliers, a level each; every further level halves the image.
      blocks: residual blocks in each level of the encoder; the decoder has one more.
      attention: resolutions with self-attention.
      heads: of the attention, or 0 for as many as have `head_channels` channels.
      head_channels: see `heads`.
      dropout: rate in [0, 1), in training only.
      num_classes: 0 for no condition; see `layout` for "no class".
      augment: width of `cond["augment"]` [b, augment], which tells how the images were augmented (9 in EDM).
      out_channels: those of the input if None.
      learned_variance: keep another `out_channels` rows, of the variance.
      layout: `edm` or `openai`; see above.
      kernel: of the attention, `xla`, `splash` or `cudnn`.
      dtype: what convolutions and attention compute in, `float32` or `bfloat16` (or `float64`); parameters, norms,
        embeddings, softmax, the last convolution and the output are float32 in both.

    Raises:
      ValueError: a choice that is not listed above.

    Source: Dhariwal & Nichol 2021, table 4 and appendix I; Karras et al. 2022 (EDM), table 7.
    """

    channels: int = 192
    mults: tuple[float, ...] = (1, 2, 3, 4)
    blocks: int = 3
    attention: tuple[int, ...] = (32, 16, 8)
    heads: int = 0
    head_channels: int = 64
    dropout: float = 0.1
    num_classes: int = 0
    augment: int = 0
    out_channels: int | None = None
    learned_variance: bool = False
    layout: str = "edm"
    kernel: str = "xla"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        choices.check(self, CHOICES)
        if self.channels < 4 or self.channels % 4:
            raise ValueError(f"channels must be a multiple of 4, got {self.channels}")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, c_noise: Array, cond: Cond = None, *, train: bool = False,
                 variance: bool = False) -> Array:
        """Returns the prediction [b, h, w, out_channels] float32.

        Args:
          x: [b, h, w, c], h = w.
          c_noise: [b].
          cond: `{"label": [b]}` where num_classes is not 0; "augment" where the network reads it, zeros if missing.
          train: use dropout, from the random stream `dropout`.
          variance: return [b, h, w, 2 out_channels], the rows of the variance last.

        Raises:
          ValueError: images that are not square or do not halve often enough; a condition that does not fit the
            network; a variance that is not learned.
        """
        if x.ndim != 4 or x.shape[1] != x.shape[2]:
            raise ValueError(f"ADM takes square images [b, h, w, c], got {x.shape}")
        if variance and not self.learned_variance:
            raise ValueError("variance=True asks for rows that a network with learned_variance=False has not")
        encoder, decoder = levels.plan(x.shape[1], self.channels, self.mults, self.blocks, self.attention,
                                       everywhere=True, first=int(self.channels * self.mults[0]))
        emb = self._embed(c_noise, cond)
        first, *rest = encoder
        skips = [layers.uniform_conv(x, first.channels, 3, first.name, dtype=self.dtype)]
        for block in rest:
            skips.append(self._block(block)(skips[-1], emb, train=train))
        h = skips[-1]
        for block in decoder:
            if block.skip:
                h = jnp.concatenate([h, skips.pop()], -1)
            h = self._block(block)(h, emb, train=train)
        norm = layers.GroupNorm(min_channels=self._min_channels, eps=1e-5, name="out_norm")
        channels = x.shape[-1] if self.out_channels is None else self.out_channels
        rows = channels * (1 + self.learned_variance)
        y = layers.uniform_conv(nn.silu(norm(layers.wide(h))), rows, 3, "out_conv", zero=True)
        return y if variance else y[..., :channels]

    @property
    def null_class(self) -> bool:
        """Whether label `num_classes` is "no class"; in OpenAI's layout it gives NaN."""
        return self.layout == "edm"

    @property
    def _min_channels(self) -> int:
        return {"edm": 4, "openai": 1}[self.layout]

    def _block(self, block: levels.Block) -> ADMBlock:
        return ADMBlock(block, min_channels=self._min_channels, heads=self.heads, head_channels=self.head_channels,
                        dropout=self.dropout, kernel=self.kernel, dtype=self.dtype, name=block.name)

    def _embed(self, c_noise: Array, cond: Cond) -> Array:
        """Returns the embedding [b, 4 channels] of noise level, augmentation and class."""
        label = label_of(cond, self.num_classes, ("augment",) if self.augment else ())
        emb = layers.positional(c_noise, self.channels)
        if self.augment:
            augment = extra_of(cond, "augment", (len(c_noise), self.augment))
            emb = emb + layers.uniform_dense(augment, self.channels, "map_augment", zero=True, use_bias=False)
        emb = nn.silu(layers.uniform_dense(emb, 4 * self.channels, "map_layer0"))
        emb = layers.uniform_dense(emb, 4 * self.channels, "map_layer1")
        if label is not None:
            table = layers.LabelEmbedding(self.num_classes, 4 * self.channels, scaled=False, name="map_label")
            emb = emb + table(label)
            if not self.null_class:  # as an embedding's look-up has it: NaN in place of a row that is not there
                emb = jnp.where((label < self.num_classes)[:, None], emb, jnp.nan)
        return layers.batched(nn.silu(emb))
