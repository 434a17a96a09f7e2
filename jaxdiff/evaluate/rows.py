"""Result rows: one JSON line a cell of the grid, with everything its figures depend on."""

import hashlib
import json
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxdiff import workdir as workdirs
from jaxdiff.evaluate.sides import Side

__all__ = ["Needs", "append", "finished", "identity", "key_of", "measured", "needs"]

RENAMED = {"fid": "fd", "sfid": "sfd", "fid_infinity": "fd_infinity"}


def identity(what: Mapping[str, Any]) -> str:
    """Returns 16 hexadecimal digits that stand for what a cell is: the same for equal values."""
    text = json.dumps(what, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def finished(path: Any) -> dict[str, dict]:
    """Returns the rows that stand in a file of results, by the cell they are of; the last of each counts."""
    return {row["cell"]: row for row in workdirs.rows(path) if "cell" in row}


def append(path: Any, row: Mapping[str, Any]) -> dict:
    """Appends a row, with the time, to a file of JSON lines; returns it."""
    row = {**row, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    workdirs.append(path, row)
    return row


def key_of(metric: str, extractor: str) -> str:
    """Returns a figure's name in a row.

    Inception's figures bear the names of the papers; those of other features bear theirs too, and a Fréchet distance
    of other features is never called FID: `fd_dinov2`, `kid_dinov2`.
    """
    if extractor == "inception":
        return metric
    name, colon, value = metric.partition(":")  # of a class
    return f"{RENAMED[name] if name in RENAMED else name}_{extractor}{colon}{value}"


class Needs(NamedTuple):
    """What a criterion reads; a user's own that says nothing reads features, of both sides."""

    outputs: tuple[str, ...] = ("features",)  # of an extractor
    rows: bool = True  # the reference's arrays, where moments are not enough
    held_out: bool = False  # a third side
    alone: bool = False  # not the reference


def needs(criterion: Any) -> Needs:
    """Returns what a criterion reads."""
    return getattr(getattr(criterion, "part", criterion), "needs", Needs())


def measured(criteria: Mapping[str, Any], made: Side, real: Side, extractor: str, *,
             held_out: Side | None = None) -> dict[str, float]:
    """Returns the figures of one extractor, by their names in a row.

    Args:
      criteria: name -> `(made, real) -> {name: figure}`, from `jaxdiff.evaluate.criteria`; those that read what the
        extractor has not are passed over.
      made: the samples.
      real: the reference.
      extractor: its name.
      held_out: real images that were not trained on.

    Raises:
      ValueError: a criterion needs what a side has not.
    """
    figures: dict[str, float] = {}
    for name, criterion in criteria.items():
        read = needs(criterion)
        if not set(read.outputs) <= set(made.arrays):
            continue
        if read.held_out and held_out is None:
            raise ValueError(f"{name} compares with images that were not trained on, and there are none: "
                             "config.held_out names them")
        sides = (made, real, held_out) if read.held_out else (made, real)
        figures |= {key_of(key, extractor): float(value) for key, value in criterion(*sides).items()}
    return figures
