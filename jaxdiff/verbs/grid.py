"""The cells of an evaluation: checkpoints times every combination of settings."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from jaxdiff import checkpoint, experiment, overrides
from jaxdiff.build import nearest

__all__ = ["chosen", "settings"]


def settings(config: ConfigDict, axes: Mapping[str, Sequence[Any] | None], seeds: int = 1) -> list[ConfigDict]:
    """Returns a config for every combination.

    Args:
      config: the run's.
      axes: dotted key -> values; None or nothing for the config's own.
      seeds: how many, from the config's own on.

    Raises:
      ValueError: an unknown key, or a value of the wrong kind; fewer seeds than 1.
    """
    if seeds < 1:
        raise ValueError(f"--seeds must be at least 1, got {seeds}")
    first = config.evaluate.seed
    grid = {key: values for key, values in axes.items() if values}
    grid["evaluate.seed"] = range(first, first + seeds)
    return [overrides.apply(config, [(key, repr(value)) for key, value in zip(grid, cell, strict=True)])
            for cell in itertools.product(*grid.values())]


def chosen(workdir: Any, which: Sequence[Any], config: ConfigDict) -> list[int]:
    """Returns the steps of a run's checkpoints.

    Args:
      workdir: the run's folder.
      which: ("all",), ("last",), ("best",) by what `config.keep_best` names, or steps.
      config: the run's.

    Raises:
      ValueError: no checkpoint, or not these; no metric to be best by.
    """
    there = checkpoint.steps_in(workdir)
    if not there:
        raise ValueError(f"no checkpoint in {workdir}/checkpoints; train first, or name another --workdir")
    if which == ("all",):
        return there
    if which == ("last",):
        return there[-1:]
    if which == ("best",):
        return [_best(workdir, there, config)]
    missing = [step for step in which if step not in there]
    if missing:
        raise ValueError(f"--checkpoints: no checkpoint {missing[0]} in {workdir}"
                         f"{nearest(str(missing[0]), map(str, there))}")
    return list(which)


def _best(workdir: Any, there: Sequence[int], config: ConfigDict) -> int:
    """Returns the step whose metric, as its checkpoint keeps it, is best."""
    wanted = experiment.some(config, "keep_best")
    name = wanted["keep_best"].metric if wanted else None
    if name is None:
        raise ValueError("--checkpoints=best: config.keep_best.metric names no metric to be best by; name steps")
    found = {step: checkpoint.told(workdir, step)["metrics"] for step in there}
    told = {step: metrics[name] for step, metrics in found.items() if name in metrics}
    if not told:
        raise ValueError(f"--checkpoints=best: no checkpoint in {workdir} keeps {name!r}; name steps")
    return (min if config.keep_best.mode == "min" else max)(told, key=lambda step: told[step])
