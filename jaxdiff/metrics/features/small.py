"""Extractors that need nothing but this package: pixels, and the classifier of 8x8 digits."""

import jax
import jax.numpy as jnp

from jaxdiff import foreign
from jaxdiff.metrics import convnet
from jaxdiff.protocols import Array, Params, frozen

__all__ = ["digits", "pixels"]


@frozen()
class Pixels:
    """The pixels themselves, mapped to [-1, 1]; see `pixels`."""

    name: str = "pixels"
    protocol: str = "signed"
    sha256: str = ""

    def outputs(self, images: Array) -> dict[str, Array]:
        """Returns `features` [b, h*w*c] float32 of images [b, h, w, c] uint8, and the `images`."""
        return {"features": _scaled(images, self.name).reshape(len(images), -1), "images": images}

    def __call__(self, images: Array) -> Array:
        """Returns [b, h*w*c] float32 of images [b, h, w, c] uint8."""
        return self.outputs(images)["features"]


@frozen(leaves=("params",))
class Digits:
    """The classifier of 8x8 digits; see `digits`."""

    params: Params
    name: str = "digits"
    protocol: str = "signed"
    sha256: str = ""

    def outputs(self, images: Array) -> dict[str, Array]:
        """Returns `features` [b, 64], the last hidden layer, and `logits` [b, 10], float32, of [b, 8, 8, 1] uint8."""
        if images.shape[1:] != convnet.SHAPE:
            raise ValueError(f"features {self.name!r} are of images [b, 8, 8, 1], got {images.shape}")
        features, logits = _apply(self.params, _scaled(images, self.name))
        return {"features": features, "logits": logits}

    def __call__(self, images: Array) -> Array:
        """Returns the last hidden layer [b, 64] float32 of images [b, 8, 8, 1] uint8."""
        return self.outputs(images)["features"]

    def logits(self, images: Array) -> Array:
        """Returns [b, 10] float32, whose softmax is the probability of each digit."""
        return self.outputs(images)["logits"]

    def classify(self, images: Array) -> Array:
        """Returns the likeliest digit [b] int32, 0 to 9."""
        return self.logits(images).argmax(-1).astype(jnp.int32)


def pixels() -> Pixels:
    """Makes the extractor of pixels, images/127.5 - 1.

    A Fréchet distance between pixels is in the squared units of the range [-1, 1], summed over
    pixels.  It sees second moments only: noise of the data's covariance is at distance 0.
    """
    return Pixels()


def digits() -> Digits:
    """Makes the extractor of 8x8 digits: the penultimate layer of a classifier that comes with the package.

    Returns:
      An extractor that also has `logits(images) -> [b, 10]` and `classify(images) -> [b]`.

    Raises:
      ValueError: its weights are missing or damaged.
    """
    return Digits(convnet.load()[0], sha256=foreign.sha256(convnet.WEIGHTS))


@jax.jit
def _apply(params: Params, x: Array) -> tuple[Array, Array]:
    return convnet.Convnet().apply({"params": params}, x)


def _scaled(images: Array, name: str) -> Array:
    if images.dtype != jnp.uint8 or images.ndim != 4:
        raise ValueError(f"features {name!r} are of uint8 images [b, h, w, c], got {images.dtype} {images.shape}")
    return jnp.asarray(images, jnp.float32) / 127.5 - 1
