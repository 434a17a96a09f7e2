"""The KL autoencoder of latent diffusion (Rombach et al. 2022): images to a Gaussian of latents, and back.

    q(z|x) = N(mean, e^logvar),   latents = (z - shift) scale,   image = decode(latents/scale + shift)

A residual block is `conv1(silu(norm1(conv0(silu(norm0(x)))))) + skip(x)`; every level but the lowest is followed by
a convolution of stride 2, or of an image twice as large, and between encoder and decoder stands attention.
Scale and shift are kept with the weights, one for each channel of the latents, and are measured, not trained.

    weights                latent_channels   quant    scale     shift
    Stable Diffusion       4                 True     0.18215   0
    Stable Diffusion 3     16                False    1.5305    0.0609
"""

from collections.abc import Iterable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import layers
from jaxdiff.networks import choices
from jaxdiff.protocols import Array, Key, Params

__all__ = ["Autoencoder", "CONSTANTS", "sampled", "standardized"]

CONSTANTS = ("latent_scale", "latent_shift")  # leaves that no optimizer may decay and no count includes
LOGVAR = (-30.0, 20.0)


class ResidualBlock(nn.Module):
    """Two convolutions, each after a norm.

    Attributes:
      channels: of the output.
      dtype: what the convolutions compute in.
    """

    channels: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns [b, h, w, channels] of x [b, h, w, c]."""
        h = nn.silu(layers.GroupNorm(min_channels=1, name="norm0")(layers.batched(x)))
        h = layers.uniform_conv(h, self.channels, 3, "conv0", dtype=self.dtype)
        h = nn.silu(layers.GroupNorm(min_channels=1, name="norm1")(h))
        h = layers.uniform_conv(h, self.channels, 3, "conv1", dtype=self.dtype)
        if x.shape[-1] != self.channels:
            x = layers.uniform_conv(x, self.channels, 1, "skip", dtype=self.dtype)
        return h + x


class Middle(nn.Module):
    """Attention of one head over all pixels, between two residual blocks.

    Attributes:
      dtype: what convolutions and projections compute in.
    """

    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns [b, h, w, c] of x [b, h, w, c]."""
        b, h, w, c = x.shape
        x = ResidualBlock(c, dtype=self.dtype, name="block0")(x)
        init = layers.fan_in_uniform(c)
        attn = layers.SelfAttention(qkv_init=init, bias_init=init, out_init=init, out_bias_init=init, dtype=self.dtype,
                                    name="attn")
        tokens = layers.GroupNorm(min_channels=1, name="norm")(x).reshape(b, h * w, c)
        x = x + attn(tokens).reshape(b, h, w, c)
        return ResidualBlock(c, dtype=self.dtype, name="block1")(x)


