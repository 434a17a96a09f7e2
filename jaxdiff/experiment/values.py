"""A config's values: what may change, its form as JSON, and the parts that it names."""

import dataclasses
import json
from typing import Any

from ml_collections import ConfigDict

from jaxdiff import build as building
from jaxdiff import processes

__all__ = ["FREE", "as_json", "build", "from_json", "limits", "positive", "some"]

# What may change between two starts of one run: where it computes, how long, how often it tells, and how it is sampled.
FREE = ("mesh", "train_images", "log_every_steps", "picture_every_steps", "save_every_steps", "keep_checkpoints",
        "ema_snapshot_every_images", "tensorboard", "loader", "sampler", "times", "guidance", "sample", "evaluate",
        "held_out")


def build(spec: Any, home: Any, *given: Any, **named: Any) -> Any:
    """Builds a part of a config; see `jaxdiff.build.build`."""
    return building.build(spec.to_dict() if isinstance(spec, ConfigDict) else spec, home, *given, **named)


def some(config: ConfigDict, *names: str) -> dict[str, Any]:
    """Returns those of the optional values that a config has and that are set."""
    return {name: config[name] for name in names if name in config and config[name] is not None}


def limits(config: ConfigDict) -> processes.Limits:
    """Returns how long a run waits for what; a config's `limits` may name some of them.

    Raises:
      ValueError: an unknown limit, or one that is not above 0.
    """
    given = some(config, "limits")["limits"].to_dict() if some(config, "limits") else {}
    known = [field.name for field in dataclasses.fields(processes.Limits)]
    for name in given:
        if name not in known:
            raise ValueError(f"config.limits has no {name!r}{building.nearest(name, known)}")
    return processes.Limits(**given)


def positive(config: ConfigDict, *names: str) -> None:
    """Raises ValueError where one of these values is below 1."""
    for name in names:
        if config[name] < 1:
            raise ValueError(f"config.{name} must be at least 1, got {config[name]}")


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
