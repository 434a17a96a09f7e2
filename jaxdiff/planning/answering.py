"""The process that compiles: a config's train step or sampler, for devices that are not there."""

import json
import resource
import sys
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxdiff import experiment, plan, sample, train
from jaxdiff import mesh as meshes

__all__ = ["answer", "main"]


def main() -> None:
    """Reads a job from standard input and prints its answer as a line of JSON."""
    try:
        told = answer(json.load(sys.stdin))
    except (ValueError, OSError) as error:
        told = {"refused": str(error)}
    print(json.dumps(told))


def answer(job: Mapping[str, Any]) -> dict[str, Any]:
    """Builds all that a config describes, then compiles one of its programs.

    Args:
      job: see `planning.asking`.

    Returns:
      What `plan.measured` says, with the `mesh`, the peak of this process's memory `rss_gb`, and of a train step
      `macs` of one evaluation of the network for one example, `parameters` and the `table` of where they lie.

    Raises:
      ValueError: whatever is wrong with the config.
    """
    config = experiment.from_json(job["config"])
    with config.unlocked():
        if job["program"] == "train":
            config.batch = job["batch"]
        if job["slices"] > 1:
            config.mesh.slices = job["slices"]
    on = experiment.meshed(config, _devices(job))
    meshes.rows(on, config.batch)
    example = {name: jax.ShapeDtypeStruct((config.batch, *shape), np.dtype(kind))
               for name, (shape, kind) in job["example"].items()}
    model = experiment.model(config, example, platform=job["platform"])
    generation: Any = None if model.process is None else experiment.generation(config, model)
    state = model.shapes(on)
    if generation is not None:
        meshes.rows(on, generation.batch)
    traced = _step(model, state, on) if job["program"] == "train" else _drawing(model, generation, state, on)
    effort = {} if job["effort"] is None else {"exec_time_optimization_effort": job["effort"],
                                               "memory_fitting_effort": job["effort"]}
    told = plan.measured(traced, effort if job["platform"] == "tpu" else {}) | {"mesh": dict(on.shape)}
    told["rss_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    if job["program"] == "train":
        told |= {"macs": model.macs(), "parameters": train.count(state.params), "overview": meshes.overview(state),
                 "table": [[path, list(shape), spec, size] for path, shape, spec, size in meshes.table(state.params)]}
    return told


def _devices(job: Mapping[str, Any]) -> Any:
    """Returns the devices of a topology that need not exist; virtual ones of this CPU where there is no libtpu."""
    if job["platform"] == "cpu":
        return jax.devices()
    from jax.experimental import topologies

    options = {"num_slices": job["slices"]} if job["slices"] > 1 else {}
    if list(job["bounds"]) != [2, 2, 1]:
        options["chips_per_host_bounds"] = list(job["bounds"])
    return topologies.get_topology_desc(job["topology"], "tpu", **options).devices


def _step(model: experiment.Model, state: Any, on: Any) -> Any:
    rows, whole = meshes.batched(on), meshes.replicated(on)
    batch = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=rows) for name, leaf in model.example.items()}
    key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype, sharding=whole)
    with jax.set_mesh(on):
        step: Any = train.compiled(model.step(), state)
        return step.trace(state, batch, key)


def _drawing(model: experiment.Model, generation: experiment.Generation, state: Any, on: Any) -> Any:
    denoiser = generation.guided(model.objective.denoiser(state.ema[model.ema[0]]))
    cond = jax.eval_shape(model.prepare, model.example, jax.random.key(0), None)["cond"]
    return sample.traced(denoiser, generation.sampler, generation.times, shape=model.shape, batch=generation.batch,
                         cond=cond, mesh=on, precision=generation.precision)