class Encoder(nn.Module):
    """Images to the moments of their latents; see `Autoencoder` for the attributes."""

    channels: int
    mults: tuple[int, ...]
    blocks: int
    latent_channels: int
    quant: bool
    dtype: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns mean and logvar [b, h/f, w/f, 2 latent_channels] float32 of x [b, h, w, c]."""
        h = layers.uniform_conv(x, self.channels, 3, "conv_in", dtype=self.dtype)
        for i, mult in enumerate(self.mults):
            for j in range(self.blocks):
                h = ResidualBlock(mult * self.channels, dtype=self.dtype, name=f"down{i}_block{j}")(h)
            if i < len(self.mults) - 1:
                h = _halved(h, f"down{i}_resample", self.dtype)
        h = Middle(dtype=self.dtype, name="middle")(h)
        h = nn.silu(layers.GroupNorm(min_channels=1, name="norm_out")(layers.wide(h)))
        h = layers.uniform_conv(h, 2 * self.latent_channels, 3, "conv_out")
        return layers.uniform_conv(h, 2 * self.latent_channels, 1, "quant") if self.quant else h


class Decoder(nn.Module):
    """Latents to images; see `Autoencoder` for the attributes."""

    channels: int
    mults: tuple[int, ...]
    blocks: int
    image_channels: int
    quant: bool
    dtype: str

    @nn.compact
    def __call__(self, z: Array) -> Array:
        """Returns [b, f h, f w, image_channels] float32 of z [b, h, w, c]."""
        h = layers.uniform_conv(z, z.shape[-1], 1, "quant") if self.quant else z
        h = layers.uniform_conv(h, self.mults[-1] * self.channels, 3, "conv_in", dtype=self.dtype)
        h = Middle(dtype=self.dtype, name="middle")(h)
        for i, mult in reversed(list(enumerate(self.mults))):
            for j in range(self.blocks + 1):
                h = ResidualBlock(mult * self.channels, dtype=self.dtype, name=f"up{i}_block{j}")(h)
            if i:
                h = layers.uniform_conv(layers.up(h), h.shape[-1], 3, f"up{i}_resample", dtype=self.dtype)
        h = nn.silu(layers.GroupNorm(min_channels=1, name="norm_out")(layers.wide(h)))
        return layers.uniform_conv(h, self.image_channels, 3, "conv_out")


class Autoencoder(nn.Module):
    """The KL autoencoder, in the layout of Stable Diffusion; `f` is 2^(levels - 1).

    Each method is called by name: `apply(params, x, method="encode")`.

    Attributes:
      channels: width at multiplier 1; groups of norms are 32, or as many as the channels, and divide them.
      mults: width multipliers, a level each; every further level halves the image.
      blocks: residual blocks in each level of the encoder; the decoder has one more.
      latent_channels: of z.
      image_channels: of the image.
      quant: convolve the moments, and z, by a 1x1 kernel; Stable Diffusion 3 does not.
      dtype: what convolutions and attention compute in, `float32` or `bfloat16` (or `float64`); parameters, norms,
        softmax, the last convolutions, moments and images are float32 in both.

    Raises:
      ValueError: a choice that is not listed above.

    Source: Rombach et al. 2022 (arXiv:2112.10752), sec. 3.1 and appendix G; the layout, Esser et al. 2021 (VQGAN).
    """

    channels: int = 128
    mults: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2
    latent_channels: int = 4
    image_channels: int = 3
    quant: bool = True
    dtype: str = "float32"

    def __post_init__(self) -> None:
        choices.check(self, {"dtype": layers.DTYPES})
        super().__post_init__()

    def setup(self) -> None:
        """Makes the parts; Linen calls it."""
        layout = (self.channels, self.mults, self.blocks)
        self.encoder = Encoder(*layout, self.latent_channels, self.quant, self.dtype)
        self.decoder = Decoder(*layout, self.image_channels, self.quant, self.dtype)
        start = {"latent_scale": nn.initializers.ones, "latent_shift": nn.initializers.zeros}
        self.latent_scale, self.latent_shift = (
            jax.lax.stop_gradient(self.param(name, start[name], (self.latent_channels,))) for name in CONSTANTS)

    def __call__(self, x: Array, key: Key | None = None) -> tuple[Array, Array, Array]:
        """Returns the image [b, h, w, c] of latents drawn for x (of their mean without a key), mean and logvar."""
        mean, logvar = self.encode(x)
        return self.decode(sampled(mean, logvar, key)), mean, logvar

    def encode(self, x: Array) -> tuple[Array, Array]:
        """Returns mean and logvar [b, h/f, w/f, latent_channels] of q(z|x), logvar in [-30, 20].

        Args:
          x: [b, h, w, image_channels] in [-1, 1], h and w multiples of f.

        Raises:
          ValueError: images of other channels, or that do not halve often enough.
        """
        f = 2 ** (len(self.mults) - 1)
        if x.ndim != 4 or x.shape[-1] != self.image_channels or any(size % f for size in x.shape[1:3]):
            raise ValueError(f"this Autoencoder takes images [b, h, w, {self.image_channels}] of sizes that are "
                             f"multiples of {f}, got {x.shape}")
        mean, logvar = jnp.split(self.encoder(x), 2, -1)
        return mean, jnp.clip(logvar, *LOGVAR)

    def decode(self, z: Array) -> Array:
        """Returns the images [b, f h, f w, image_channels] of z [b, h, w, latent_channels], not clipped.

        Raises:
          ValueError: z of other channels.
        """
        if z.ndim != 4 or z.shape[-1] != self.latent_channels:
            raise ValueError(f"this Autoencoder takes latents [b, h, w, {self.latent_channels}], got {z.shape}")
        return self.decoder(z)

    def latents(self, x: Array, key: Key | None = None) -> Array:
        """Returns the latents [b, h/f, w/f, latent_channels] of images, which a diffusion is trained on.

        Args:
          x: as in `encode`.
          key: one, or [b], one a sample, to draw z from q(z|x); without one, z is the mean.
        """
        return (sampled(*self.encode(x), key) - self.latent_shift) * self.latent_scale

    def images(self, latents: Array) -> Array:
        """Returns the images [b, f h, f w, image_channels] of latents [b, h, w, latent_channels]."""
        return self.decode(latents / self.latent_scale + self.latent_shift)


def sampled(mean: Array, logvar: Array, key: Key | None) -> Array:
    """Returns a draw from N(mean, e^logvar), shaped as mean [b, ...]; the mean without a key.

    Args:
      mean: [b, ...].
      logvar: [b, ...].
      key: one, or an array of one a sample, [b]: then sample i depends on its own key alone.
    """
    if key is None:
        return mean
    unit = lambda key, like: jax.random.normal(key, like.shape, like.dtype)
    return mean + jnp.exp(0.5 * logvar) * (jax.vmap(unit)(key, mean) if key.ndim else unit(key, mean))


def standardized(params: Params, stream: Iterable[Array], *, center: bool = True, per_channel: bool = False) -> Params:
    """Returns the parameters of an `Autoencoder` with which the latents of `stream` have mean 0 and variance 1.

    Args:
      params: of an `Autoencoder`.
      stream: z [b, h, w, latent_channels] as `encode` gives their mean, or as drawn; taken one by one.
      center: measure the shift too; without it, it is 0.
      per_channel: for each channel apart; or, as published, one number for all.

    Raises:
      ValueError: a stream of nothing, or of one value only.

    Source: Rombach et al. 2022, appendix G, which does not center; per channel, as EDM2's `StabilityVAEEncoder`.
    """
    count, mean, spread = 0, np.zeros(()), np.zeros(())
    for z in stream:
        part = np.asarray(z, np.float64).reshape(-1, z.shape[-1] if per_channel else 1)
        total, apart = count + len(part), part.mean(0) - mean  # two passes in each part, joined as Chan et al. 1979
        spread = spread + ((part - part.mean(0)) ** 2).sum(0) + apart**2 * count * len(part) / total
        count, mean = total, mean + apart * len(part) / total
    if not count or not (spread > 0).all():
        raise ValueError(f"latents to be scaled must vary, got {count} values of deviation {np.sqrt(spread)}")
    measured = np.sqrt(count / spread), mean if center else np.zeros(())
    inner = dict(params["params"])
    for name, value in zip(CONSTANTS, measured, strict=True):
        inner[name] = jnp.broadcast_to(jnp.asarray(value, inner[name].dtype), inner[name].shape)
    return {**params, "params": inner}


def _halved(x: Array, name: str, dtype: str) -> Array:
    """A convolution of stride 2 with zeros beyond the lower and right border only, as the published weights want."""
    init = layers.fan_in_uniform(9 * x.shape[-1])
    conv = nn.Conv(x.shape[-1], (3, 3), 2, padding=((0, 1), (0, 1)), dtype=dtype, kernel_init=init, bias_init=init,
                   name=name)
    return layers.batched(conv(layers.batched(x)))
