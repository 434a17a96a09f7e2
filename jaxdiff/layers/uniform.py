"""Dense layers and convolutions that start as PyTorch's do, kernel and bias U(-1/√fan_in, 1/√fan_in).

ADM and Stable Diffusion were trained from there; their last layers start at zero.
"""

import flax.linen as nn
import jax

from jaxdiff.layers.placement import batched
from jaxdiff.protocols import Array

__all__ = ["fan_in_uniform", "uniform_conv", "uniform_dense"]


def fan_in_uniform(fan_in: int) -> nn.initializers.Initializer:
    """Returns the initializer U(-1/√fan_in, 1/√fan_in), of standard deviation 1/√(3 fan_in).

    Source: `torch.nn.Linear.reset_parameters`; Karras et al. 2022 (EDM), `DhariwalUNet`.
    """
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -(fan_in**-0.5), fan_in**-0.5)


def uniform_dense(x: Array, channels: int, name: str, *, dtype: str | None = None, zero: bool = False,
                  use_bias: bool = True) -> Array:
    """Returns a dense layer of x [..., c] as [..., channels]; call it in a module's compact method.

    Args:
      x: [..., c].
      channels: of the output.
      name: of the layer.
      dtype: what it computes in; None for that of x.
      zero: start at zero.
      use_bias: add a bias.
    """
    init = nn.initializers.zeros if zero else fan_in_uniform(x.shape[-1])
    return nn.Dense(channels, use_bias=use_bias, dtype=dtype, kernel_init=init, bias_init=init, name=name)(x)


def uniform_conv(x: Array, channels: int, size: int, name: str, *, stride: int = 1, dtype: str | None = None,
                 zero: bool = False) -> Array:
    """Returns a convolution of x [b, h, w, c] as [b, h/stride, w/stride, channels]; call it in a compact method.

    Args:
      x: [b, h, w, c].
      channels: of the output.
      size: of the kernel, odd; size // 2 zeros lie beyond every border, as in PyTorch ("SAME" has fewer for stride 2).
      name: of the layer.
      stride: 1 or 2.
      dtype: what it computes in; None for that of x.
      zero: start at zero.
    """
    init = nn.initializers.zeros if zero else fan_in_uniform(size**2 * x.shape[-1])
    pad = (size // 2,) * 2
    conv = nn.Conv(channels, (size, size), stride, padding=(pad, pad), dtype=dtype, kernel_init=init, bias_init=init,
                   name=name)
    return batched(conv(batched(x)))
