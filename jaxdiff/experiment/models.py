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
from jaxdiff import data, flops, mesh, networks, objective, parameterization, process, train
from jaxdiff.data import prepare as preparing
from jaxdiff.experiment.values import build, positive, some
from jaxdiff.layers import attention
from jaxdiff.protocols import Cond, LearnedProcess, Objective

__all__ = ["Loader", "Model", "loader", "meshed", "model", "snapshot_steps"]

MESH = ("data", "fsdp", "tensor", "rules", "slices", "zero")  # of these, the last two may be missing


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
    zero: bool = False  # averages and moments are cut over data as well

    def shapes(self, on: Any) -> train.State:
        """Returns the state's shapes, sharded over a mesh."""
        return train.shapes(self.objective, self.optimizer, self.example, mesh=on, rules=self.rules, zero=self.zero,
                            ema=self.ema, prepare=self.prepare)

    def init(self, key: jax.Array, on: Any) -> train.State:
        """Returns the state before the first step, sharded over a mesh."""
        return train.init(self.objective, self.optimizer, self.example, key, mesh=on, rules=self.rules, zero=self.zero,
                          ema=self.ema, prepare=self.prepare)

    def macs(self) -> int | None:
        """Returns the multiply-adds of one evaluation of the network for one example; None of an autoencoder."""
        if self.process is None:
            return None
        prepared = jax.eval_shape(self.prepare, self.example, jax.random.key(0), None)
        one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype), prepared)
        params = self.objective.denoiser(self.shapes(None).params).args[-1]
        network: Any = getattr(self.objective, "network", None)  # a user's objective may have none
        if network is None:
            return None
        return flops.count(network.apply, params, one["x0"], jax.ShapeDtypeStruct((1,), np.float32),
                           one["cond"])

    def step(self) -> Callable:
        """Returns the training step."""
        return train.make_step(self.objective, self.optimizer, ema=self.ema, prepare=self.prepare,
                               accumulate=self.accumulate)


def meshed(config: ConfigDict, devices: Any = None) -> Any:
    """Returns the config's mesh over all devices, or those given.

    Raises:
      ValueError: an unknown option, or sizes that do not fit the devices.
    """
    for name in config.mesh:
        if name not in MESH:
            raise ValueError(f"config.mesh has no {name!r}{building.nearest(name, MESH)}")
    if some(config.mesh, "zero") and not isinstance(config.mesh.zero, bool):
        raise ValueError(f"config.mesh.zero must be True or False, got {config.mesh.zero!r}")
    return mesh.make_mesh(data=config.mesh.data, fsdp=config.mesh.fsdp, tensor=config.mesh.tensor,
                          devices=devices, **some(config.mesh, "slices"))


def loader(config: ConfigDict, on: Any) -> Loader:
    """Opens the data.

    Args:
      config: the run's.
      on: the mesh whose rows this process loads; None for all rows.

    Raises:
      ValueError: data that are not there or broken, a batch that does not divide, labels out of range.
    """
    positive(config, "batch")
    rows = None if on is None else mesh.rows(on, config.batch)
    source = build(config.data, data)
    first = {name: np.asarray(value[0]) for name, value in source.items()} if isinstance(source, Mapping) else source[0]
    example = {name: jax.ShapeDtypeStruct((config.batch, *np.shape(value)), np.asarray(value).dtype)
               for name, value in first.items()}
    _check_labels(source, _classes(config))
    reading = _reading(config.loader.to_dict()) if "loader" in config else {}
    marks = {"data": config.data.name, **data.fingerprint(source, seed=config.seed, batch=config.batch)}
    batches = data.batches(source, batch=config.batch, seed=config.seed, rows=rows, **reading)
    return Loader(source, batches, marks, example)


def _reading(options: dict[str, Any]) -> dict[str, Any]:
    """Checks `config.loader`: `threads` that read ahead, in each of so many `workers`."""
    for name in options:
        if name not in ("threads", "workers"):
            raise ValueError(f"config.loader has no {name!r}{building.nearest(name, ('threads', 'workers'))}")
    return {name: value for name, value in options.items() if value is not None}


