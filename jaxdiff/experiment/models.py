"""Data and what is trained on them."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from jaxdiff import build as building
from jaxdiff import data, mesh, networks, objective, parameterization, process, train
from jaxdiff.data import pixels
from jaxdiff.experiment.values import build, positive
from jaxdiff.layers import attention
from jaxdiff.protocols import Cond, LearnedProcess, Objective

__all__ = ["Loader", "Model", "loader", "meshed", "model"]


@dataclasses.dataclass(frozen=True)
class Loader:
    """Data, ready to be read."""

    source: Any
    batches: Callable
    fingerprint: dict
    example: dict[str, jax.ShapeDtypeStruct]  # of the global batch


@dataclasses.dataclass(frozen=True)
class Model:
    """What is trained, and how; needs no data."""

    objective: Objective
    optimizer: optax.GradientTransformation
    prepare: Callable
    process: Any  # where it is learned, as it is before training; None of an autoencoder
    ema: tuple[str, ...]
    accumulate: int
    rules: tuple
    example: dict[str, jax.ShapeDtypeStruct]
    shape: tuple[int, ...]  # of one sample
    classes: int  # 0 where there are none
    null: Cond

    def shapes(self, on: Any) -> train.State:
        """Returns the state's shapes, sharded over a mesh."""
        return train.shapes(self.objective, self.optimizer, self.example, mesh=on, rules=self.rules, ema=self.ema,
                            prepare=self.prepare)

    def init(self, key: jax.Array, on: Any) -> train.State:
        """Returns the state before the first step, sharded over a mesh."""
        return train.init(self.objective, self.optimizer, self.example, key, mesh=on, rules=self.rules, ema=self.ema,
                          prepare=self.prepare)

    def step(self) -> Callable:
        """Returns the training step."""
        return train.make_step(self.objective, self.optimizer, ema=self.ema, prepare=self.prepare,
                               accumulate=self.accumulate)


def meshed(config: ConfigDict) -> Any:
    """Returns the config's mesh over all devices."""
    return mesh.make_mesh(data=config.mesh.data, fsdp=config.mesh.fsdp, tensor=config.mesh.tensor)


def loader(config: ConfigDict, on: Any) -> Loader:
    """Opens the data.

    Raises:
      ValueError: data that are not there or broken, a batch that does not divide, labels out of range.
    """
    positive(config, "batch")
    rows = mesh.rows(on, config.batch)
    source = build(config.data, data)
    first = {name: np.asarray(value[0]) for name, value in source.items()} if isinstance(source, Mapping) else source[0]
    example = {name: jax.ShapeDtypeStruct((config.batch, *np.shape(value)), np.asarray(value).dtype)
               for name, value in first.items()}
    _check_labels(source, _classes(config))
    return Loader(source, data.batches(source, batch=config.batch, seed=config.seed, rows=rows),
                  data.fingerprint(source, seed=config.seed, batch=config.batch), example)


def _check_labels(source: Any, classes: int) -> None:
    if not classes or not isinstance(source, Mapping) or "label" not in source:
        return
    highest = int(np.max(source["label"]))
    if highest >= classes or int(np.min(source["label"])) < 0:
        raise ValueError(f"the data have label {highest}, the network has classes 0 to {classes - 1}; "
                         f"set --config.network.num_classes={highest + 1}")


