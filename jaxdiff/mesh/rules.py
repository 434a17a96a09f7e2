"""Shardings by path: of parameters by rules, of what an optimizer keeps beside each, and of copies cut further."""

import difflib
import re
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxdiff.build import nearest
from jaxdiff.mesh.devices import AXES
from jaxdiff.mesh.placement import replicated

__all__ = ["follow", "path_of", "specs", "spread"]


def path_of(path: Any) -> str:
    """Returns the path of a leaf as rules see it, `params/blocks/qkv/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def specs(mesh: Mesh, params: Any, rules: tuple, stacks: Any = None) -> Any:
    """Returns the sharding of every parameter: the first rule whose pattern is found in its path.

    Args:
      mesh: the mesh.
      params: arrays or shapes.
      rules: `((pattern, spec), ...)`, spec a tuple of axis names, None, or tuples of names.
      stacks: like `params`, True where axis 0 counts the blocks of a scan, which runs on every device and may not be
        cut; None where no parameter is such a stack.

    Raises:
      ValueError: a rule that decides no parameter, names no axis of the mesh, does not divide a shape or cuts a stack.
    """
    stacks = jax.tree.map(lambda leaf: False, params) if stacks is None else stacks
    used = set()

    def decide(path: Any, leaf: Any, stacked: bool) -> NamedSharding:
        name = path_of(path)
        for number, (pattern, spec) in enumerate(rules):
            if _found(pattern, name):
                used.add(number)
                _check(mesh, name, leaf.shape, spec, stacked)
                return NamedSharding(mesh, P(*spec))
        return replicated(mesh)

    made = jax.tree_util.tree_map_with_path(decide, params, stacks)
    for number, (pattern, _) in enumerate(rules):
        if number not in used:
            names = [path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
            raise ValueError(f"sharding rule {pattern!r} decides no parameter{_instead(pattern, names)}")
    return made


def _found(pattern: str, name: str) -> bool:
    try:
        return re.search(pattern, name) is not None
    except re.error as error:
        raise ValueError(f"sharding rule {pattern!r} is no regular expression: {error}") from None


def _instead(pattern: str, names: list[str]) -> str:
    """Returns why a rule is idle, or what it may have meant."""
    taken = [name for name in names if _found(pattern, name)]
    if taken:
        return f": a rule before it decides {taken[0]}; the first match counts"
    tails = {tail for name in names for tail in _tails(name)}
    close = difflib.get_close_matches(re.sub(r"\.[*+?]", "", pattern), tails, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; paths are such as {', '.join(names[:3])}"


def _tails(name: str) -> Iterator[str]:
    parts = name.split("/")
    return ("/".join(parts[start:]) for start in range(len(parts)))


def _check(mesh: Mesh, name: str, shape: tuple[int, ...], spec: Any, stacked: bool) -> None:
    """Raises what is wrong with a rule's spec for a parameter."""
    if isinstance(spec, str):
        raise ValueError(f"sharding rule {spec!r} of {name}: a spec is a tuple, such as (None, {spec!r})")
    rule = f"sharding rule {tuple(spec)}"
    if len(spec) > len(shape):
        raise ValueError(f"{rule} has more axes than {name} {shape}")
    named = [axis for entry in spec for axis in _axes(entry)]
    for axis in named:
        if axis not in mesh.shape:
            raise ValueError(f"{rule} of {name}: no axis {axis!r}{nearest(str(axis), AXES)}")
        if named.count(axis) > 1:
            raise ValueError(f"{rule} of {name} names {axis!r} twice; a mesh's axis cuts one axis of an array")
    if stacked and spec and _axes(spec[0]):
        raise ValueError(f"{rule} of {name} {shape}: axis 0 is a stack of {shape[0]} scanned blocks, which every "
                         "device runs in turn; cut another axis")
    for size, entry in zip(shape, spec, strict=False):
        parts = _parts(mesh, entry)
        if size % parts:
            fits = [axis for axis, other in enumerate(shape) if other % parts == 0 and not (stacked and axis == 0)]
            hint = f"axis {' or '.join(map(str, fits))} does" if fits else "no axis does"
            raise ValueError(f"{rule}: {size} of {name} {shape} does not divide over {parts} devices; {hint}")


def _axes(entry: Any) -> tuple:
    """Returns the axes of the mesh that one entry of a spec names."""
    return () if entry is None else tuple(entry) if isinstance(entry, tuple | list) else (entry,)


def _parts(mesh: Mesh, entry: Any) -> int:
    return int(np.prod([mesh.shape[axis] for axis in _axes(entry)]))


def spread(mesh: Mesh, params: Any, lies: Any, stacks: Any = None) -> Any:
    """Returns the shardings of copies of the parameters, cut over data as well.

    The longest axis that `lies` leaves whole and that divides is cut; where there is none, or where data is used
    already, the copy lies as the parameter does.  For what a step reads and writes but no layer needs: moments and
    averages.

    Args:
      mesh: the mesh.
      params: arrays or shapes.
      lies: their shardings.
      stacks: see `specs`; axis 0 of a stack is left whole.

    Source: Rajbhandari et al. 2020 (ZeRO), stage 1; Xu et al. 2020, where the compiler does it.
    """
    size = mesh.shape["data"]

    def cut(leaf: Any, sharding: NamedSharding, stacked: bool) -> NamedSharding:
        spec = [*sharding.spec, *[None] * (len(leaf.shape) - len(sharding.spec))]
        free = [(leaf.shape[axis], axis) for axis in range(int(stacked), len(spec))
                if spec[axis] is None and leaf.shape[axis] and leaf.shape[axis] % size == 0]
        if size == 1 or not free or any("data" in _axes(entry) for entry in spec):
            return sharding
        spec[max(free)[1]] = "data"
        return NamedSharding(mesh, P(*spec))

    stacks = jax.tree.map(lambda leaf: False, params) if stacks is None else stacks
    return jax.tree.map(cut, params, lies, stacks)


def follow(mesh: Mesh, tree: Any, params: Any, lies: Any) -> Any:
    """Returns shardings for an optimizer's state: a leaf lies as the parameter whose path ends its own, if of
    its shape; all others (counts, factored moments) are replicated."""
    known = [(path_of(path), leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(params)]
    by_path = dict(zip(known, jax.tree.leaves(lies), strict=True))

    def decide(path: Any, leaf: Any) -> NamedSharding:
        name = "/" + path_of(path)
        for (param, shape), sharding in by_path.items():
            if name.endswith("/" + param) and shape == leaf.shape:
                return sharding
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(decide, tree)
