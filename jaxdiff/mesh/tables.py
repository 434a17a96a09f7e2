"""What lies where, as text: a line for each parameter, and what a device holds in all."""

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from jax.sharding import PartitionSpec as P

from jaxdiff.mesh.rules import path_of

__all__ = ["overview", "table"]


def table(params: Any) -> list[tuple[str, tuple[int, ...], str, int]]:
    """Returns (path, shape, spec, bytes per device) of every array, or shape, that has a sharding."""
    return [(path_of(path), leaf.shape, str(getattr(leaf.sharding, "spec", P())), _held(leaf))
            for path, leaf in jax.tree_util.tree_leaves_with_path(params)]


def _held(leaf: Any) -> int:
    return int(np.prod(leaf.sharding.shard_shape(leaf.shape), dtype=np.int64)) * leaf.dtype.itemsize


def overview(state: Any) -> str:
    """Returns the table of a state's parameters, and what parameters, averages and optimizer take.

    Args:
      state: with `params`, `ema` and `opt_state`, arrays or shapes that have shardings.
    """
    lines = [("parameter", "shape", "spec", "a device")]
    lines += [(path, " x ".join(map(str, shape)), _spec(spec), _size(held)) for path, shape, spec, held
              in table(state.params)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    names = ", ".join(state.ema)
    parts = {"parameters": state.params, f"averages ({names})": state.ema, "optimizer": state.opt_state}
    totals = [_total(name, jax.tree.leaves(tree)) for name, tree in parts.items()]
    return "\n".join([*rows, *totals, _total("in all", jax.tree.leaves(list(parts.values())))])


def _spec(text: str) -> str:
    axes = text[text.index("("):].replace("None", "-").replace("'", "")
    return "whole" if axes == "()" else axes


def _total(name: str, leaves: Iterable[Any]) -> str:
    leaves = list(leaves)
    whole = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    count = sum(leaf.size for leaf in leaves)
    return f"{name}: {count:,} numbers, {_size(whole)}, {_size(sum(map(_held, leaves)))} a device"


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.{0 if unit == 'B' else 1}f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"