def model(config: ConfigDict, example: dict[str, jax.ShapeDtypeStruct]) -> Model:
    """Builds what is trained; a config without a process is of an autoencoder, from which nothing is drawn.

    Raises:
      ValueError: an unknown part or option, or parts that do not fit one another.
    """
    _check_scalars(config)
    network = build(config.network, networks)
    classes = _classes(config)
    prepare = build(config.prepare, pixels)
    seen = jax.eval_shape(prepare, example, jax.random.key(0), None)
    null = _null(network, seen["cond"], classes)
    network = _with_kernel(network, config.objective, seen["cond"])
    if "process" in config:
        noise = _part(config.process, process, "log_alpha")
        kind = _part(config.parameterization, parameterization, "coefficients")
        loss = build(config.objective, objective, network, noise, kind, null=null)
        known = noise.bind(noise.init(jax.random.key(0))) if isinstance(noise, LearnedProcess) else noise
    else:
        loss, known = build(config.objective, objective, network), None
    if isinstance(loss, building.Bound):
        raise ValueError(f"objective {config.objective.name!r} still needs {', '.join(map(repr, loss.missing()))}")
    made = Model(loss, _optimizer(config), prepare, known, tuple(config.ema), config.accumulate,
                 tuple(tuple(rule) for rule in config.mesh.rules), example, tuple(seen["x0"].shape[1:]), classes, null)
    abstract = train.shapes(loss, made.optimizer, example, ema=made.ema, prepare=prepare)
    del abstract  # traced for its errors: a network that does not fit the data says so now
    return made


def _part(spec: ConfigDict, home: Any, attribute: str) -> Any:
    part = build(spec, home)
    if isinstance(part, building.Bound):
        raise ValueError(f"{spec['name']!r} still needs {', '.join(map(repr, part.missing()))}")
    if not hasattr(part, attribute):
        slot = home.__name__.rpartition(".")[2]
        raise ValueError(f"{spec['name']!r} is not a {slot}: it has no {attribute!r}")
    return part


def _null(network: Any, cond: Cond, classes: int) -> Cond:
    """What stands for no condition: class `classes`, and of all else zeros, a mask's False among them."""
    if not cond or ("label" in cond and not (classes and getattr(network, "null_class", True))):
        return None  # OpenAI's ADM has no "no class"
    null = {name: np.zeros(leaf.shape[1:], leaf.dtype) for name, leaf in cond.items()}
    return null | ({"label": np.int32(classes)} if "label" in cond else {})


def _with_kernel(network: Any, loss: ConfigDict, cond: Cond) -> Any:
    """The network, and those inside it, with the attention kernel that this machine has and this objective can use."""
    fields = {} if not isinstance(network, nn.Module) else {
        field.name: getattr(network, field.name) for field in dataclasses.fields(network) if field.name != "parent"}
    changed = {name: _with_kernel(value, loss, cond) for name, value in fields.items() if isinstance(value, nn.Module)}
    if "kernel" in fields:
        changed["kernel"] = attention.choose(
            network.kernel, platform=jax.default_backend(), dtype=network.dtype,
            mask="keys" if cond and {"mask", "token_mask"} & set(cond) else "none",
            jvp=getattr(building.resolve(loss.name, objective), "jvp", False))
    return network.clone(**changed) if changed else network


def _classes(config: ConfigDict) -> int:
    return config.network.num_classes if "num_classes" in config.network else 0


def _optimizer(config: ConfigDict) -> optax.GradientTransformation:
    chosen = build(config.optimizer, optax)
    if not isinstance(chosen, optax.GradientTransformation):
        raise ValueError(f"optimizer {config.optimizer.name!r} still needs an option, such as 'learning_rate'")
    links = [] if config.clip_norm is None else [optax.clip_by_global_norm(config.clip_norm)]
    last = [train.project(config.project)] if "project" in config else []  # EDM2's forced weight normalization
    return train.held(optax.chain(*links, chosen, *last) if links or last else chosen)


def _check_scalars(config: ConfigDict) -> None:
    positive(config, "train_images", "accumulate", "max_skipped", "keep_checkpoints", "save_every_steps",
              "log_every_steps")
    if config.picture_every_steps < 0:
        raise ValueError(f"config.picture_every_steps must be 0 (never) or more, got {config.picture_every_steps}")
    if config.clip_norm is not None and not config.clip_norm > 0:
        raise ValueError(f"config.clip_norm must be > 0, got {config.clip_norm}")
    if config.batch % config.accumulate:
        raise ValueError(f"config.batch={config.batch} does not split into config.accumulate={config.accumulate} parts")
