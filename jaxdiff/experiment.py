"""The only reader of a config: ConfigDict -> frozen values of built parts.

Everything that can be wrong with a config is found here, before anything compiles.
"""

import dataclasses
import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from jaxdiff import (
    data, denoiser, guidance, mesh, metrics, networks, objective, parameterization, process, sample, samplers, times,
    train,
)
from jaxdiff import build as building
from jaxdiff.build import nearest
from jaxdiff.data import pixels
from jaxdiff.layers import attention
from jaxdiff.protocols import Array, Cond, LearnedProcess, Objective

__all__ = [
    "FREE", "Generation", "Loader", "Model", "Scoring", "as_json", "conditions_of", "from_json", "generation", "loader",
    "meshed", "model", "scoring",
]

# What may change between two starts of one run: where it computes, how long, how often it tells, and how it is sampled.
FREE = ("mesh", "train_images", "log_every_steps", "picture_every_steps", "save_every_steps", "keep_checkpoints",
        "tensorboard", "sampler", "times", "guidance", "sample", "evaluate", "held_out")


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
    process: Any  # where it is learned, as it is before training
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


@dataclasses.dataclass(frozen=True)
class Generation:
    """How to sample."""

    sampler: Callable
    times: times.Times
    chain: tuple[tuple[str, Callable], ...]
    scale: float
    batch: int
    evaluations: int  # of the network in one call of the guided denoiser
    precision: str  # of matrix products

    def guided(self, plain: denoiser.Denoiser) -> denoiser.Denoiser:
        """Returns the denoiser under the config's guidance."""
        for _, transform in self.chain:
            plain = transform(plain)
        return plain


@dataclasses.dataclass(frozen=True)
class Scoring:
    """How to judge samples."""

    extractors: dict[str, Callable]
    classifier: Any
    num: int
    seed: int
    reference: np.ndarray
    held_out: np.ndarray | None


def meshed(config: ConfigDict) -> Any:
    """Returns the config's mesh over all devices."""
    return mesh.make_mesh(data=config.mesh.data, fsdp=config.mesh.fsdp, tensor=config.mesh.tensor)


def loader(config: ConfigDict, on: Any) -> Loader:
    """Opens the data.

    Raises:
      ValueError: data that are not there or broken, a batch that does not divide, labels out of range.
    """
    _positive(config, "batch")
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
    """Builds what is trained.

    Raises:
      ValueError: an unknown part or option, or parts that do not fit one another.
    """
    _check_scalars(config)
    network = build(config.network, networks)
    noise = _part(config.process, process, "log_alpha")
    kind = _part(config.parameterization, parameterization, "coefficients")
    classes = _classes(config)
    prepare = build(config.prepare, pixels)
    seen = jax.eval_shape(prepare, example, jax.random.key(0), None)
    null = _null(network, seen["cond"], classes)
    network = _with_kernel(network, config.objective, seen["cond"])
    loss = build(config.objective, objective, network, noise, kind, null=null)
    known = noise.bind(noise.init(jax.random.key(0))) if isinstance(noise, LearnedProcess) else noise
    made = Model(loss, _optimizer(config), prepare, known, tuple(config.ema), config.accumulate,
                 tuple(tuple(rule) for rule in config.mesh.rules), example, tuple(seen["x0"].shape[1:]), classes, null)
    abstract = train.shapes(loss, made.optimizer, example, ema=made.ema, prepare=prepare)
    del abstract  # traced for its errors: a network that does not fit the data says so now
    return made


def build(spec: Any, home: Any, *given: Any, **named: Any) -> Any:
    """Builds a part of a config; see `jaxdiff.build.build`."""
    return building.build(spec.to_dict() if isinstance(spec, ConfigDict) else spec, home, *given, **named)


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
    """The network with the attention kernel that this machine has and this objective can use."""
    if not hasattr(network, "kernel"):
        return network
    chosen = attention.choose(
        network.kernel, platform=jax.default_backend(), dtype=network.dtype,
        mask="keys" if cond and "mask" in cond else "none",
        jvp=getattr(building.resolve(loss.name, objective), "jvp", False))
    return network.clone(kernel=chosen)


