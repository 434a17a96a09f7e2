"""What a batch of a config looks like, whether or not its data are there."""

import inspect
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxdiff import data
from jaxdiff.build import resolve
from jaxdiff.experiment.models import loader
from jaxdiff.experiment.values import build, some

__all__ = ["expected"]


def expected(config: ConfigDict, image: Sequence[int] | None = None,
             conditions: Mapping[str, Sequence[int]] | None = None) -> tuple[dict[str, jax.ShapeDtypeStruct], str]:
    """Returns the shapes of a global batch, and where they are from.

    Data that can be opened are asked.  Of others the config may know the shape (`size` or `shape` of the source), and
    else it is asked for.

    Args:
      config: the run's.
      image: (h, w, c) of an image, or of what an autoencoder makes of it; data are then not opened.
      conditions: shapes of other conditions than classes, of one example.

    Raises:
      ValueError: an unknown source, or shapes that nobody knows.
    """
    options = inspect.signature(resolve(config.data.name, data)).parameters
    if image is None:
        try:
            build(config.data, data)
        except (ValueError, OSError) as error:
            if not {"name", *options} >= set(config.data):
                raise  # an option that the source has not is no lack of data
            absent = error
        else:
            return loader(config, None).example, "the data"
        image = _known(config)
        if image is None:
            raise ValueError(f"{absent}; or say --image=H,W,C, of what the network sees") from absent
    return _batch(config, tuple(image), conditions or {}), "the config and the command"


def _known(config: ConfigDict) -> tuple[int, ...] | None:
    """Returns the shape that the config says its images have."""
    told = some(config.data, "shape", "size")
    if "shape" in told:
        return tuple(told["shape"])
    return (told["size"], told["size"], 3) if "size" in told else None


def _batch(config: ConfigDict, image: tuple[int, ...],
           conditions: Mapping[str, Sequence[int]]) -> dict[str, jax.ShapeDtypeStruct]:
    if len(image) != 3 or min(image) < 1:
        raise ValueError(f"--image must be three numbers above 0, H,W,C, got {','.join(map(str, image))}")
    height, width, channels = image
    rows: dict[str, tuple[tuple[int, ...], str]] = {"image": (image, "uint8")}
    if config.prepare.name == "latents":
        rows = {"moments": ((height, width, 2 * channels), "float16")}
    if "num_classes" in config.network and config.network.num_classes:
        rows["label"] = (), "int32"
    asked = config.prepare.conditions if "conditions" in config.prepare else ()
    for name in asked:
        if name != "label" and name not in conditions:
            raise ValueError(f"what shape has the condition {name!r} of one example? Say --condition={name}=N,M")
    rows |= {name: (tuple(shape), "bool" if "mask" in name else "float16") for name, shape in conditions.items()}
    return {name: jax.ShapeDtypeStruct((config.batch, *shape), np.dtype(kind)) for name, (shape, kind) in rows.items()}
