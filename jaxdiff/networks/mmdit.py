"""MMDiT, the network of Stable Diffusion 3 (Esser et al. 2024): image and text are two streams that attend jointly.

Each stream has weights of its own; queries, keys and values of both are joined for one attention.  Noise level and
the pooled text modulate both (adaLN-zero).  All blocks but the last are one scan; the last has no output for text.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxdiff import layers
from jaxdiff.networks import choices, tokens
from jaxdiff.protocols import Array, Cond

__all__ = ["SIZES", "MMDiT"]

SIZES = {  # width, depth, heads; SD3's width is 64 times its depth
    "M": (1536, 24, 24),  # 2 B, SD3 medium
    "L": (2432, 38, 38),  # 8 B, the largest of the paper
}
CHOICES = {"size": tuple(SIZES), **tokens.CHOICES}


class Stream(nn.Module):
    """One stream of a block, in two parts: what comes before the joint attention and what comes after.

    Attributes:
      width: of a token.
      heads: of the attention.
      final: end with queries, keys and values; nothing comes after.
      qk_norm: normalize queries and keys.
      dtype: what the projections compute in.
    """

    width: int
    heads: int
    final: bool = False
    qk_norm: bool = False
    dtype: str = "float32"

    def setup(self) -> None:
        dim = self.width // self.heads
        fields: dict[str, Any] = dict(dtype=self.dtype, kernel_init=tokens.XAVIER)
        self.modulation = nn.Dense((2 if self.final else 6) * self.width, kernel_init=nn.initializers.zeros)
        self.norm0 = layers.LayerNorm(affine=False)
        self.qkv = nn.DenseGeneral((3, self.heads, dim), **fields)
        if self.qk_norm:
            self.q_norm, self.k_norm = layers.RMSNorm(), layers.RMSNorm()
        if not self.final:
            self.out = nn.DenseGeneral(self.width, axis=(-2, -1), **fields)
            self.norm1 = layers.LayerNorm(affine=False)
            self.mlp0, self.mlp1 = nn.Dense(4 * self.width, **fields), nn.Dense(self.width, **fields)

    def before(self, x: Array, emb: Array) -> tuple[list[Array], list[Array]]:
        """Returns queries, keys and values [b, n, heads, d] of tokens x [b, n, c], and what `after` needs of emb."""
        shift, scale, *rest = jnp.split(self.modulation(nn.silu(emb)), 2 if self.final else 6, -1)
        qkv = layers.batched(self.qkv(layers.modulate(self.norm0(x), shift, scale)))
        q, k, v = (qkv[..., i, :, :] for i in range(3))
        if self.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        return [q, k, v], rest

    def after(self, x: Array, y: Array, rest: list[Array]) -> Array:
        """Returns tokens [b, n, c] of x [b, n, c] and what was attended to, y [b, n, heads, d]."""
        gate0, shift, scale, gate1 = rest
        x = x + gate0[:, None].astype(x.dtype) * layers.batched(self.out(y))
        h = nn.gelu(layers.batched(self.mlp0(layers.modulate(self.norm1(x), shift, scale))))
        return x + gate1[:, None].astype(x.dtype) * layers.batched(self.mlp1(h))


class JointBlock(nn.Module):
    """A block of both streams, `((image, text), emb, mask) -> ((image, text), None)`; fields as in `Stream`."""

    width: int
    heads: int
    final: bool = False
    qk_norm: bool = False
    kernel: str = "xla"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: tuple[Array, Array], emb: Array,
                 mask: Array | None = None) -> tuple[tuple[Array, Array], None]:
        """Returns tokens [b, n, c] of the image and [b, m, c] of the text (untouched if `final`), and None."""
        image, text = (layers.batched(part) for part in x)
        fields: dict[str, Any] = dict(width=self.width, heads=self.heads, qk_norm=self.qk_norm, dtype=self.dtype)
        of_image, of_text = Stream(name="image", **fields), Stream(name="text", final=self.final, **fields)
        ours, rest = of_image.before(image, emb)
        theirs, text_rest = of_text.before(text, emb)
        q, k, v = (jnp.concatenate(pair, 1) for pair in zip(ours, theirs, strict=True))
        y = layers.attention.KERNELS[self.kernel].attend(q, k, v, mask)  # [b, n + m, heads, d]
        n = image.shape[1]
        image = of_image.after(image, y[:, :n], rest)
        return (image, text if self.final else of_text.after(text, y[:, n:], text_rest)), None


class MMDiT(nn.Module):
    """MMDiT on latents, with text.

    Attributes:
      size: `M` or `L`: width, depth and heads, where those are None.
      patch: width of a patch.
      width: of a token, a multiple of the heads and of 4.
      depth: number of blocks, at least 2.
      heads: of the attention.
      qk_norm: normalize queries and keys (SD3.5).
      grid: side of the table of positions, in patches, of whose middle an image takes its part.
      base: side, in patches, of the images that the table was made for; it is stretched by grid/base.
      kernel, remat, dtype: as in `DiT`.

    Raises:
      ValueError: a choice that is not listed above.

    Source: Esser et al. 2024 (arXiv:2403.03206), section 4 and figure 2; positions as in their code.  They say nothing
      of how weights start: as in DiT here.
    """

    size: str = "M"
    patch: int = 2
    width: int | None = None
    depth: int | None = None
    heads: int | None = None
    qk_norm: bool = False
    grid: int = 192
    base: int = 64
    kernel: str = "xla"
    remat: str = "none"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        choices.check(self, CHOICES)
        _, depth, _ = self._sizes()
        if depth < 2:
            raise ValueError(f"depth is at least 2, since the last block is another, got {depth}")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, c_noise: Array, cond: Cond = None, *, train: bool = False) -> Array:
        """Returns the prediction [b, h, w, c] float32.

        Args:
          x: [b, h, w, c], h and w multiples of `patch`.
          c_noise: [b]; published weights want 1,000 times the time.
          cond: `{"text": [b, m, d], "pooled": [b, p]}`, and where some tokens are none `"mask": [b, m]`, False there.
          train: changes nothing; every network takes it.

        Raises:
          ValueError: images that do not divide into patches or are larger than the table; a condition without
            text, or with more.
        """
        del train
        width, depth, heads = self._sizes()
        _, h, w, channels = x.shape
        given = set(cond or {})
        if cond is None or not {"text", "pooled"} <= given <= {"text", "pooled", "mask"}:
            raise ValueError(f"MMDiT reads 'text' [b, m, d], 'pooled' [b, p] and, if it is there, 'mask' [b, m] from "
                             f"its condition and nothing else, got {', '.join(sorted(given)) or 'none'}")
        emb, _ = tokens.embed(c_noise, None, 0, width)
        pooled = nn.silu(nn.Dense(width, kernel_init=tokens.SMALL, name="pooled0")(layers.wide(cond["pooled"])))
        emb = emb + nn.Dense(width, kernel_init=tokens.SMALL, name="pooled1")(pooled)
        text = nn.Dense(width, dtype=self.dtype, kernel_init=tokens.XAVIER, name="text")(layers.batched(cond["text"]))
        streams = (self._image(x, width), text)
        mask = self._mask(cond, streams[0].shape[1])
        fields: dict[str, Any] = dict(width=width, heads=heads, qk_norm=self.qk_norm, kernel=self.kernel,
                                      dtype=self.dtype)
        blocks = layers.stacked(JointBlock, depth - 1, remat=self.remat, name="blocks", **fields)
        streams, _ = blocks(streams, emb, mask)
        (y, _), _ = JointBlock(final=True, name="last", **fields)(streams, emb, mask)
        return layers.unpatchify(tokens.out(y, emb, self.patch**2 * channels), self.patch, h, w)

    def _image(self, x: Array, width: int) -> Array:
        """Returns the image's tokens [b, n, width], with their places in the middle of the table."""
        h, w = x.shape[1] // self.patch, x.shape[2] // self.patch
        if max(h, w) > self.grid:
            raise ValueError(f"an image of {h}x{w} patches is larger than the {self.grid}x{self.grid} of MMDiT's table")
        rows, columns = ((np.arange(n) + (self.grid - n) // 2) * self.base / self.grid for n in (h, w))
        patches = layers.batched(layers.patchify(x, self.patch))
        y = nn.Dense(width, dtype=self.dtype, kernel_init=tokens.XAVIER, name="patch")(patches)
        return layers.batched(tokens.place(y, "sincos", rows, columns))

    def _mask(self, cond: Cond, image: int) -> Array | None:
        """Returns the mask of keys [b, 1, 1, image + m]; the image is seen always."""
        if cond is None or "mask" not in cond:
            return None
        mask = jnp.asarray(cond["mask"], bool)
        return jnp.pad(mask, ((0, 0), (image, 0)), constant_values=True)[:, None, None]

    def _sizes(self) -> tuple[int, ...]:
        return tokens.sizes((self.width, self.depth, self.heads), SIZES[self.size])
