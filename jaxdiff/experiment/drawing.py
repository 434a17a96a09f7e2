"""How to sample: sampler, grid, guidance, and what samples are conditioned on."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxdiff import build as building
from jaxdiff import denoiser, guidance, sample, samplers, times
from jaxdiff.build import nearest
from jaxdiff.experiment.models import Model
from jaxdiff.experiment.values import build
from jaxdiff.protocols import Array, Cond

__all__ = ["Generation", "conditions_of", "generation"]


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
