"""U-ViT (Bao et al. 2023): noise level, class and patches are all tokens, and long skips join the two halves.

The second half's block i takes what the first half's block depth/2 - 1 - i gave, concatenated and projected.
The first half is a scan that hands out every block's tokens, the second a scan over them in reverse.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff import layers
from jaxdiff.networks import choices, tokens
from jaxdiff.networks.labels import label_of
from jaxdiff.protocols import Array, Cond

__all__ = ["SIZES", "UViT"]

SIZES = {  # width, depth, heads
    "S": (512, 13, 8),
    "S-deep": (512, 17, 8),
    "M": (768, 17, 12),
    "L": (1024, 21, 16),
    "H": (1152, 29, 16),
}
CHOICES = {"size": tuple(SIZES), **tokens.CHOICES}


class DownBlock(nn.Module):
    """A block of the first half, `(x, None) -> (x, x)`: what it gives is handed out as well."""

    heads: int
    hidden: int
    kernel: str = "xla"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, mask: Array | None = None) -> tuple[Array, Array]:
        """Returns tokens [b, n, c] twice."""
        x, _ = layers.TransformerBlock(self.heads, self.hidden, use_bias=False, kernel=self.kernel, dtype=self.dtype,
                                       name="block")(x, mask)
        return x, x


class UpBlock(nn.Module):
    """A block of the second half, which begins with `skip([x, y])`, y being a block's of the first."""

    heads: int
    hidden: int
    kernel: str = "xla"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, y: Array) -> tuple[Array, None]:
        """Returns tokens [b, n, c], and None, of x and y [b, n, c]."""
        x = nn.Dense(x.shape[-1], dtype=self.dtype, kernel_init=tokens.SMALL, name="skip")(jnp.concatenate([x, y], -1))
        return layers.TransformerBlock(self.heads, self.hidden, use_bias=False, kernel=self.kernel, dtype=self.dtype,
                                       name="block")(layers.batched(x))


class UViT(nn.Module):
    """U-ViT on images or latents of one size, which its learned positions fix.

    Attributes:
      size: `S`, `S-deep`, `M`, `L` or `H`: width, depth and heads, where those are None.
      patch: width of a patch, 2 or 4 in the paper.
      width: of a token, even, a multiple of the heads.
      depth: number of blocks, odd: two halves and a middle.
      heads: of the attention.
      num_classes: 0 for no condition; label `num_classes` is "no class", a learned row like the others.
      kernel, remat, dtype: as in `DiT`.

    Raises:
      ValueError: a choice that is not listed above.

    Source: Bao et al. 2023 (arXiv:2209.12152), section 3; layout of `libs/uvit.py`.
    """

    size: str = "S"
    patch: int = 2
    width: int | None = None
    depth: int | None = None
    heads: int | None = None
    num_classes: int = 0
    kernel: str = "xla"
    remat: str = "none"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        choices.check(self, CHOICES)
        _, depth, _ = self._sizes()
        if depth < 3 or depth % 2 == 0:
            raise ValueError(f"depth is odd and at least 3, two halves and a middle, got {depth}")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, c_noise: Array, cond: Cond = None, *, train: bool = False) -> Array:
        """Returns the prediction [b, h, w, c] float32.

        Args:
          x: [b, h, w, c], h and w multiples of `patch`.
          c_noise: [b]; published weights want the step, 0 to 999.
          cond: `{"label": [b]}`, integers in [0, num_classes], or None where num_classes is 0.
          train: changes nothing; every network takes it.

        Raises:
          ValueError: images that do not divide into patches; a condition that does not fit `num_classes`.
        """
        del train
        width, depth, heads = self._sizes()
        _, h, w, channels = x.shape
        y = self._tokens(x, c_noise, label_of(cond, self.num_classes), width)
        front = y.shape[1] - (h // self.patch) * (w // self.patch)
        fields: dict[str, Any] = dict(heads=heads, hidden=4 * width, kernel=self.kernel, dtype=self.dtype)
        y, skips = layers.stacked(DownBlock, depth // 2, remat=self.remat, name="first", **fields)(y, None)
        y, _ = layers.TransformerBlock(name="middle", use_bias=False, **fields)(y)
        y, _ = layers.stacked(UpBlock, depth // 2, remat=self.remat, each=True, name="second", **fields)(y, skips[::-1])
        y = layers.LayerNorm(eps=1e-5, name="norm")(layers.wide(y))
        y = nn.Dense(self.patch**2 * channels, kernel_init=tokens.SMALL, name="out")(y[:, front:])
        y = layers.unpatchify(layers.batched(y), self.patch, h, w)
        return layers.uniform_conv(y, channels, 3, "out_conv")

    def _tokens(self, x: Array, c_noise: Array, label: Array | None, width: int) -> Array:
        """Returns [b, n, width]: class, noise level, and patches, with their places added."""
        patches = layers.batched(layers.patchify(x, self.patch))
        y = layers.uniform_dense(patches, width, "patch", dtype=self.dtype)
        front = [layers.positional(c_noise, width)[:, None]]
        if label is not None:
            table = nn.Embed(self.num_classes + 1, width, embedding_init=nn.initializers.normal(1.0), name="label")
            front.insert(0, table(label)[:, None])
        y = jnp.concatenate([*(part.astype(y.dtype) for part in front), y], 1)
        return layers.batched(layers.LearnedPosition(name="position")(y))

    def _sizes(self) -> tuple[int, ...]:
        return tokens.sizes((self.width, self.depth, self.heads), SIZES[self.size])
