"""Text encoders: tokens to the text that a network attends to; and a network that trains its own.

One transformer is CLIP's text tower (causal, pre-norm, pooled at the end of the text) and BERT (every token sees
every other, norms after the residuals).  What the mask calls no token is zero in the output and changes no other
token; a text without any is zero throughout, as is a text that was encoded before and then dropped.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxdiff import layers
from jaxdiff.networks import choices
from jaxdiff.protocols import Array, Cond

__all__ = ["Conditioned", "TextTransformer", "null"]

SMALL = nn.initializers.normal(0.02)
READS = ("text", "pooled", "mask")
CHOICES = {
    "norm": ("pre", "post"),
    "mlp": (*layers.ACTIVATIONS, "swiglu"),
    "pooling": ("first", "last", "mean", "eot"),
    "remat": tuple(layers.REMAT),
    "dtype": layers.DTYPES,
}


class TextTransformer(nn.Module):
    """A transformer over tokens.

    Attributes:
      vocabulary: number of tokens; 259 are bytes, see `data.tokens`.
      length: of the longest text, in tokens.
      width: of a token, a multiple of the heads.
      depth: number of blocks, at least 1.
      heads: of the attention.
      causal: a token sees only itself and those before it.
      norm: `pre`, before each branch, or `post`, after each residual and after the embedding (BERT).
      final_norm: normalize after the last block.
      eps: of the norms.
      mlp: `gelu`, `gelu_tanh`, `quick_gelu`, `silu` or `swiglu`.
      pooling: the token that stands for the text: `first`, `last` of the mask, `eot`, which is the first of the highest
        number (CLIP's end of text), or the `mean` of all.
      projection: width of what is pooled, by a layer without bias; 0 for no layer.
      remat: what the backward pass keeps, a key of `layers.REMAT`.
      dtype: what the blocks compute in; norms, softmax and outputs are float32.

    Raises:
      ValueError: a choice that is not listed above.

    Source: Vaswani et al. 2017; as CLIP's text tower, Radford et al. 2021 (arXiv:2103.00020), section 2.4; as BERT,
      Devlin et al. 2019 (arXiv:1810.04805), whose segment 0 is in the positions here.
    """

    vocabulary: int = 259
    length: int = 77
    width: int = 512
    depth: int = 6
    heads: int = 8
    causal: bool = False
    norm: str = "pre"
    final_norm: bool = True
    eps: float = 1e-5
    mlp: str = "gelu"
    pooling: str = "mean"
    projection: int = 0
    remat: str = "none"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        choices.check(self, CHOICES)
        super().__post_init__()

    @nn.compact
    def __call__(self, tokens: Array, mask: Array | None = None, *, train: bool = False) -> dict[str, Array]:
        """Returns `{"text": [b, n, width], "pooled": [b, width or projection], "mask": bool [b, n]}`, float32.

        Args:
          tokens: integers [b, n] in [0, vocabulary), n at most `length`.
          mask: [b, n], False where there is no token; None if all are.
          train: changes nothing.

        Raises:
          ValueError: other tokens or another mask.
        """
        del train
        mask = self._checked(tokens, mask)
        n, post = tokens.shape[1], self.norm == "post"
        x = nn.Embed(self.vocabulary, self.width, embedding_init=SMALL, name="token")(tokens)
        x = layers.wide(x + self.param("position", SMALL, (self.length, self.width))[:n])
        if post:
            x = layers.LayerNorm(eps=self.eps, name="embed_norm")(x)
        order = np.tri(n, dtype=bool) if self.causal else np.ones((n, n), bool)
        seen = mask[:, None, None] & order | np.eye(n, dtype=bool)  # no row is empty, even where there is no token
        blocks = layers.stacked(layers.TransformerBlock, self.depth, remat=self.remat, name="blocks", heads=self.heads,
                                hidden=4 * self.width, mlp=self.mlp, eps=self.eps, post_norm=post, dtype=self.dtype)
        x, _ = blocks(layers.batched(x.astype(self.dtype)), seen)
        x = layers.wide(x)
        if self.final_norm:
            x = layers.LayerNorm(eps=self.eps, name="norm")(x)
        text = jnp.where(mask[..., None], x, 0)
        pooled = self._pooled(text, tokens, mask)
        if self.projection:
            pooled = nn.Dense(self.projection, use_bias=False, kernel_init=SMALL, name="projection")(pooled)
        return {"text": layers.batched(text), "pooled": layers.batched(pooled), "mask": mask}

    def _checked(self, tokens: Array, mask: Array | None) -> Array:
        if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer) or tokens.shape[1] > self.length:
            raise ValueError(f"a text encoder reads integers [b, n], n at most length={self.length}, got "
                             f"{tokens.dtype} {list(tokens.shape)}")
        if mask is not None and mask.shape != tokens.shape:
            raise ValueError(f"tokens and mask have one shape, got {list(tokens.shape)} and {list(mask.shape)}")
        return jnp.ones(tokens.shape, bool) if mask is None else jnp.asarray(mask, bool)

    def _pooled(self, text: Array, tokens: Array, mask: Array) -> Array:
        if self.pooling == "mean":
            return text.sum(1) / jnp.maximum(mask.sum(1), 1)[:, None]
        n = tokens.shape[1]
        place = {"first": jnp.zeros(len(tokens), int), "last": n - 1 - mask[:, ::-1].argmax(1),
                 "eot": tokens.argmax(1)}[self.pooling]
        return jnp.take_along_axis(text, place[:, None, None], 1)[:, 0]


class Conditioned(nn.Module):
    """A network that reads text, and the encoder that is trained with it.

    A condition may also hold the text that `encode` gave: a sampler then encodes once, not at each of its steps.

    Attributes:
      network: reads `text`, `pooled` and `mask`, or some of them.
      encoder: `(tokens [b, n], mask [b, n], train) -> {"text", "pooled", "mask"}`.
      reads: which of them the network is given; `StableUNet` reads no `pooled`.

    Raises:
      ValueError: `reads` is none of these.
    """

    network: nn.Module
    encoder: nn.Module
    reads: tuple[str, ...] = READS

    def __post_init__(self) -> None:
        if not self.reads or not set(self.reads) <= set(READS):
            raise ValueError(f"Conditioned.reads are some of {', '.join(READS)}, got {self.reads}")
        super().__post_init__()

    def __call__(self, x: Array, c_noise: Array, cond: Cond = None, *, train: bool = False) -> Array:
        """Returns the network's prediction [b, ...] float32.

        Args:
          x, c_noise: as the network takes them.
          cond: `{"tokens": int [b, n], "token_mask": bool [b, n]}`, or what `encode` gives; all else is passed on.
          train: given to both.

        Raises:
          ValueError: a condition without tokens and without text.
        """
        return self.network(x, c_noise, self.encode(cond, train=train), train=train)

    def encode(self, cond: Cond, *, train: bool = False) -> dict[str, Array]:
        """Returns the condition with `reads` in place of the tokens; as it is where it has text already."""
        given = dict(cond or {})
        if "text" in given and "tokens" not in given:
            return given
        if not {"tokens", "token_mask"} <= set(given):
            raise ValueError("Conditioned reads 'tokens' [b, n] and 'token_mask' [b, n] from its condition, or the "
                             f"'text' of `encode`, got {', '.join(sorted(given)) or 'none'}")
        encoded = self.encoder(given.pop("tokens"), given.pop("token_mask"), train=train)
        return given | {name: encoded[name] for name in self.reads}


def null(cond: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the condition that stands for no text: zeros and false masks with the keys of `cond`, no batch axis.

    Args:
      cond: arrays or shapes [b, ...]: tokens and their mask, or text that was encoded before.
    """
    return {name: np.zeros(value.shape[1:], value.dtype) for name, value in cond.items()}
