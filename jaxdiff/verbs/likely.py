"""How many bits a checkpoint spends on images that it has not seen."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxdiff import evaluate as evaluation
from jaxdiff import experiment, likelihood
from jaxdiff.denoiser import Denoiser
from jaxdiff.protocols import Array, Cond, Key
from jaxdiff.times import Times
from jaxdiff.verbs import against as comparing
from jaxdiff.verbs.drawing import Drawing, Keys, Preempted

__all__ = ["bits", "check"]


def check(source: Any, model: experiment.Model, n: int) -> None:
    """Raises ValueError where n images of a source have no bits/dim under a model."""
    if n < 2:
        raise ValueError(f"--bits must be at least 2 images, got {n}")
    if source is None:
        raise ValueError(f"--bits={n}: bits/dim are of images that were not trained on: config.held_out names them")
    if n > comparing.size(source):
        raise ValueError(f"--bits={n}: there are only {comparing.size(source):,} held-out images")
    shape, labels = evaluation.pictures.first(source)
    if shape != tuple(model.shape):
        raise ValueError(f"--bits={n}: bits/dim are of pixels; the model generates {list(model.shape)} and held-out "
                         f"images are {list(shape)}")
    if model.classes and not labels:
        raise ValueError(f"--bits={n}: the model is conditioned on classes, and held-out images have no label")


def bits(drawing: Drawing, source: Any, n: int, *, seed: int, beat: Callable = lambda: None,
         leaving: Callable[[], bool] = lambda: False) -> dict[str, float]:
    """Returns bits a dimension of the first n images of a source, on the cell's own grid, with the mean's error.

    The model sees k/127.5 - 1 of a byte k; a byte is spread uniformly over [k - 1/2, k + 1/2].

    Args:
      drawing: the checkpoint; its guidance is part of the model.
      source: held-out images, and their labels where the model has classes.
      n: images, at least 2.
      seed: of the bytes' spread and the probes.
      beat: is told of every batch.
      leaving: says after each whether to end here.

    Returns:
      `bits_per_dim` and its standard error `bits_per_dim_error`, and `bits_per_dim_nfe`, calls of the denoiser.

    Raises:
      Preempted: the machine is being taken away.
    """
    batch = comparing.fitting(min(drawing.generation.batch, n), drawing.mesh)
    lies = NamedSharding(drawing.mesh, P(("data", "fsdp")))
    everywhere = NamedSharding(drawing.mesh, P())

    def put(array: np.ndarray, sharding: NamedSharding = lies) -> jax.Array:
        return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)

    # the held-out images are one set for all seeds' rows, but their spread and probes are the seed's
    key = put(np.asarray(jax.random.key_data(Keys.of(seed).samples)), everywhere)
    found, nfe = [], 0.0
    for start in range(0, n, batch):
        rows = np.minimum(np.arange(start, start + batch), n - 1)
        columns = experiment.columns_of(source, rows.tolist())
        cond = None if drawing.cond_of is None else dict(drawing.cond_of(rows))
        if cond is not None and drawing.model.classes:
            cond["label"] = columns["label"].astype(np.int32)
        values, calls = _measured(drawing.denoiser, put(columns["image"]), put(rows), key, jax.tree.map(put, cond),
                                  times=drawing.generation.times, precision=drawing.generation.precision)
        held = multihost_utils.process_allgather(values, tiled=True) if jax.process_count() > 1 else values
        found.append(np.asarray(held, np.float64)[:n - start])
        nfe = float(np.mean(jax.device_get(calls)))
        beat()
        if leaving():
            raise Preempted
    every = np.concatenate(found)
    return {"bits_per_dim": float(every.mean()), "bits_per_dim_error": float(every.std(ddof=1) / math.sqrt(n)),
            "bits_per_dim_nfe": nfe}


def spread(pixel: Array) -> Array:
    """Returns what the model sees of k + u, u in [0, 1): k/127.5 - 1 in the middle."""
    return (pixel - 0.5) / 127.5 - 1


@functools.partial(jax.jit, static_argnames=("times", "precision"))
def _measured(denoiser: Denoiser, images: Array, rows: Array, key: Key, cond: Cond, *, times: Times,
              precision: str) -> tuple[Array, Array]:
    keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.wrap_key_data(key)))(rows)
    value, aux = likelihood.bits_per_dim(denoiser, images, times, keys, pixels=spread, cond=cond, precision=precision)
    return value, aux["nfe"]
