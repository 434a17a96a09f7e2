"""How to judge samples: extractors, criteria, and what there is to compare with."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxdiff import build as building
from jaxdiff import data, evaluate, metrics
from jaxdiff.experiment.values import as_json, build, some

__all__ = ["Scoring", "columns_of", "criteria_of", "extractors_of", "scoring"]

DEFAULT = ("fid",)
COLUMNS = ("image", "label")


@dataclasses.dataclass(frozen=True)
class Scoring:
    """How to judge samples."""

    extractors: dict[str, Any]  # by name
    criteria: dict[str, Callable]
    compared: tuple[str, ...]  # those by which sides are compared
    classifier: str | None  # the one that is to see the class asked for
    num: int
    seed: int
    equal: bool  # as many images on each side, whatever there are
    source: Any  # of the reference's images; None where they are not there
    data: dict  # the part of the config that it was made of
    held_out: Any

    @property
    def outputs(self) -> tuple[str, ...]:
        """What is kept of the extractors' outputs."""
        wanted = [output for criterion in self.criteria.values() for output in evaluate.needs(criterion).outputs]
        return tuple(sorted({"features", *wanted, *(("logits",) if self.classifier else ())} - {"label"}))

    def given(self, shape: tuple[int, ...], *, labels: bool) -> dict[str, set[str]]:
        """Finds out, before anything is drawn, what each extractor gives, and whether criteria read only that.

        Args:
          shape: of an image [h, w, c].
          labels: whether samples have some.

        Returns:
          Names of outputs, of the extractors that are compared.

        Raises:
          ValueError: images that an extractor refuses; a criterion that reads what none of them gives, or held-out
            images where there are none.
        """
        images = jax.ShapeDtypeStruct((2, *shape), np.uint8)
        given = {name: set(jax.eval_shape(evaluate.outputs_of, extract, images)) | ({"label"} if labels else set())
                 for name, extract in self.extractors.items() if name in self.compared}
        for name, criterion in self.criteria.items():
            read = evaluate.needs(criterion)
            wanted = set(read.outputs)
            if read.held_out and self.held_out is None:
                raise ValueError(f"--metrics={name} compares with images that were not trained on, and there are none: "
                                 "config.held_out names them")
            if not any(wanted <= outputs for outputs in given.values()):
                told = "; ".join(f"{one} has {', '.join(sorted(outputs))}" for one, outputs in given.items())
                raise ValueError(f"--metrics={name} reads {', '.join(sorted(wanted))}, which none of the features "
                                 f"gives: {told}")
        return given


def scoring(config: ConfigDict, *, features: Sequence[str] = (), criteria: Sequence[str] = (),
            weights: str | None = None, protocol: str | None = None, reads: bool = True) -> Scoring:
    """Builds what judges, and opens what it compares with.

    Args:
      config: a run's.
      features, criteria: in place of the config's.
      weights, protocol: of the extractors that have some.
      reads: whether the run's own data are the reference, rather than a file.

    Raises:
      ValueError: unknown features or criteria, weights or data that are not there.
    """
    if config.evaluate.num < 2:
        raise ValueError(f"an evaluation needs --num of at least 2, got {config.evaluate.num}")
    judge = config.evaluate.classifier
    extractors = extractors_of(features or config.evaluate.features, weights=weights, protocol=protocol)
    compared = tuple(extractors)
    extractors |= {} if judge is None or name_of(judge) in compared else extractors_of([judge], weights=weights)
    chosen = criteria or (config.evaluate.metrics if some(config.evaluate, "metrics") else DEFAULT)
    source = build(config.data, data) if reads else None
    held_out = None if config.held_out is None or not reads else build(config.held_out, data)
    for each in (source, held_out):
        if each is not None:
            evaluate.pictures.first(each)
    equal = bool(some(config.evaluate, "equal") and config.evaluate.equal)
    return Scoring(extractors, criteria_of(chosen), compared, None if judge is None else name_of(judge),
                   config.evaluate.num, config.evaluate.seed, equal, source, as_json(config.data), held_out)


def name_of(spec: Any) -> str:
    """Returns the name of a part."""
    return spec if isinstance(spec, str) else spec["name"]


def extractors_of(specs: Sequence[Any], *, weights: str | None = None, protocol: str | None = None) -> dict[str, Any]:
    """Returns extractors by their names in a row.

    Raises:
      ValueError: an unknown one, or one without its weights.
    """
    made: dict[str, Any] = {}
    for spec in dict.fromkeys(map(_hashable, specs)):
        part = {"name": spec} if isinstance(spec, str) else dict(spec)
        takes = _options(part["name"])
        for option, value in (("weights", weights), ("protocol", protocol)):
            if value is not None and option in takes:
                part[option] = value
        extract = build(part, metrics.features)
        if isinstance(extract, building.Bound):
            raise ValueError(f"features {part['name']!r} still need {', '.join(map(repr, extract.missing()))}")
        made[getattr(extract, "name", None) or part["name"].rpartition(":")[2]] = extract
    theirs = {evaluate.marks(extract)["protocol"] for extract in made.values()}
    if protocol is not None and protocol not in theirs:
        raise ValueError(f"--protocol={protocol}: the features {', '.join(made)} have no choice of protocols")
    return made


def _hashable(spec: Any) -> Any:
    return spec if isinstance(spec, str) else tuple(sorted(dict(spec).items()))


def _options(name: str) -> tuple[str, ...]:
    return tuple(inspect.signature(building.resolve(name, metrics.features)).parameters)


def criteria_of(specs: Sequence[Any]) -> dict[str, Callable]:
    """Returns criteria by name.

    Raises:
      ValueError: an unknown one, or an unknown option.
    """
    return {name_of(spec): build(dict(spec) if isinstance(spec, Mapping) else spec, evaluate.criteria)
            for spec in specs}


def columns_of(source: Any, rows: Sequence[int]) -> dict[str, np.ndarray]:
    """Returns `image` [n, h, w, c] of some rows of a source, and `label` [n] where it has labels."""
    if isinstance(source, Mapping):
        return {name: np.asarray(source[name])[np.asarray(rows)] for name in COLUMNS if name in source}
    examples = [source[int(i)] for i in rows]
    return {name: np.stack([example[name] for example in examples]) for name in COLUMNS if name in examples[0]}
