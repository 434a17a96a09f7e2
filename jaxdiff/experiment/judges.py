"""How to judge samples."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxdiff import data, metrics
from jaxdiff.experiment.values import build

__all__ = ["Scoring", "scoring"]


@dataclasses.dataclass(frozen=True)
class Scoring:
    """How to judge samples."""

    extractors: dict[str, Callable]
    classifier: Any
    num: int
    seed: int
    reference: np.ndarray
    held_out: np.ndarray | None


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
