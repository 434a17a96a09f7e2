"""The small convolutional network that judges 8x8 digits, and the weights shipped with it.

`benchmarks/digits_classifier.py` trains it and writes the weights; how well they do is in the file.
"""

import functools
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxdiff.protocols import Array, Params

__all__ = ["SHAPE", "WEIGHTS", "Convnet", "load"]

SHAPE = (8, 8, 1)
WEIGHTS = Path(__file__).with_name("digits_classifier.npz")
ABOUT = "about/"  # before the names of what is told of the weights


class Convnet(nn.Module):
    """Three convolutions and two dense layers, 72,000 parameters.

    Precision is the highest everywhere: a judge gives the same verdict on every device.

    Attributes:
      classes: number of classes.
      width: of the features.
    """

    classes: int = 10
    width: int = 64

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Returns features [b, width] and logits [b, classes] of images [b, 8, 8, 1] in [-1, 1]."""
        for channels, stride in ((32, 1), (64, 2), (64, 2)):
            x = nn.silu(nn.Conv(channels, (3, 3), stride, precision="highest")(x))  # [b, 8 | 4 | 2, ..., channels]
        x = x.reshape(len(x), -1)  # [b, 256]
        features = nn.silu(nn.Dense(self.width, precision="highest")(x))
        return features, nn.Dense(self.classes, precision="highest")(features)


@functools.cache
def load(path: Path = WEIGHTS) -> tuple[Params, dict[str, int]]:
    """Reads the classifier's weights, once.

    Args:
      path: an `.npz` file, whose arrays bear the names of `Convnet`'s parameters; no pickles.

    Returns:
      The parameters, numpy float32, and what the file tells of them: `seed`, and how many images of
      each split they classify rightly (`train_correct` of `train`, `test_correct` of `test`).

    Raises:
      ValueError: the file is missing, damaged or of another network.
    """
    remedy = "put back jaxdiff/metrics/digits_classifier.npz, or run `python -m benchmarks.digits_classifier`"
    if not path.exists():
        raise ValueError(f"the weights of the digits classifier are not at {path}: {remedy}")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except Exception as error:  # a damaged archive raises whatever its first wrong byte leads to
        raise ValueError(f"{path} is damaged ({error}): {remedy}") from error
    about = {name.removeprefix(ABOUT): int(arrays.pop(name)) for name in list(arrays) if name.startswith(ABOUT)}
    shapes = jax.eval_shape(Convnet().init, jax.random.key(0), jnp.zeros((1, *SHAPE)))["params"]
    wanted = {name: leaf.shape for name, leaf in flatten_dict(shapes, sep="/").items()}
    if {name: array.shape for name, array in arrays.items()} != wanted:
        raise ValueError(f"{path} holds the weights of another network: {remedy}")
    return unflatten_dict({name: array.astype(np.float32) for name, array in arrays.items()}, sep="/"), about
