"""The pictures that a run draws while it trains."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxdiff import experiment, networks
from jaxdiff import mesh as meshes
from jaxdiff import sample as sampling
from jaxdiff import train as training
from jaxdiff.data import pixels
from jaxdiff.verbs.drawing import Keys, decoder, preview

__all__ = ["painter", "reconstruction"]


def painter(run: Any, generation: experiment.Generation, beat: Callable) -> Callable[[training.State], np.ndarray]:
    """Returns what draws 64 samples of the first average, whose denoiser is an argument: one compile for all."""
    cond_of = experiment.conditions_of((), run.model)
    batch = -(-64 // run.mesh.size) * run.mesh.size
    then, given = decoder(run.config, run.model)

    def draw(state: training.State) -> np.ndarray:
        plain = run.model.objective.denoiser(state.ema[run.model.ema[0]], state.frozen)
        return sampling.generate(generation.guided(plain), generation.sampler, generation.times,
                                 Keys.of(run.config.seed).pictures, num=64, shape=run.model.shape, batch=batch,
                                 cond_of=cond_of, then=then or preview, given=given, mesh=run.mesh,
                                 precision=generation.precision, beat=beat)

    return draw


def reconstruction(run: Any) -> Callable[[training.State], np.ndarray]:
    """Returns what draws 32 images of the run's data, each beside what its autoencoder makes of it."""
    model = run.model
    batches = dataclasses.replace(run.loader.batches, rows=tuple(range(min(32, run.config.batch))))  # on every process
    x = np.asarray(model.prepare(next(batches(0)), jax.random.key(0), None)["x0"])
    generator = experiment.build(run.config.network, networks)
    reconstruct = jax.jit(lambda params, x: generator.apply(params, x)[0], out_shardings=meshes.replicated(run.mesh))

    def draw(state: training.State) -> np.ndarray:
        y = reconstruct(state.ema[model.ema[0]]["generator"], x)
        both = np.stack([x, y], 1).reshape(-1, *x.shape[1:])  # in turn
        return np.asarray(pixels.to_uint8(both))

    return draw