def _check_labels(source: Any, classes: int) -> None:
    if not classes or not isinstance(source, Mapping) or "label" not in source:
        return
    highest = int(np.max(source["label"]))
    if highest >= classes or int(np.min(source["label"])) < 0:
        raise ValueError(f"the data have label {highest}, the network has classes 0 to {classes - 1}; "
                         f"set --config.network.num_classes={highest + 1}")


def model(config: ConfigDict, example: dict[str, jax.ShapeDtypeStruct], *, platform: str | None = None) -> Model:
    """Builds what is trained; a config without a process is of an autoencoder, from which nothing is drawn.

    Args:
      config: the run's.
      example: shapes of a global batch.
      platform: where it will run, `cpu`, `gpu` or `tpu`; this machine's by default.

    Raises:
      ValueError: an unknown part or option, or parts that do not fit one another.
    """
    _check_scalars(config)
    network = build(config.network, networks)
    classes = _classes(config)
    prepare = build(config.prepare, preparing)
    seen = jax.eval_shape(prepare, example, jax.random.key(0), None)
    null = _null(network, seen["cond"], classes)
    network = _with_kernel(network, config.objective, seen["cond"], platform or jax.default_backend())
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
                 tuple(tuple(rule) for rule in config.mesh.rules), example, tuple(seen["x0"].shape[1:]), classes, null,
                 **some(config.mesh, "zero"))
    abstract = train.shapes(loss, made.optimizer, example, ema=made.ema, prepare=prepare)
    del abstract  # traced for its errors: a network that does not fit the data says so now
    snapshot_steps(config)  # for its errors too
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
    shown = set(cond or ()) - {objective.matching.AUGMENT}  # of which an image can be told, and not guided by
    if not shown or ("label" in shown and not (classes and getattr(network, "null_class", True))):
        return None  # OpenAI's ADM has no "no class"
    null = {name: np.zeros(leaf.shape[1:], leaf.dtype) for name, leaf in (cond or {}).items()}
    return null | ({"label": np.int32(classes)} if "label" in shown else {})


def _with_kernel(network: Any, loss: ConfigDict, cond: Cond, platform: str) -> Any:
    """The network, and those inside it, with the attention kernel that a platform has and this objective can use."""
    fields = {} if not isinstance(network, nn.Module) else {
        field.name: getattr(network, field.name) for field in dataclasses.fields(network) if field.name != "parent"}
    changed = {name: _with_kernel(value, loss, cond, platform) for name, value in fields.items()
               if isinstance(value, nn.Module)}
    if "kernel" in fields:
        changed["kernel"] = attention.choose(
            network.kernel, platform=platform, dtype=network.dtype,
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


def snapshot_steps(config: ConfigDict) -> int | None:
    """Returns after how many steps a snapshot of the power averages is due; None for never.

    Raises:
      ValueError: less than a batch, or no power average to keep.
    """
    given = some(config, "ema_snapshot_every_images")
    if not given:
        return None
    images = config.ema_snapshot_every_images
    if images < config.batch:
        raise ValueError(f"config.ema_snapshot_every_images must be at least config.batch={config.batch}, got {images}")
    if not any(train.averages.length_of(name) for name in config.ema):
        raise ValueError("config.ema_snapshot_every_images keeps power averages, and config.ema has none; EDM2 has "
                         "config.ema=('power_0.05', 'power_0.1')")
    return images // config.batch


def _check_scalars(config: ConfigDict) -> None:
    positive(config, "train_images", "accumulate", "max_skipped", "keep_checkpoints", "save_every_steps",
              "log_every_steps")
    if config.picture_every_steps < 0:
        raise ValueError(f"config.picture_every_steps must be 0 (never) or more, got {config.picture_every_steps}")
    if config.clip_norm is not None and not config.clip_norm > 0:
        raise ValueError(f"config.clip_norm must be > 0, got {config.clip_norm}")
    if config.batch % config.accumulate:
        raise ValueError(f"config.batch={config.batch} does not split into config.accumulate={config.accumulate} parts")