def _classes(config: ConfigDict) -> int:
    return config.network.num_classes if "num_classes" in config.network else 0


def _optimizer(config: ConfigDict) -> optax.GradientTransformation:
    chosen = build(config.optimizer, optax)
    if not isinstance(chosen, optax.GradientTransformation):
        raise ValueError(f"optimizer {config.optimizer.name!r} still needs an option, such as 'learning_rate'")
    links = [] if config.clip_norm is None else [optax.clip_by_global_norm(config.clip_norm)]
    last = [train.project(config.project)] if "project" in config else []  # EDM2's forced weight normalization
    return train.held(optax.chain(*links, chosen, *last) if links or last else chosen)


def _positive(config: ConfigDict, *names: str) -> None:
    for name in names:
        if config[name] < 1:
            raise ValueError(f"config.{name} must be at least 1, got {config[name]}")


def _check_scalars(config: ConfigDict) -> None:
    _positive(config, "train_images", "accumulate", "max_skipped", "keep_checkpoints", "save_every_steps",
              "log_every_steps")
    if config.picture_every_steps < 0:
        raise ValueError(f"config.picture_every_steps must be 0 (never) or more, got {config.picture_every_steps}")
    if config.clip_norm is not None and not config.clip_norm > 0:
        raise ValueError(f"config.clip_norm must be > 0, got {config.clip_norm}")
    if config.batch % config.accumulate:
        raise ValueError(f"config.batch={config.batch} does not split into config.accumulate={config.accumulate} parts")


def generation(config: ConfigDict, made: Model, learned: Any = None) -> Generation:
    """Builds sampler, grid and guidance; guidance at scale 1 is left out, since it would cost and change nothing.

    Args:
      config: the run's.
      made: what it trains.
      learned: the process after training, where it is learned: grids follow its levels.

    Raises:
      ValueError: an unknown part or option, or guidance of a model without conditions.
    """
    grid = build(config.times, times, made.process if learned is None else learned)
    if not isinstance(grid, times.Times):
        raise ValueError(f"times {config.times.name!r} still needs an option, such as 'steps'")
    chain, scale = _chain(config.guidance, grid, made)
    if any(name == "cfg_plus_plus" for name, _ in chain) and config.sampler.name not in ("ddim", "euler"):
        raise ValueError(f"guidance 'cfg_plus_plus' is for 'ddim' and 'euler', got sampler {config.sampler.name!r}: "
                         "it is bound to steps of one call")
    for option in ("num", "batch"):
        if config.sample[option] < 1:
            raise ValueError(f"sampling needs a {option} of at least 1, got {config.sample[option]}")
    sampler = build(config.sampler, samplers)
    return Generation(sampler, grid, chain, scale, config.sample.batch, _evaluations(chain, sampler, grid, made),
                      _precision(config.sample.precision))


def _precision(given: str) -> str:
    if given not in sample.PRECISIONS:
        raise ValueError(f"config.sample.precision={given!r}{nearest(given, sample.PRECISIONS)}")
    return given


LIMITS = ("interval", "rescale")  # of the guidance before them: nothing without it


def _chain(config: ConfigDict, grid: times.Times, made: Model) -> tuple[tuple[tuple[str, Callable], ...], float]:
    """Returns the guidance in its order, without what does nothing, and the scale of the first part that has one."""
    chain, scales = [], []
    for name in config.chain:
        if name not in config:
            raise ValueError(f"config.guidance.chain names {name!r}, but config.guidance.{name} is not there"
                             f"{nearest(name, [key for key in config if key != 'chain'])}")
        options = config[name].to_dict()
        if "scale" in options:
            scales.append(options["scale"])
            if options["scale"] == 1:
                continue
        if name in LIMITS and scales and all(scale == 1 for scale in scales):
            continue
        wants = inspect.signature(building.resolve(name, guidance)).parameters
        if made.null is None and {"null", "away"} & set(wants):
            strength = f" scale {options['scale']}" if "scale" in options else f" {name!r}"
            raise ValueError(f"guidance{strength}: this model has no condition to be guided by")
        chain.append((name, build({"name": name, **options}, guidance, null=made.null, times=grid)))
    return tuple(chain), scales[0] if scales else 1.0


