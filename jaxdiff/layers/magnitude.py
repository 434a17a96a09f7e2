"""Pieces that keep the magnitude of what goes through them (Karras et al. 2024, EDM2, appendix B.2).

Where the inputs are uncorrelated and of unit mean square, so is the output:

    normalize   x/(eps + rms(x))
    mp_silu     silu(x)/0.596
    mp_sum      ((1 - t) a + t b)/√((1 - t)² + t²)
    mp_cat      √((n_a + n_b)/((1 - t)² + t²)) [(1 - t) a/√n_a, t b/√n_b]
    a layer     gain/√fan_in normalize(w) x, every output by weights of unit mean square; no bias

Weights are normalized when they are used, so that their own size is of no effect; left alone it would grow, and the
learning rate shrink with it: `jaxdiff.train.project` sets it back to one after every step.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdiff.layers.placement import batched
from jaxdiff.layers.precision import wide
from jaxdiff.protocols import Array

__all__ = ["MPConv", "MPDense", "mp_cat", "mp_silu", "mp_sum", "normalize"]


def normalize(x: Array, axes: int | tuple[int, ...] = -1, eps: float = 1e-4) -> Array:
    """Returns `x/(eps + rms(x))`, the root mean square over `axes` in float32, in the dtype of x.

    Source: EDM2, eq. 46-47.
    """
    y = wide(x)
    return (y / (eps + jnp.sqrt(jnp.square(y).mean(axes, keepdims=True)))).astype(x.dtype)


def mp_silu(x: Array) -> Array:
    """Returns `silu(x)/0.596`, of unit mean square for unit normals (EDM2, eq. 81)."""
    return nn.silu(x) / 0.596


def mp_sum(a: Array, b: Array, t: float) -> Array:
    """Returns `((1 - t) a + t b)/√((1 - t)² + t²)`, t in [0, 1] (EDM2, eq. 88)."""
    return ((1 - t) * a + t * b) / ((1 - t) ** 2 + t**2) ** 0.5


def mp_cat(a: Array, b: Array, t: float = 0.5) -> Array:
    """Returns [..., n_a + n_b], the two scaled so that b gives the share t of what follows, t in [0, 1] (eq. 103)."""
    scale = ((a.shape[-1] + b.shape[-1]) / ((1 - t) ** 2 + t**2)) ** 0.5
    return jnp.concatenate([scale * (1 - t) / a.shape[-1] ** 0.5 * a, scale * t / b.shape[-1] ** 0.5 * b], -1)


class MPDense(nn.Module):
    """A dense layer of parameter `weight` [*inputs, *features], which starts as N(0, 1) (EDM2, eq. 66).

    Attributes:
      features: shape of one output.
      inputs: number of the input's axes, from the last, that are summed over.
      dtype: what it computes in; None for that of x.
    """

    features: tuple[int, ...]
    inputs: int = 1
    dtype: str | None = None

    @nn.compact
    def __call__(self, x: Array, gain: Array | float = 1.0) -> Array:
        """Returns [b, ..., *features] of x [b, ..., *inputs], times `gain`."""
        shape = x.shape[-self.inputs:]
        weight = self.param("weight", nn.initializers.normal(1.0), shape + self.features)
        x = x.astype(self.dtype or x.dtype)
        return batched(jnp.tensordot(x, _used(weight, self.inputs, gain).astype(x.dtype), self.inputs))


class MPConv(nn.Module):
    """A convolution of parameter `weight` [size, size, c, features], which starts as N(0, 1) (EDM2, eq. 66).

    Attributes:
      features: channels of the output.
      size: of the kernel, odd; zeros lie beyond the border.
      dtype: what it computes in; None for that of x.
    """

    features: int
    size: int = 3
    dtype: str | None = None

    @nn.compact
    def __call__(self, x: Array, gain: Array | float = 1.0) -> Array:
        """Returns [b, h, w, features] of x [b, h, w, c], times `gain`."""
        weight = self.param("weight", nn.initializers.normal(1.0), (self.size, self.size, x.shape[-1], self.features))
        x = x.astype(self.dtype or x.dtype)
        kernel = _used(weight, 3, gain).astype(x.dtype)
        axes = ("NHWC", "HWIO", "NHWC")
        return batched(jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=axes))


def _used(weight: Array, inputs: int, gain: Array | float) -> Array:
    fan_in = weight[(..., *[0] * (weight.ndim - inputs))].size
    return normalize(wide(weight), tuple(range(inputs))) * (gain / fan_in**0.5)
