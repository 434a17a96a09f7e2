"""DiT, the diffusion transformer of Peebles & Xie 2023; SiT (Ma et al. 2024) is the same network.

Patches are tokens.  A block is shown noise level and class by the shifts, scales and gates of its norms
(adaLN-zero, `layers.AdaLNBlock`); all of them and the last layer start at zero, and with them every block as the
identity and the network as zero.  The blocks are one scan.  What came later is optional: rotary positions, RMS
norms and SwiGLU (LightningDiT, Yao et al. 2025), registers and class tokens in front of the patches.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxdiff import layers
from jaxdiff.networks import choices, tokens
from jaxdiff.networks.labels import extra_of, label_of
from jaxdiff.protocols import Array, Cond

__all__ = ["SIZES", "DiT"]

SIZES = {  # width, depth, heads: table 1
    "S": (384, 12, 6),
    "B": (768, 12, 12),
    "L": (1024, 24, 16),
    "XL": (1152, 28, 16),
}
CHOICES = {
    "size": tuple(SIZES),
    "position": ("sincos", "learned", "none"),
    "norm": layers.NORMS,
    "mlp": (*layers.ACTIVATIONS, "swiglu"),
    **tokens.CHOICES,
}


class DiT(nn.Module):
    """DiT on images or latents.

    Attributes:
      size: `S`, `B`, `L` or `XL`: width, depth and heads, where those are None.
      patch: width of a patch, 2 to 16 in the paper's and later work.
      width: of a token, a multiple of 4 times the heads.
      depth: number of blocks.
      heads: of the attention.
      mlp_ratio: width inside the feed-forward part over `width`; two thirds of it with `swiglu`.
      num_classes: 0 for no condition; label `num_classes` is "no class", a learned row like the others.
      learned_variance: the network has a second half of channels, returned with `variance=True` alone.
      span: read `cond["span"]` [b], the time t - s of an average velocity, by an embedding that starts at zero.
      position: `sincos`, `learned`, or `none`.
      rope: turn queries and keys by row and column.
      norm: `layer` without parameters, or `rms`.
      qk_norm: normalize queries and keys.
      mlp: kind of the feed-forward part, `gelu_tanh` or `swiglu` (or as in `layers.feed_forward`).
      registers: learned tokens in front of the patches.
      class_tokens: tokens in front of the patches that hold the class.
      kernel: of the attention, `xla`, `splash` or `cudnn`.
      remat: what the backward pass computes again, `none`, `full`, `dots` or `all_dots`.
      dtype: what the blocks compute in, `float32` or `bfloat16` (or `float64`); parameters, embeddings,
        statistics, softmax, the last layer and the output are float32 in both.

    Raises:
      ValueError: a choice that is not listed above.

    Source: Peebles & Xie 2023 (DiT), table 1, section 3.2 and appendix A.
    """

    size: str = "B"
    patch: int = 2
    width: int | None = None
    depth: int | None = None
    heads: int | None = None
    mlp_ratio: float = 4.0
    num_classes: int = 0
    learned_variance: bool = False
    span: bool = False
    position: str = "sincos"
    rope: bool = False
    norm: str = "layer"
    qk_norm: bool = False
    mlp: str = "gelu_tanh"
    registers: int = 0
    class_tokens: int = 0
    kernel: str = "xla"
    remat: str = "none"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        choices.check(self, CHOICES)
        if self.class_tokens and not self.num_classes:
            raise ValueError(f"{self.class_tokens} class tokens need classes; set num_classes")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, c_noise: Array, cond: Cond = None, *, train: bool = False,
                 variance: bool = False) -> Array:
        """Returns the prediction [b, h, w, c] float32, [b, h, w, 2c] with `variance`.

        Args:
          x: [b, h, w, c], h and w multiples of `patch`.
          c_noise: [b]; published weights want the step, 0 to 999 (DiT), or the time, 0 to 1 (SiT).
          cond: `{"label": [b]}`, integers in [0, num_classes], where num_classes is not 0; "span" where the
            network reads it, zeros if missing.
          train: changes nothing; every network takes it.
          variance: return the channels of the learned variance too.

        Raises:
          ValueError: images that do not divide into patches; a condition that does not fit the network;
            a variance that was not learned.
        """
        del train
        if variance and not self.learned_variance:
            raise ValueError("this DiT learns no variance; set learned_variance")
        width, depth, heads = self._sizes()
        _, h, w, channels = x.shape
        label = label_of(cond, self.num_classes, ("span",) * self.span)
        emb, of_class = tokens.embed(c_noise, label, self.num_classes, width)
        if self.span:
            emb = emb + self._span(extra_of(cond, "span", c_noise.shape), width)
        hidden = int(self.mlp_ratio * width * (2 / 3 if self.mlp == "swiglu" else 1))
        blocks = layers.stacked(layers.AdaLNBlock, depth, remat=self.remat, heads=heads, hidden=hidden, norm=self.norm,
                                mlp=self.mlp, qk_norm=self.qk_norm, kernel=self.kernel, dtype=self.dtype, name="blocks")
        y, turns = self._tokens(x, of_class, width, heads)
        y, _ = blocks(y, emb, turns)
        y = y[:, self.registers + self.class_tokens:]
        y = tokens.out(y, emb, self.patch**2 * channels * (1 + self.learned_variance), self.norm)
        y = layers.unpatchify(y, self.patch, h, w)
        return y if variance or not self.learned_variance else tokens.first_half(y)

    def _sizes(self) -> tuple[int, ...]:
        return tokens.sizes((self.width, self.depth, self.heads), SIZES[self.size])

    def _tokens(self, x: Array, of_class: Array | None, width: int, heads: int) -> tuple[Array, Array | None]:
        """Returns tokens [b, n, width] and by how much their queries and keys are turned, [n, width/heads/2]."""
        b, h, w, _ = x.shape
        rows, columns = np.arange(h // self.patch), np.arange(w // self.patch)
        patches = layers.batched(layers.patchify(x, self.patch))
        y = nn.Dense(width, dtype=self.dtype, kernel_init=tokens.XAVIER, name="patch")(patches)
        y = tokens.place(y, self.position, rows, columns)
        front = []
        if self.registers:
            front.append(self.param("registers", tokens.SMALL, (self.registers, width)))
        if of_class is not None and self.class_tokens:
            places = self.param("class_position", tokens.SMALL, (self.class_tokens, width))
            front.append(of_class[:, None] + places)
        front = [jnp.broadcast_to(part, (b, *part.shape[-2:])).astype(y.dtype) for part in front]
        turns = None
        if self.rope:  # what is in front lies nowhere
            beside = (self.registers + self.class_tokens, 0)
            turns = jnp.asarray(np.pad(layers.angles(rows, columns, width // heads), (beside, (0, 0))))
        return layers.batched(jnp.concatenate([*front, y], 1)), turns

    def _span(self, span: Array, width: int) -> Array:
        emb = layers.positional(1_000 * span, 2 * tokens.FREQUENCIES)
        h = nn.silu(nn.Dense(width, kernel_init=tokens.SMALL, name="span0")(emb))
        return nn.Dense(width, kernel_init=nn.initializers.zeros, name="span1")(h)