def _evaluations(chain: tuple[tuple[str, Callable], ...], sampler: Callable, grid: times.Times, made: Model) -> int:
    """How often the network is evaluated in a call of the guided denoiser, counted.

    The sampler is traced as well, for its errors: an option that it refuses is found now, not after training.
    """
    rows = []

    def counted(x: Array, t: Array, cond: Cond) -> Array:
        rows.append(x.shape[0])
        return x

    guided = denoiser.from_function(counted, made.process)
    for _, transform in chain:
        guided = transform(guided)
    key = jax.random.key(0)
    seen = jax.eval_shape(made.prepare, made.example, key, None)
    jax.eval_shape(guided, seen["x0"], jax.ShapeDtypeStruct((), "float32"), seen["cond"])
    evaluations = sum(rows) // seen["x0"].shape[0]
    jax.eval_shape(lambda x, cond: sampler(guided, x, grid, key, cond=cond), seen["x0"], seen["cond"])
    return evaluations


def scoring(config: ConfigDict) -> Scoring:
    """Builds what evaluation compares with.

    Raises:
      ValueError: unknown features, or data without images.
    """
    if config.evaluate.num < 2:
        raise ValueError(f"an evaluation needs --num of at least 2, got {config.evaluate.num}")
    extractors = {name: build(name, metrics.features) for name in config.evaluate.features}
    judge = None if config.evaluate.classifier is None else build(config.evaluate.classifier, metrics.features)
    held_out = None if config.held_out is None else _images(build(config.held_out, data))
    return Scoring(extractors, judge, config.evaluate.num, config.evaluate.seed, _images(build(config.data, data)),
                   held_out)


def _images(source: Any) -> np.ndarray:
    if isinstance(source, Mapping):
        return np.asarray(source["image"])
    return np.stack([source[i]["image"] for i in range(len(source))])


def as_json(config: ConfigDict) -> dict:
    """Returns a config as plain JSON values, with every derived value worked out."""
    return json.loads(config.to_json())


def from_json(values: dict) -> ConfigDict:
    """Returns the locked config of `as_json`'s values; sequences are tuples again."""
    return ConfigDict(_tuples(values), convert_dict=True).lock()


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(inner) for key, inner in value.items()}
    return tuple(_tuples(inner) for inner in value) if isinstance(value, list) else value


def conditions_of(labels: tuple[int, ...], made: Model,
                  given: Mapping[str, np.ndarray] | None = None) -> Callable[[Array], Cond] | None:
    """Returns `indices -> cond`: what is given in turn, all classes where no label is, and else what stands for none.

    Args:
      labels: classes to go through.
      made: the model.
      given: key of its condition -> rows to go through, such as texts.

    Raises:
      ValueError: a label out of range, or a condition that the model has not, or of another shape.
    """
    if labels and not made.classes:
        raise ValueError(f"--label={labels[0]}: this model was trained without classes")
    for label in labels:
        if not 0 <= label < made.classes:
            raise ValueError(f"--label={label} is out of range: this model has classes 0 to {made.classes - 1}")
    rows = {name: value[None] for name, value in (made.null or {}).items() if name != "label"}
    for name, value in (given or {}).items():
        if name not in rows or value.shape[1:] != rows[name].shape[1:]:
            known = ", ".join(f"{key} {list(row.shape[1:])}" for key, row in rows.items()) or "nothing but classes"
            raise ValueError(f"condition {name!r} of shape {list(value.shape[1:])}: this model reads {known}")
        rows[name] = value.astype(rows[name].dtype)
    if made.classes:
        rows["label"] = np.asarray(labels or range(made.classes), np.int32)
    return (lambda indices: {name: row[np.asarray(indices) % len(row)] for name, row in rows.items()}) if rows else None
