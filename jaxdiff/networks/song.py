"""DDPM++ and NCSN++, the UNets of Song et al. 2021 as EDM trains them (Karras et al. 2022, appendix F.2).

A block is `h = conv1(drop(silu(norm1(conv0(silu(norm0(x))) + affine(emb)))))`, then `(h + skip(x))/√2`, and where
it attends `(attn(norm2(h)) + h)/√2`.  Last convolutions start at 1e-5 of the usual size, so that a
block starts as its skip and the network as zero.  Names and layout are EDM's.

NCSN++ is shown the image once more at every size: a pyramid of it goes down beside the encoder and joins it.
"""

import functools
import math

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff import layers
from jaxdiff.networks import choices, levels
from jaxdiff.networks.labels import extra_of, label_of
from jaxdiff.protocols import Array, Cond

__all__ = ["SongUNet"]

HALF = math.sqrt(0.5)  # the sum of two unit variances, scaled back to one


def xavier(gain: float = 1.0) -> nn.initializers.Initializer:
    """Returns Xavier's uniform initializer times `gain`."""
    return nn.initializers.variance_scaling(gain**2, "fan_avg", "uniform")


SMALL = xavier(1e-5)
CHOICES = {
    "noise_embedding": ("positional", "fourier"),
    "encoder": ("standard", "skip", "residual"),
    "decoder": ("standard", "skip"),
    **choices.COMPUTE,
}


class UNetBlock(nn.Module):
    """A residual block of DDPM++, with the resampling and the attention that its plan asks for.

    Attributes:
      plan: what to build.
      dropout: rate before the second convolution, in [0, 1).
      taps: the filter of resampling.
      kernel: of the attention.
      dtype: what the convolutions compute in.
    """

    plan: levels.Block
    dropout: float = 0.0
    taps: tuple[float, ...] = (1, 1)
    kernel: str = "xla"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, emb: Array, *, train: bool = False) -> Array:
        """Returns [b, h', w', channels] of x [b, h, w, c] and emb [b, d] float32."""
        channels, mode = self.plan.channels, self.plan.mode
        resample = {"keep": lambda x, taps: x, "down": layers.down, "up": layers.up}[mode]
        resample = functools.partial(resample, taps=self.taps)
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
        attn = layers.SelfAttention(heads=1, qkv_init=xavier(math.sqrt(0.2)), out_init=SMALL, kernel=self.kernel,
                                    dtype=self.dtype, name="attn")
        return (attn(tokens).reshape(b, h, w, c) + x) * HALF


