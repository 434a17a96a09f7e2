"""Blocks of a transformer: pre-norm, and with the adaptive norm of DiT.

A block maps `(x, ...)` to `(x, None)`, so that `layers.stacked` can scan it.  In bfloat16 the norms'
statistics, logits, softmax, and all that is made of the embedding are float32.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdiff.layers.attention import SelfAttention
from jaxdiff.layers.mlp import feed_forward
from jaxdiff.layers.norm import LayerNorm, RMSNorm
from jaxdiff.layers.placement import batched
from jaxdiff.protocols import Array, Key

__all__ = ["AdaLNBlock", "NORMS", "TransformerBlock", "dropped", "modulate", "modulation"]

NORMS = ("layer", "rms")


def modulate(x: Array, shift: Array, scale: Array) -> Array:
    """Returns `x (1 + scale) + shift`, in the dtype of x [b, n, c], of shift and scale [b, c]."""
    return x * (1 + scale[:, None]).astype(x.dtype) + shift[:, None].astype(x.dtype)


def modulation(emb: Array, number: int, width: int) -> list[Array]:
    """Returns `number` shifts, scales and gates [b, width] of emb [b, d]; all are zero at the start.

    Called inside a compact method, whose module then has the layer `modulation`.

    Source: Peebles & Xie 2023 (DiT), adaLN-zero.
    """
    zeros = nn.initializers.zeros
    return jnp.split(nn.Dense(number * width, kernel_init=zeros, name="modulation")(nn.silu(emb)), number, -1)


def dropped(h: Array, rate: Array, key: Key) -> Array:
    """Returns h with numbers dropped at a rate () in [0, 1) that may differ from block to block of a scan."""
    return jnp.where(jax.random.bernoulli(key, 1 - rate, h.shape), h / (1 - rate).astype(h.dtype), 0)


class AdaLNBlock(nn.Module):
    """`x += g₁ attention(n(x)(1 + s₁) + b₁)`, then `x += g₂ mlp(n(x)(1 + s₂) + b₂)`; all b, s, g from the embedding.

    Attributes:
      heads: of the attention.
      hidden: width inside the feed-forward part.
      norm: `layer`, without scale and bias, or `rms`, with a scale.
      mlp: kind of the feed-forward part.
      qk_norm: normalize queries and keys.
      kernel: of the attention.
      dtype: what the projections compute in.

    Source: Peebles & Xie 2023 (DiT), figure 3.
    """

    heads: int
    hidden: int
    norm: str = "layer"
    mlp: str = "gelu_tanh"
    qk_norm: bool = False
    kernel: str = "xla"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, emb: Array, turns: Array | None = None,
                 rate: Array | None = None) -> tuple[Array, None]:
        """Returns tokens [b, n, c], and None.

        Args:
          x: [b, n, c].
          emb: [b, d] float32.
          turns: [n, c/heads/2] of RoPE.
          rate: of dropout after the attention and inside the feed-forward part, in [0, 1), by the random stream
            `dropout`; None for none.
        """
        x = batched(x)
        drop = lambda h: h if rate is None else dropped(h, rate, self.make_rng("dropout"))
        shift0, scale0, gate0, shift1, scale1, gate1 = modulation(emb, 6, x.shape[-1])
        h = modulate(self._norm("norm0")(x), shift0, scale0)
        h = SelfAttention(self.heads, out_init=nn.initializers.xavier_uniform(), qk_norm=self.qk_norm,
                          kernel=self.kernel, dtype=self.dtype, name="attention")(h, turns=turns)
        x = x + gate0[:, None].astype(x.dtype) * drop(h)
        h = modulate(self._norm("norm1")(x), shift1, scale1)
        h = feed_forward(h, self.hidden, self.mlp, drop=drop, dtype=self.dtype)
        return x + gate1[:, None].astype(x.dtype) * h, None

    def _norm(self, name: str) -> nn.Module:
        return RMSNorm(name=name) if self.norm == "rms" else LayerNorm(affine=False, name=name)


class TransformerBlock(nn.Module):
    """`x += attention(norm0(x))`, then `x += mlp1(φ(mlp0(norm1(x))))`.

    With `post_norm` it is `x = norm0(x + attention(x))`, then `x = norm1(x + mlp1(φ(mlp0(x))))`.

    Attributes:
      heads: of the attention.
      hidden: width inside the feed-forward part.
      mlp: kind of the feed-forward part.
      use_bias: give queries, keys and values a bias.
      eps: of the norms.
      kernel_init: of all kernels.
      kernel: of the attention.
      dtype: what the projections compute in.
      post_norm: normalize after each residual, not before its branch.

    Source: Dosovitskiy et al. 2021 (ViT), eq. 2 and 3; with `post_norm`, Vaswani et al. 2017.
    """

    heads: int
    hidden: int
    mlp: str = "gelu"
    use_bias: bool = True
    eps: float = 1e-5
    kernel_init: nn.initializers.Initializer = nn.initializers.normal(0.02)
    kernel: str = "xla"
    dtype: str = "float32"
    post_norm: bool = False

    @nn.compact
    def __call__(self, x: Array, mask: Array | None = None) -> tuple[Array, None]:
        """Returns tokens [b, n, c], and None, of x [b, n, c]; mask as in `attention.xla`."""
        x = batched(x)
        attention = SelfAttention(self.heads, qkv_init=self.kernel_init, out_init=self.kernel_init,
                                  use_bias=self.use_bias, kernel=self.kernel, dtype=self.dtype, name="attention")
        norm0, norm1 = LayerNorm(eps=self.eps, name="norm0"), LayerNorm(eps=self.eps, name="norm1")
        x = norm0(x + attention(x, mask)) if self.post_norm else x + attention(norm0(x), mask)
        h = feed_forward(x if self.post_norm else norm1(x), self.hidden, self.mlp, init=self.kernel_init,
                         dtype=self.dtype)
        return norm1(x + h) if self.post_norm else x + h, None
