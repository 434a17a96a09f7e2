"""Dot-product attention with float32 logits and softmax, and self-attention with packed projections."""

import flax.linen as nn

from jaxdiff.layers.kernels import KERNELS, choose, cudnn, splash, xla
from jaxdiff.layers.norm import RMSNorm
from jaxdiff.layers.placement import batched
from jaxdiff.layers.position import rotate
from jaxdiff.protocols import Array

__all__ = ["CrossAttention", "KERNELS", "SelfAttention", "choose", "cudnn", "splash", "xla"]


class SelfAttention(nn.Module):
    """Self-attention over tokens, without norm or residual.

    Parameters are packed by head: `qkv/kernel` [c, 3, heads, c/heads] and `out/kernel` [heads, c/heads, c],
    so that a tensor-parallel rule cuts the axis of heads.

    Attributes:
      heads: their number; must divide the channels.
      qkv_init, out_init: initializers of the kernels; the output starts at zero by default.
      use_bias: give queries, keys and values a bias; the output has one always.
      bias_init, out_bias_init: of the biases.
      qk_norm: divide queries and keys by their root mean square, and scale them (`q_norm`, `k_norm`).
      kernel: `xla`, `splash` or `cudnn`, a key of `KERNELS`.
      dtype: what the projections compute in.
    """

    heads: int = 1
    qkv_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()
    out_init: nn.initializers.Initializer = nn.initializers.zeros
    use_bias: bool = True
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    out_bias_init: nn.initializers.Initializer = nn.initializers.zeros
    qk_norm: bool = False
    kernel: str = "xla"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, mask: Array | None = None, turns: Array | None = None) -> Array:
        """Returns [b, n, c] of tokens x [b, n, c]; mask as in `xla`, turns [n, c/heads/2] as in `rotate`.

        Raises:
          ValueError: the heads do not divide the channels.
        """
        channels = x.shape[-1]
        dim = _divided(channels, self.heads)
        # DenseGeneral initializes the flattened kernel: `self.param` would take 3 and heads for a receptive field.
        qkv = nn.DenseGeneral((3, self.heads, dim), use_bias=self.use_bias, dtype=self.dtype,
                              kernel_init=self.qkv_init, bias_init=self.bias_init, name="qkv")(x)
        qkv = batched(qkv)  # [b, n, 3, heads, d]
        q, k, v = (qkv[..., i, :, :] for i in range(3))
        if self.qk_norm:
            q, k = RMSNorm(name="q_norm")(q), RMSNorm(name="k_norm")(k)
        if turns is not None:
            q, k = rotate(q, turns), rotate(k, turns)
        y = KERNELS[self.kernel].attend(q, k, v, mask)
        return batched(nn.DenseGeneral(channels, axis=(-2, -1), dtype=self.dtype, kernel_init=self.out_init,
                                       bias_init=self.out_bias_init, name="out")(y))


class CrossAttention(nn.Module):
    """Attention of tokens to other tokens, without norm or residual; only the output has a bias.

    Packed by head as in `SelfAttention`: `q/kernel` [c, heads, c/heads], `kv/kernel` [c', 2, heads, c/heads] and
    `out/kernel` [heads, c/heads, c].

    Attributes:
      heads: their number; must divide the channels.
      q_init, kv_init, out_init, out_bias_init: initializers.
      kernel: `xla`, `splash` or `cudnn`, a key of `KERNELS`.
      dtype: what the projections compute in.
    """

    heads: int = 1
    q_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()
    kv_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()
    out_init: nn.initializers.Initializer = nn.initializers.zeros
    out_bias_init: nn.initializers.Initializer = nn.initializers.zeros
    kernel: str = "xla"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, context: Array, mask: Array | None = None) -> Array:
        """Returns [b, n, c] of tokens x [b, n, c] and context [b, m, c']; mask as in `xla`.

        Raises:
          ValueError: the heads do not divide the channels.
        """
        channels = x.shape[-1]
        dim = _divided(channels, self.heads)
        q = nn.DenseGeneral((self.heads, dim), use_bias=False, dtype=self.dtype, kernel_init=self.q_init, name="q")(x)
        kv = nn.DenseGeneral((2, self.heads, dim), use_bias=False, dtype=self.dtype, kernel_init=self.kv_init,
                             name="kv")(context)
        q, kv = batched(q), batched(kv)  # [b, n, heads, d], [b, m, 2, heads, d]
        y = KERNELS[self.kernel].attend(q, kv[..., 0, :, :], kv[..., 1, :, :], mask)
        return batched(nn.DenseGeneral(channels, axis=(-2, -1), dtype=self.dtype, kernel_init=self.out_init,
                                       bias_init=self.out_bias_init, name="out")(y))


def _divided(channels: int, heads: int) -> int:
    if channels % heads:
        raise ValueError(f"{heads} heads do not divide {channels} channels")
    return channels // heads
