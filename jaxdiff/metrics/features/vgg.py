"""VGG16: features of precision and recall as their paper, StyleGAN and torch-fidelity have them.

The second hidden layer, after its relu: [b, 4096], at 224x224.

Source: Simonyan & Zisserman 2015, configuration D; Kynkäänniemi et al. 2019 (precision and recall).
"""

import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdiff.metrics.features import preparation
from jaxdiff.metrics.features import weights as files
from jaxdiff.protocols import Array, Params, frozen

__all__ = ["VGG16", "converted", "forward", "shapes", "vgg16"]

SIZE = 224
CHANNELS, HIDDEN = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)), 4096
FILE = "vgg16-397923af.pth"
SOURCE = "https://download.pytorch.org/models/" + FILE
PROTOCOLS = ("tf1",)
HIGHEST = lax.Precision.HIGHEST


@frozen(leaves=("params",))
class VGG16:
    """The network with its weights; see `vgg16`.

    Attributes:
      params: `features.i` and `classifier.i` -> {kernel, bias}.
      name, protocol, sha256: what makes figures comparable.
    """

    params: Params
    name: str = "vgg16"
    protocol: str = "tf1"
    sha256: str = ""

    def outputs(self, images: Array) -> dict[str, Array]:
        """Returns `features` [b, 4096] of images [b, h, w, c] uint8."""
        dtype = self.params["classifier.0"]["kernel"].dtype
        x = preparation.resized(images, self.protocol, SIZE, name=self.name, dtype=dtype)
        return {"features": forward(self.params, preparation.standardised(x))}

    def __call__(self, images: Array) -> Array:
        """Returns fc2 after its relu [b, 4096] float32 of images [b, h, w, c] uint8."""
        return self.outputs(images)["features"]


def vgg16(*, weights: str | os.PathLike | None = None, protocol: str = "tf1", sha256: str | None = None) -> VGG16:
    """Makes the extractor of VGG16's second hidden layer.

    Args:
      weights: torchvision's file, or its folder; None for the folder `$JAXDIFF_WEIGHTS`.
      protocol: `tf1`, torch-fidelity's.
      sha256: what the file must hash to, or its first digits; None for what its published name says of it.

    Raises:
      ValueError: an unknown protocol; no such file; a file that is damaged or of another network.
    """
    preparation.checked(protocol, PROTOCOLS, "vgg16")
    held, found = files.opened(files.find(FILE, weights, source=SOURCE), sha256=sha256)
    arrays = files.arrays(held, shapes(), of="VGG16", ignored=r"classifier\.6\..*")  # the classes are not needed
    return VGG16(converted(arrays), protocol=protocol, sha256=found)


def _stages(channels: tuple[tuple[int, ...], ...]) -> list[list[tuple[str, int]]]:
    """Returns the names of the convolutions of each stage, and their channels; relu and pools are counted too."""
    at, stages = 0, []
    for stage in channels:
        stages.append([(f"features.{at + 2 * i}", out) for i, out in enumerate(stage)])
        at += 2 * len(stage) + 1
    return stages


def forward(params: Params, x: Array) -> Array:
    """Returns fc2 after its relu [b, 4096] of x [b, 224, 224, 3], standardised; the weights tell the widths."""
    for stage in _stages(CHANNELS):
        for name, _ in stage:
            x = lax.conv_general_dilated(x, params[name]["kernel"], (1, 1), "SAME", precision=HIGHEST,
                                         dimension_numbers=("NHWC", "HWIO", "NHWC"))
            x = jax.nn.relu(x + params[name]["bias"])
        x = lax.reduce_window(x, -np.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    x = x.reshape(len(x), -1)  # [b, 7*7*512], the channel last
    for name in ("classifier.0", "classifier.3"):
        x = jax.nn.relu(jnp.dot(x, params[name]["kernel"], precision=HIGHEST) + params[name]["bias"])
    return x


def shapes(channels: tuple[tuple[int, ...], ...] = CHANNELS, hidden: int = HIDDEN) -> dict[str, tuple[int, ...]]:
    """Returns name -> shape of torchvision's tensors, without the classes'; of other widths, for tests."""
    found: dict[str, tuple[int, ...]] = {}
    last = 3
    for name, out in (layer for stage in _stages(channels) for layer in stage):
        found |= {name + ".weight": (out, last, 3, 3), name + ".bias": (out,)}
        last = out
    side = SIZE >> len(channels)
    for name, size in (("classifier.0", last * side * side), ("classifier.3", hidden)):
        found |= {name + ".weight": (hidden, size), name + ".bias": (hidden,)}
    return found


def converted(arrays: Mapping[str, np.ndarray], dtype: Any = np.float32) -> Params:
    """Returns the parameters of `forward` of the arrays in `shapes`; the first dense layer sees the channel last."""
    params = {}
    for name in (key.removesuffix(".weight") for key in arrays if key.endswith(".weight")):
        weight = arrays[name + ".weight"]
        if name == "classifier.0":
            side = SIZE >> len(CHANNELS)
            weight = weight.reshape(len(weight), -1, side, side).transpose(0, 2, 3, 1).reshape(len(weight), -1)
        kernel = weight.transpose(2, 3, 1, 0) if weight.ndim == 4 else weight.T
        params[name] = {"kernel": np.ascontiguousarray(kernel, dtype), "bias": arrays[name + ".bias"].astype(dtype)}
    return params
