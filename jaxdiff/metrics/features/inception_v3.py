"""The Inception-v3 of FID, with 1,008 classes: not the one that is published for ImageNet.

It differs from that in its average pools, which divide by the pixels that are there; in a max pool in its last block;
in its BatchNorm's eps, 1e-3; and in its weights.  Outputs:

    features  [b, 2048]  pool_3, the mean over the last 8x8 places: FID, KID
    spatial   [b, 2023]  the first 7 channels of Mixed_6d.branch1x1 at 17x17 places, the channel last: sFID
    logits    [b, 1008]  without the bias, as the Inception score has them

Source: Szegedy et al. 2015, "Rethinking the Inception Architecture"; Heusel et al. 2017 (FID); Nash et al. 2021 (sFID).
"""

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdiff.metrics.features import preparation
from jaxdiff.metrics.features import weights as files
from jaxdiff.protocols import Array, Params, frozen

__all__ = ["Inception", "folded", "forward", "inception", "shapes"]

SIZE, CLASSES, WIDTH = 299, 1008, 2048
EPS = 1e-3
TAP, CHANNELS = "Mixed_6d.branch1x1", 7  # of sFID
NAMES = ("pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth",
         "inception_v3_weights_fid.pickle")
SOURCE = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/" + NAMES[0]
PROTOCOLS = ("tf1", "half_pixel", "legacy_pytorch", "clean")

Conv = Callable[..., Array]  # (name, x, channels, kernel (h, w), stride=1, pad=(0, 0)) -> relu(bn(conv(x)))
HIGHEST = lax.Precision.HIGHEST


@frozen(leaves=("params",))
class Inception:
    """The network with its weights; see `inception`.

    Attributes:
      params: name -> kernel [h, w, in, out] and bias [out], BatchNorm folded in; `fc` [2048, 1008].
      name, protocol, sha256: what makes figures comparable.
    """

    params: Params
    name: str = "inception"
    protocol: str = "tf1"
    sha256: str = ""

    def outputs(self, images: Array) -> dict[str, Array]:
        """Returns `features` [b, 2048], `spatial` [b, 2023] and `logits` [b, 1008] of images [b, h, w, c] uint8."""
        dtype = self.params["fc"].dtype
        x = preparation.resized(images, self.protocol, SIZE, name=self.name, dtype=dtype)
        features, seen = forward(_conv(self.params), preparation.signed(x, self.protocol))
        return {"features": features, "spatial": seen[TAP][..., :CHANNELS].reshape(len(x), -1),
                "logits": jnp.dot(features, self.params["fc"], precision=HIGHEST)}

    def __call__(self, images: Array) -> Array:
        """Returns pool_3 [b, 2048] float32 of images [b, h, w, c] uint8."""
        return self.outputs(images)["features"]


def inception(*, weights: str | os.PathLike | None = None, protocol: str = "tf1",
              sha256: str | None = None) -> Inception:
    """Makes the extractor of FID, KID, sFID and the Inception score.

    Args:
      weights: the published file (pytorch-fid's, torch-fidelity's or jax-fid's), or its folder; None for the folder
        `$JAXDIFF_WEIGHTS`.
      protocol: `tf1` (TTUR, ADM, EDM, torch-fidelity), `half_pixel` (pytorch-fid), `clean` or `legacy_pytorch`
        (clean-fid): FIDs of two of them are not comparable.
      sha256: what the file must hash to, or its first digits; None for what its published name says of it.

    Raises:
      ValueError: an unknown protocol; no such file; a file that is damaged or of another network.
    """
    preparation.checked(protocol, PROTOCOLS, "inception")
    held, found = files.opened(files.find(NAMES, weights, source=SOURCE), sha256=sha256)
    arrays = files.arrays(_in_torch_layout(files.flattened(held, "FID's Inception")), shapes(), of="FID's Inception",
                          ignored=r".*\.num_batches_tracked")
    return Inception(folded(arrays), protocol=protocol, sha256=found)


