"""Dot-product attention with float32 logits and softmax, and self-attention with packed projections."""

import flax.linen as nn
import jax

from jaxdiff.layers.placement import batched
from jaxdiff.protocols import Array

__all__ = ["SelfAttention", "xla"]


def xla(q: Array, k: Array, v: Array, mask: Array | None = None) -> Array:
    """Returns `softmax(q kᵀ/√d) v`; logits and softmax are float32 whatever the inputs are.

    Args:
      q: [b, n, heads, d].
      k, v: [b, m, heads, d].
      mask: boolean, broadcast to [b, heads, n, m]; True where a key may be seen.

    Returns:
      [b, n, heads, d] in the dtype of `q`.

    Source: Vaswani et al. 2017, eq. 1.
    """
    return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="xla")


class SelfAttention(nn.Module):
    """Self-attention over tokens, without norm or residual.

    Parameters are packed by head: `qkv/kernel` [c, 3, heads, c/heads] and `out/kernel` [heads, c/heads, c],
    so that a tensor-parallel rule cuts the axis of heads.

    Attributes:
      heads: their number; must divide the channels.
      qkv_init, out_init: initializers of the kernels; the output starts at zero by default.
      dtype: what the projections compute in.
    """

    heads: int = 1
    qkv_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()
    out_init: nn.initializers.Initializer = nn.initializers.zeros
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, mask: Array | None = None) -> Array:
        """Returns [b, n, c] of tokens x [b, n, c]; mask as in `xla`.

        Raises:
          ValueError: the heads do not divide the channels.
        """
        channels = x.shape[-1]
        if channels % self.heads:
            raise ValueError(f"{self.heads} heads do not divide {channels} channels")
        # DenseGeneral initializes the flattened kernel: `self.param` would take 3 and heads for a receptive field.
        qkv = nn.DenseGeneral((3, self.heads, channels // self.heads), dtype=self.dtype, kernel_init=self.qkv_init,
                              name="qkv")(x)
        qkv = batched(qkv)  # [b, n, 3, heads, d]
        y = xla(qkv[..., 0, :, :], qkv[..., 1, :, :], qkv[..., 2, :, :], mask)
        return batched(nn.DenseGeneral(channels, axis=(-2, -1), dtype=self.dtype, kernel_init=self.out_init,
                                       name="out")(y))