class SongUNet(nn.Module):
    """DDPM++ on square images; NCSN++ with `noise_embedding="fourier", encoder="residual", taps=(1, 3, 3, 1)`.

    Attributes:
      channels: width at multiplier 1, a multiple of 4.
      mults: width multipliers, a level each; every further level halves the image.
      blocks: residual blocks in each level of the encoder; the decoder has one more.
      attention: resolutions with self-attention.
      dropout: rate in [0, 1), in training only.
      num_classes: 0 for no condition; label `num_classes` is "no class", a zero one-hot vector.
      augment: width of `cond["augment"]` [b, augment], which tells how the images were augmented (9 in EDM).
      span: read `cond["span"]` [b], the time t - s of an average velocity, by an embedding that starts at zero.
      out_channels: those of the input if None.
      noise_embedding: `positional`, or `fourier`, which is twice as wide, as NCSN++ has it.
      encoder: `standard`, or with the image's pyramid: `skip` adds it to the encoder through 1x1 convolutions,
        `residual` goes on with the sum.
      decoder: `standard`, or `skip`, the output as a sum of images over all sizes.
      taps: the filter of resampling.
      kernel: of the attention, `xla`, `splash` or `cudnn`.
      dtype: what convolutions and attention compute in, `float32` or `bfloat16` (or `float64`); parameters, norms,
        embeddings, softmax, the last convolution and the output are float32 in both.

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
    augment: int = 0
    span: bool = False
    out_channels: int | None = None
    noise_embedding: str = "positional"
    encoder: str = "standard"
    decoder: str = "standard"
    taps: tuple[float, ...] = (1, 1)
    kernel: str = "xla"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        choices.check(self, CHOICES)
        if self.channels < 4 or self.channels % 4:
            raise ValueError(f"channels must be a multiple of 4, got {self.channels}")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, c_noise: Array, cond: Cond = None, *, train: bool = False) -> Array:
        """Returns the prediction [b, h, w, out_channels] float32.

        Args:
          x: [b, h, w, c], h = w.
          c_noise: [b].
          cond: `{"label": [b]}`, integers in [0, num_classes], where num_classes is not 0; "augment" and "span"
            where the network reads them, zeros if missing.
          train: use dropout, from the random stream `dropout`.

        Raises:
          ValueError: images that are not square or do not halve often enough; a condition that does not
            fit the network.
        """
        if x.ndim != 4 or x.shape[1] != x.shape[2]:
            raise ValueError(f"SongUNet takes square images [b, h, w, c], got {x.shape}")
        encoder, decoder = levels.plan(x.shape[1], self.channels, self.mults, self.blocks, self.attention)
        emb = self._embed(c_noise, cond)
        out_channels = x.shape[-1] if self.out_channels is None else self.out_channels
        first, *rest = encoder
        image = layers.batched(x)
        skips = [layers.batched(self._conv(image, first.channels, 3, first.name))]
        for block in rest:
            h = self._block(block)(skips[-1], emb, train=train)
            if block.mode == "down" and self.encoder != "standard":
                h, image = self._join(h, image, block.name.removesuffix("_down"))
            skips.append(h)
        h, out = skips[-1], None
        for block in decoder:
            if block.skip:
                h = jnp.concatenate([h, skips.pop()], -1)
            h = self._block(block)(h, emb, train=train)
            level, _, kind = block.name.rpartition("_")
            if kind == f"block{self.blocks}" and (self.decoder == "skip" or block is decoder[-1]):  # a level ends
                y = self._image(h, out_channels, "out" if block is decoder[-1] else f"{level}_aux")
                out = y if out is None else y + layers.up(out, self.taps)
        return out

    def _block(self, block: levels.Block) -> UNetBlock:
        return UNetBlock(block, dropout=self.dropout, taps=self.taps, kernel=self.kernel, dtype=self.dtype,
                         name=block.name)

    def _conv(self, x: Array, channels: int, size: int, name: str, beyond: int = 0) -> Array:
        """Convolves, `beyond` pixels further over the border than it must for the size to stay."""
        pad = (size // 2 + beyond,) * 2
        return nn.Conv(channels, (size, size), padding=(pad, pad), dtype=self.dtype, kernel_init=xavier(), name=name)(x)

    def _join(self, h: Array, image: Array, level: str) -> tuple[Array, Array]:
        """Returns encoder and pyramid one size down, [b, h, w, c] of both."""
        if self.encoder == "skip":
            image = layers.down(image, self.taps)
            return layers.batched(h + self._conv(image, h.shape[-1], 1, f"{level}_aux_skip")), image
        wide = self._conv(image, h.shape[-1], 3, f"{level}_aux_residual", beyond=len(self.taps) // 2 - 1)
        h = layers.batched((h + layers.down(wide, self.taps, pad=0)) * HALF)
        return h, h

    def _image(self, h: Array, channels: int, name: str) -> Array:
        h = nn.silu(layers.GroupNorm(name=f"{name}_norm")(layers.wide(h)))
        return nn.Conv(channels, (3, 3), kernel_init=SMALL, name=f"{name}_conv")(layers.batched(h))

    def _embed(self, c_noise: Array, cond: Cond) -> Array:
        """Returns the embedding [b, 4 channels] of noise level, class, augmentation and span."""
        read = tuple(name for name in ("augment", "span") if getattr(self, name))
        label = label_of(cond, self.num_classes, read)
        if self.noise_embedding == "fourier":
            emb = layers.Fourier(2 * self.channels, name="map_noise")(c_noise)
        else:
            emb = layers.positional(c_noise, self.channels, endpoint=True)
        width = emb.shape[-1]
        emb = jnp.roll(emb, width // 2, -1)  # sines first, as EDM's checkpoints have it
        if label is not None:
            emb = emb + layers.LabelEmbedding(self.num_classes, width, use_bias=True, name="map_label")(label)
        if self.augment:
            augment = extra_of(cond, "augment", (len(c_noise), self.augment))
            emb = emb + nn.Dense(width, use_bias=False, kernel_init=xavier(), name="map_augment")(augment)
        if self.span:
            span = layers.positional(1_000 * extra_of(cond, "span", c_noise.shape), width)
            emb = emb + nn.Dense(width, use_bias=False, kernel_init=nn.initializers.zeros, name="map_span")(span)
        for name in ("map_layer0", "map_layer1"):
            emb = nn.silu(nn.Dense(4 * self.channels, kernel_init=xavier(), name=name)(emb))
        return layers.batched(emb)