def _in_torch_layout(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns jax-fid's arrays as torch names and lays them; others as they are."""
    if "fc.kernel" not in arrays:
        return arrays
    renamed = {"conv.kernel": "conv.weight", "fc.kernel": "fc.weight", "bn.scale": "bn.weight",
               "bn.mean": "bn.running_mean", "bn.var": "bn.running_var"}
    made = {}
    for name, array in arrays.items():
        two = ".".join(name.split(".")[-2:])
        stem, end = name.removesuffix(two), renamed.get(two, two)
        made[stem + end] = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
    return made


def _conv(params: Params) -> Conv:
    def conv(name: str, x: Array, channels: int, kernel: tuple[int, int] = (1, 1), stride: int = 1,
             pad: tuple[int, int] = (0, 0)) -> Array:
        layer = params[name]
        if kernel == (1, 1):
            x = jnp.einsum("bhwi,io->bhwo", x, layer["kernel"][0, 0], precision=HIGHEST)
        elif pad == (0, 0):
            x = lax.platform_dependent(x, layer["kernel"], cpu=functools.partial(_edged, stride=stride),
                                       default=functools.partial(_product, stride=stride, pad=((0, 0), (0, 0))))
        else:
            x = _product(x, layer["kernel"], stride=stride, pad=tuple((p, p) for p in pad))
        return jax.nn.relu(x + layer["bias"])

    return conv


def _product(x: Array, kernel: Array, *, stride: int, pad: tuple[tuple[int, int], ...]) -> Array:
    return lax.conv_general_dilated(x, kernel, (stride, stride), pad, dimension_numbers=("NHWC", "HWIO", "NHWC"),
                                    precision=HIGHEST)


def _edged(x: Array, kernel: Array, *, stride: int) -> Array:
    """The same without padding, up to four times as fast: XLA for CPUs has two kernels; the slow one is taken there."""
    height = (x.shape[1] - kernel.shape[0]) // stride + 1
    return _product(x, kernel, stride=stride, pad=((0, 1), (0, 0)))[:, :height]


def forward(conv: Conv, x: Array) -> tuple[Array, dict[str, Array]]:
    """Returns pool_3 [b, 2048], and the output of every convolution, of x [b, 299, 299, 3] in -1..1."""
    seen: dict[str, Array] = {}

    def layer(name: str, x: Array, *how: Any, **more: Any) -> Array:
        seen[name] = conv(name, x, *how, **more)
        return seen[name]

    x = layer("Conv2d_1a_3x3", x, 32, (3, 3), stride=2)
    x = layer("Conv2d_2a_3x3", x, 32, (3, 3))
    x = layer("Conv2d_2b_3x3", x, 64, (3, 3), pad=(1, 1))
    x = peak(x)
    x = layer("Conv2d_3b_1x1", x, 80)
    x = layer("Conv2d_4a_3x3", x, 192, (3, 3))
    x = peak(x)
    for name, channels in (("Mixed_5b.", 32), ("Mixed_5c.", 64), ("Mixed_5d.", 64)):
        x = _block_35(layer, name, x, channels)
    x = _reduction_17(layer, "Mixed_6a.", x)
    for name, channels in (("Mixed_6b.", 128), ("Mixed_6c.", 160), ("Mixed_6d.", 160), ("Mixed_6e.", 192)):
        x = _block_17(layer, name, x, channels)
    x = _reduction_8(layer, "Mixed_7a.", x)
    x = _block_8(layer, "Mixed_7b.", x, average)
    x = _block_8(layer, "Mixed_7c.", x, lambda x: peak(x, stride=1, pad=1))
    return x.mean((1, 2)), seen


def _block_35(conv: Conv, at: str, x: Array, channels: int) -> Array:
    wide = conv(at + "branch5x5_1", x, 48)
    wide = conv(at + "branch5x5_2", wide, 64, (5, 5), pad=(2, 2))
    double = conv(at + "branch3x3dbl_1", x, 64)
    for i in "23":
        double = conv(at + "branch3x3dbl_" + i, double, 96, (3, 3), pad=(1, 1))
    pooled = conv(at + "branch_pool", average(x), channels)
    return jnp.concatenate([conv(at + "branch1x1", x, 64), wide, double, pooled], -1)


def _reduction_17(conv: Conv, at: str, x: Array) -> Array:
    single = conv(at + "branch3x3", x, 384, (3, 3), stride=2)
    double = conv(at + "branch3x3dbl_1", x, 64)
    double = conv(at + "branch3x3dbl_2", double, 96, (3, 3), pad=(1, 1))
    double = conv(at + "branch3x3dbl_3", double, 96, (3, 3), stride=2)
    return jnp.concatenate([single, double, peak(x)], -1)


def _block_17(conv: Conv, at: str, x: Array, channels: int) -> Array:
    flat, tall = dict(kernel=(1, 7), pad=(0, 3)), dict(kernel=(7, 1), pad=(3, 0))
    single = conv(at + "branch7x7_1", x, channels)
    single = conv(at + "branch7x7_2", single, channels, **flat)
    single = conv(at + "branch7x7_3", single, 192, **tall)
    double = conv(at + "branch7x7dbl_1", x, channels)
    double = conv(at + "branch7x7dbl_2", double, channels, **tall)
    double = conv(at + "branch7x7dbl_3", double, channels, **flat)
    double = conv(at + "branch7x7dbl_4", double, channels, **tall)
    double = conv(at + "branch7x7dbl_5", double, 192, **flat)
    pooled = conv(at + "branch_pool", average(x), 192)
    return jnp.concatenate([conv(at + "branch1x1", x, 192), single, double, pooled], -1)


def _reduction_8(conv: Conv, at: str, x: Array) -> Array:
    single = conv(at + "branch3x3_1", x, 192)
    single = conv(at + "branch3x3_2", single, 320, (3, 3), stride=2)
    separate = conv(at + "branch7x7x3_1", x, 192)
    separate = conv(at + "branch7x7x3_2", separate, 192, (1, 7), pad=(0, 3))
    separate = conv(at + "branch7x7x3_3", separate, 192, (7, 1), pad=(3, 0))
    separate = conv(at + "branch7x7x3_4", separate, 192, (3, 3), stride=2)
    return jnp.concatenate([single, separate, peak(x)], -1)


def _block_8(conv: Conv, at: str, x: Array, pool: Callable[[Array], Array]) -> Array:
    def forked(name: str, x: Array) -> list[Array]:
        return [conv(name + "a", x, 384, (1, 3), pad=(0, 1)), conv(name + "b", x, 384, (3, 1), pad=(1, 0))]

    single = forked(at + "branch3x3_2", conv(at + "branch3x3_1", x, 384))
    double = conv(at + "branch3x3dbl_2", conv(at + "branch3x3dbl_1", x, 448), 384, (3, 3), pad=(1, 1))
    doubles = forked(at + "branch3x3dbl_3", double)
    pooled = conv(at + "branch_pool", pool(x), 192)
    return jnp.concatenate([conv(at + "branch1x1", x, 320), *single, *doubles, pooled], -1)


def peak(x: Array, *, stride: int = 2, pad: int = 0) -> Array:
    """Returns the largest of each 3x3 window."""
    edges = ((0, 0), (pad, pad), (pad, pad), (0, 0))
    return lax.reduce_window(x, -np.inf, lax.max, (1, 3, 3, 1), (1, stride, stride, 1), edges)


def average(x: Array) -> Array:
    """Returns the mean of each 3x3 window's real pixels: at an edge of 6 of them, at a corner of 4."""
    height, width = x.shape[1:3]
    sums = lax.reduce_window(x, 0.0, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")
    count = [np.convolve(np.ones(side), np.ones(3), "same") for side in (height, width)]
    return sums / jnp.asarray(np.outer(*count)[..., None], x.dtype)


def shapes() -> dict[str, tuple[int, ...]]:
    """Returns name -> shape of the 472 tensors of the published file, in torch's layout."""
    found: dict[str, tuple[int, ...]] = {}

    def conv(name: str, x: Array, channels: int, kernel: tuple[int, int] = (1, 1), stride: int = 1,
             pad: tuple[int, int] = (0, 0)) -> Array:
        found[f"{name}.conv.weight"] = (channels, x.shape[-1], *kernel)
        found.update({f"{name}.bn.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")})
        height, width = ((side + 2 * p - k) // stride + 1 for side, p, k in zip(x.shape[1:3], pad, kernel, strict=True))
        return jnp.zeros((len(x), height, width, channels), x.dtype)

    jax.eval_shape(lambda x: forward(conv, x)[0], jnp.zeros((1, SIZE, SIZE, 3)))
    return {**found, "fc.weight": (CLASSES, WIDTH), "fc.bias": (CLASSES,)}


def folded(arrays: Mapping[str, np.ndarray], dtype: Any = np.float32) -> Params:
    """Returns the network's parameters of the tensors in `shapes`; BatchNorm is folded in, in float64.

    `relu(gamma (conv(x) - mean)/√(var + eps) + beta)` is one convolution with a bias.
    """
    params: dict[str, Any] = {}
    for key in arrays:
        if key.endswith(".conv.weight"):
            name = key.removesuffix(".conv.weight")
            of = lambda part, name=name: arrays[f"{name}.bn.{part}"].astype(np.float64)
            scale = of("weight") / np.sqrt(of("running_var") + EPS)
            kernel = np.transpose(arrays[key].astype(np.float64) * scale[:, None, None, None], (2, 3, 1, 0))
            bias = of("bias") - of("running_mean") * scale
            params[name] = {"kernel": np.ascontiguousarray(kernel, dtype), "bias": bias.astype(dtype)}
    return {**params, "fc": np.ascontiguousarray(arrays["fc.weight"].T.astype(dtype))}
