"""A discriminator of patches (Isola et al. 2017): a convolution's logit for each patch that it sees of an image.

Convolutions of 4x4 pixels halve the image `layers` times and widen, then two of stride 1 see 70 pixels (for 3 layers).
The published one normalizes over the batch, whose running statistics would be a state beside the parameters and whose
samples would not be judged each by itself; here the norm is over groups of channels of one image, or over each channel.
"""

import flax.linen as nn

from jaxdiff import layers
from jaxdiff.networks import choices
from jaxdiff.protocols import Array

__all__ = ["PatchDiscriminator"]

WIDEST = 8  # times the first width


class PatchDiscriminator(nn.Module):
    """Logits of how real the patches of an image are.

    Attributes:
      channels: width of the first layer; groups of norms are 32, or as many as the channels, and divide them.
      layers: convolutions that halve the image, >= 1; patches are of 16, 34, 70, 142 pixels for 1 to 4.
      norm: between the first and the last convolution `group`, `instance` (each channel apart) or `none`.
      dtype: what the convolutions compute in, `float32` or `bfloat16` (or `float64`); parameters, norms and logits are
        float32 in both.

    Raises:
      ValueError: a choice that is not listed above.

    Source: Isola et al. 2017 (arXiv:1611.07004), sec. 3.2 and appendix 6.1.2, which has a batch norm; Esser et al.
      2021 (VQGAN). Kernels start as N(0, 0.02²), biases at 0.
    """

    channels: int = 64
    layers: int = 3
    norm: str = "group"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        choices.check(self, {"dtype": layers.DTYPES, "norm": ("group", "instance", "none")})
        if self.layers < 1:
            raise ValueError(f"PatchDiscriminator halves the image at least once, got layers={self.layers}")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns logits [b, h/2^layers - 2, w/2^layers - 2] float32 of x [b, h, w, c], sizes rounded down.

        Raises:
          ValueError: images that are too small for one patch.
        """
        least = 3 * 2**self.layers
        if x.ndim != 4 or min(x.shape[1:3]) < least:
            raise ValueError(f"PatchDiscriminator with layers={self.layers} takes images [b, h, w, c] of {least} "
                             f"pixels or more, got {x.shape}")
        h = nn.leaky_relu(_conv(x, self.channels, "conv0", self.dtype, stride=2), 0.2)
        for i in range(1, self.layers + 1):
            stride = 2 if i < self.layers else 1
            h = _conv(h, self.channels * min(2**i, WIDEST), f"conv{i}", self.dtype, stride=stride,
                      bias=self.norm == "none")
            h = nn.leaky_relu(self._normalized(h, f"norm{i}"), 0.2)
        return _conv(layers.wide(h), 1, "out")[..., 0]

    def _normalized(self, h: Array, name: str) -> Array:
        if self.norm == "none":
            return h
        groups = h.shape[-1] if self.norm == "instance" else 32
        return layers.GroupNorm(groups, min_channels=1, eps=1e-5, name=name)(h)


def _conv(x: Array, channels: int, name: str, dtype: str | None = None, *, stride: int = 1, bias: bool = True) -> Array:
    conv = nn.Conv(channels, (4, 4), stride, padding=((1, 1), (1, 1)), use_bias=bias, dtype=dtype,
                   kernel_init=nn.initializers.normal(0.02), name=name)
    return layers.batched(conv(layers.batched(x)))
