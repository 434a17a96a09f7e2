"""EDM2, the UNet that keeps magnitudes (Karras et al. 2024, configuration G).

No layer has a bias, no norm is learned, and every sum, concatenation and nonlinearity keeps unit mean square.
A block of the encoder is, with x resampled, projected where its width changes and normalized pixel by pixel,

    y = conv_res1(drop(mp_silu(conv_res0(mp_silu(x)) (1 + emb_gain emb_linear(emb)))))
    x = mp_sum(x, y, 0.3),  then  mp_sum(x, attn_proj(attention(normalize(attn_qkv(x)))), 0.3)  where it attends

In the decoder nothing is normalized, and x is projected after the first line.  `emb_gain` and `out_gain` start at 0:
the network starts at zero.  Train it with `jaxdiff.train.project()` as the last link of the optimizer's chain.

    size                 XS   S    M    L    XL   XXL
    channels             128  192  256  320  384  448
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdiff import layers
from jaxdiff.layers import mp_cat, mp_silu, mp_sum
from jaxdiff.networks import choices, levels
from jaxdiff.networks.labels import label_of
from jaxdiff.protocols import Array, Cond

__all__ = ["EDM2"]


class EDM2Block(nn.Module):
    """A block of EDM2, with the resampling and the attention that its plan asks for.

    Attributes:
      plan: what to build.
      head_channels: of one head of the attention.
      balances: shares t of the residual branch and of the attention.
      clip: activations lie in [-clip, clip].
      dropout: rate before the second convolution, in [0, 1).
      kernel: of the attention.
      dtype: what the convolutions compute in.
    """

    plan: levels.Block
    head_channels: int = 64
    balances: tuple[float, float] = (0.3, 0.3)
    clip: float = 256.0
    dropout: float = 0.0
    kernel: str = "xla"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, emb: Array, *, train: bool = False) -> Array:
        """Returns [b, h', w', channels] of x [b, h, w, c] and emb [b, d] float32."""
        channels, encodes = self.plan.channels, self.plan.name.startswith("enc")
        x = {"keep": lambda x: x, "down": layers.down, "up": layers.up}[self.plan.mode](layers.batched(x))
        changes = x.shape[-1] != channels
        if encodes:
            x = layers.normalize(self._conv(x, 1, "conv_skip") if changes else x)
        y = self._conv(mp_silu(x), 3, "conv_res0")
        gain = self.param("emb_gain", nn.initializers.zeros, ())
        scale = 1 + layers.MPDense((channels,), name="emb_linear")(emb, gain)  # float32, as emb
        y = mp_silu(y * scale[:, None, None, :].astype(y.dtype))
        y = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(y)
        y = self._conv(y, 3, "conv_res1")
        if changes and not encodes:
            x = self._conv(x, 1, "conv_skip")
        x = mp_sum(x, y, self.balances[0])
        if self.plan.attention:
            x = mp_sum(x, self._attended(x), self.balances[1])
        return jnp.clip(x, -self.clip, self.clip)

    def _conv(self, x: Array, size: int, name: str) -> Array:
        return layers.MPConv(self.plan.channels, size, dtype=self.dtype, name=name)(x)

    def _attended(self, x: Array) -> Array:
        b, h, w, c = x.shape
        heads = max(c // self.head_channels, 1)
        tokens = x.reshape(b, h * w, c)
        qkv = layers.MPDense((3, heads, c // heads), dtype=self.dtype, name="attn_qkv")(tokens)
        qkv = layers.normalize(qkv)  # [b, h*w, 3, heads, c/heads]
        y = layers.attention.KERNELS[self.kernel].attend(*(qkv[..., i, :, :] for i in range(3)))
        return layers.MPDense((c,), inputs=2, dtype=self.dtype, name="attn_proj")(y).reshape(b, h, w, c)


class EDM2(nn.Module):
    """The magnitude-preserving UNet on square images or latents.

    Attributes:
      channels: width at multiplier 1; see the sizes above.
      mults: width multipliers, a level each; every further level halves the image.
      blocks: in each level of the encoder; the decoder has one more.
      attention: resolutions with self-attention.
      head_channels: of one head of the attention.
      dropout: rate in [0, 1), in training only.
      num_classes: 0 for no condition; label `num_classes` is "no class", a zero one-hot vector.
      balances: shares t of the residual branches and of the attention.
      label_balance, concat_balance: shares t of the class in the embedding and of the encoder in the decoder.
      clip: activations lie in [-clip, clip].
      out_channels: those of the input if None.
      kernel: of the attention, `xla`, `splash` or `cudnn`.
      dtype: what convolutions and attention compute in, `float32` or `bfloat16` (or `float64`); parameters and their
        normalization, embeddings, statistics, softmax, the last convolution and the output are float32 in both.

    Raises:
      ValueError: a choice that is not listed above.

    Source: Karras et al. 2024 (EDM2), tables 2, 3 and 6, figure 21.
    """

    channels: int = 192
    mults: tuple[float, ...] = (1, 2, 3, 4)
    blocks: int = 3
    attention: tuple[int, ...] = (16, 8)
    head_channels: int = 64
    dropout: float = 0.0
    num_classes: int = 0
    balances: tuple[float, float] = (0.3, 0.3)
    label_balance: float = 0.5
    concat_balance: float = 0.5
    clip: float = 256.0
    out_channels: int | None = None
    kernel: str = "xla"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        choices.check(self, choices.COMPUTE)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, c_noise: Array, cond: Cond = None, *, train: bool = False) -> Array:
        """Returns the prediction [b, h, w, out_channels] float32.

        Args:
          x: [b, h, w, c], h = w, of unit mean square.
          c_noise: [b], of the size of 1: ln(sigma)/4.
          cond: `{"label": [b]}`, integers in [0, num_classes], or None where num_classes is 0.
          train: use dropout, from the random stream `dropout`.

        Raises:
          ValueError: images that are not square or do not halve often enough; a condition that does not fit
            `num_classes`.
        """
        if x.ndim != 4 or x.shape[1] != x.shape[2]:
            raise ValueError(f"EDM2 takes square images [b, h, w, c], got {x.shape}")
        encoder, decoder = levels.plan(x.shape[1], self.channels, self.mults, self.blocks, self.attention,
                                       everywhere=True, first=int(self.channels * self.mults[0]))
        emb = self._embed(c_noise, cond)
        out_channels = x.shape[-1] if self.out_channels is None else self.out_channels
        first, *rest = encoder
        x = jnp.concatenate([x, jnp.ones_like(x[..., :1])], -1)  # in place of biases
        skips = [layers.MPConv(first.channels, dtype=self.dtype, name=first.name)(layers.batched(x))]
        for block in rest:
            skips.append(self._block(block)(skips[-1], emb, train=train))
        h = skips[-1]
        for block in decoder:
            if block.skip:
                h = mp_cat(h, skips.pop(), self.concat_balance)
            h = self._block(block)(h, emb, train=train)
        gain = self.param("out_gain", nn.initializers.zeros, ())
        return layers.MPConv(out_channels, name="out_conv")(layers.wide(h), gain)

    def _block(self, block: levels.Block) -> EDM2Block:
        return EDM2Block(block, head_channels=self.head_channels, balances=self.balances, clip=self.clip,
                         dropout=self.dropout, kernel=self.kernel, dtype=self.dtype, name=block.name)

    def _embed(self, c_noise: Array, cond: Cond) -> Array:
        """Returns the embedding [b, channels max(mults)] of noise level and class."""
        label = label_of(cond, self.num_classes)
        width = int(self.channels * max(self.mults))
        emb = layers.Fourier(int(self.channels * self.mults[0]), scale=1.0, phases=True, name="emb_fourier")(c_noise)
        emb = layers.MPDense((width,), name="emb_noise")(emb)
        if label is not None:
            hot = jax.nn.one_hot(label, self.num_classes, dtype=emb.dtype) * self.num_classes**0.5
            emb = mp_sum(emb, layers.MPDense((width,), name="emb_label")(hot), self.label_balance)
        return layers.batched(mp_silu(emb))
