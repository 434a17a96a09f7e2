"""JiT, "just image transformers" (Li & He 2025): a plain transformer on the large patches of an image.

A patch of 16 x 16 x 3 numbers goes through a bottleneck of 128, since clean images lie near a low-dimensional
surface; the network is meant to predict x0.  A few blocks in, tokens that hold the class join in front of the patches.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxdiff import layers
from jaxdiff.networks import choices, tokens
from jaxdiff.networks.labels import label_of
from jaxdiff.protocols import Array, Cond

__all__ = ["SIZES", "JiT"]

SIZES = {  # width, depth, heads, bottleneck, block at which the class tokens join
    "B": (768, 12, 12, 128, 4),
    "L": (1024, 24, 16, 128, 8),
    "H": (1280, 32, 16, 256, 10),
}
CHOICES = {"size": tuple(SIZES), **tokens.CHOICES}


class JiT(nn.Module):
    """JiT on images.

    Attributes:
      size: `B`, `L` or `H`: the five numbers below, where those are None.
      patch: width of a patch, 16 or 32 in the paper.
      width: of a token, a multiple of 4 times the heads.
      depth: number of blocks.
      heads: of the attention.
      bottleneck: width between a patch and its token.
      start: blocks before the class tokens join.
      class_tokens: their number; 0 without classes.
      num_classes: 0 for no condition; label `num_classes` is "no class", a learned row like the others.
      dropout: rate in [0, 1), in training only, of the middle half of the blocks (0.2 in the largest).
      kernel, remat, dtype: as in `DiT`.

    Raises:
      ValueError: a choice that is not listed above.

    Source: Li & He 2025 (arXiv:2511.13720), section 4; layout of `model_jit.py`.
    """

    size: str = "B"
    patch: int = 16
    width: int | None = None
    depth: int | None = None
    heads: int | None = None
    bottleneck: int | None = None
    start: int | None = None
    class_tokens: int = 32
    num_classes: int = 0
    dropout: float = 0.0
    kernel: str = "xla"
    remat: str = "none"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        choices.check(self, CHOICES)
        _, depth, *_, start = self._sizes()
        if not 0 < start < depth:
            raise ValueError(f"class tokens join between blocks, at 1 to {depth - 1}, got start={start}")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, c_noise: Array, cond: Cond = None, *, train: bool = False) -> Array:
        """Returns the prediction [b, h, w, c] float32.

        Args:
          x: [b, h, w, c], h and w multiples of `patch`.
          c_noise: [b]; published weights want the time, 0 at noise and 1 at data.
          cond: `{"label": [b]}`, integers in [0, num_classes], or None where num_classes is 0.
          train: use dropout, from the random stream `dropout`.

        Raises:
          ValueError: images that do not divide into patches; a condition that does not fit `num_classes`.
        """
        width, depth, heads, bottleneck, start = self._sizes()
        _, h, w, channels = x.shape
        emb, of_class = tokens.embed(c_noise, label_of(cond, self.num_classes), self.num_classes, width)
        rows, columns = np.arange(h // self.patch), np.arange(w // self.patch)
        y = self._patches(x, width, bottleneck)
        y = tokens.place(y, "sincos", rows, columns)
        turns = layers.angles(rows, columns, width // heads)
        place = np.arange(depth)
        inside = (place >= depth // 4) & (place < depth // 4 * 3)
        rates = jnp.asarray(self.dropout * inside, jnp.float32) if train and self.dropout else None
        y = self._blocks("early", start, heads, width, y, emb, turns, rates if rates is None else rates[:start])
        front = 0 if of_class is None else self.class_tokens
        if of_class is not None and front:
            of_class = of_class[:, None] + self.param("class_position", tokens.SMALL, (front, width))
            y = jnp.concatenate([of_class.astype(y.dtype), y], 1)
            turns = np.pad(turns, ((front, 0), (0, 0)))  # the class lies nowhere
        y = self._blocks("late", depth - start, heads, width, y, emb, turns, rates if rates is None else rates[start:])
        y = tokens.out(y[:, front:], emb, self.patch**2 * channels, norm="rms")
        return layers.unpatchify(y, self.patch, h, w)

    def _patches(self, x: Array, width: int, bottleneck: int) -> Array:
        y = layers.batched(layers.patchify(x, self.patch))
        y = nn.Dense(bottleneck, use_bias=False, dtype=self.dtype, kernel_init=tokens.XAVIER, name="patch0")(y)
        return layers.batched(nn.Dense(width, dtype=self.dtype, kernel_init=tokens.XAVIER, name="patch1")(y))

    def _blocks(self, name: str, depth: int, heads: int, width: int, y: Array, emb: Array, turns: Array,
                rates: Array | None) -> Array:
        blocks = layers.stacked(layers.AdaLNBlock, depth, remat=self.remat, each=(False, False, True), heads=heads,
                                hidden=int(4 * width * 2 / 3), norm="rms", mlp="swiglu", qk_norm=True,
                                kernel=self.kernel, dtype=self.dtype, name=name)
        return blocks(y, emb, jnp.asarray(turns), rates)[0]

    def _sizes(self) -> tuple[int, ...]:
        given = (self.width, self.depth, self.heads, self.bottleneck, self.start)
        return tokens.sizes(given, SIZES[self.size])
