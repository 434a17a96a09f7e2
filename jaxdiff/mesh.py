"""Where arrays lie: a mesh `(data, fsdp, tensor)`, the rows a process holds, shardings by path.

One device is a mesh of one.  The batch is split over data and fsdp; a rule `(pattern, spec)` says how
parameters whose path matches are split, `("enc_.*/kernel", (None, None, None, "fsdp"))`.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

__all__ = ["follow", "make_mesh", "put", "replicated", "rows", "specs", "table"]

AXES = ("data", "fsdp", "tensor")


def make_mesh(*, data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Any = None) -> Mesh:
    """Returns a mesh over all devices (or those given), axes of type Auto.

    Args:
      data, fsdp, tensor: sizes; one of them may be -1, for what is left.
      devices: a sequence of devices.

    Raises:
      ValueError: sizes that do not multiply to the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    free = [axis for axis, size in sizes.items() if size == -1]
    fixed = int(np.prod([size for size in sizes.values() if size != -1]))
    text = " x ".join(f"{axis} {size}" for axis, size in sizes.items())
    if any(size < 1 and size != -1 for size in sizes.values()) or len(free) > 1:
        raise ValueError(f"mesh {text}: sizes are at least 1, and at most one is -1 (whatever is left)")
    if free and len(devices) % fixed == 0:
        sizes[free[0]] = len(devices) // fixed
    if int(np.prod(list(sizes.values()))) != len(devices):
        raise ValueError(f"mesh {text} does not cover {len(devices)} devices")
    # `jax.make_mesh` refuses common shapes of a slice; this may split a physical axis.
    grid = mesh_utils.create_device_mesh(tuple(sizes.values()), devices, allow_split_physical_axes=True)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 3)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what every device holds whole."""
    return NamedSharding(mesh, P())


def _batched(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P(("data", "fsdp")))


def rows(mesh: Mesh, batch: int) -> tuple[int, ...]:
    """Returns the rows of the global batch that this process's devices hold, ascending.

    They need not be contiguous (a torus is numbered otherwise), and processes may share them.

    Raises:
      ValueError: the batch does not divide over data x fsdp.
    """
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch < 1 or batch % parts:
        near = sorted({max(batch // parts, 1) * parts, (batch // parts + 1) * parts})
        raise ValueError(f"a batch of {batch} does not divide over {parts} devices (data {mesh.shape['data']} x fsdp "
                         f"{mesh.shape['fsdp']}); near it are {' and '.join(map(str, near))}")
    held: Any = _batched(mesh).addressable_devices_indices_map((batch,)).values()
    return tuple(sorted({row for index in held for row in range(batch)[index[0]]}))


def put(mesh: Mesh, batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """Makes the global batch from this process's rows (in the order of `rows`), leaves [rows, ...]."""
    local = len(jax.tree.leaves(batch)[0])
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    lies: Any = _batched(mesh)
    mine = len({index[0].start for index in lies.addressable_devices_indices_map((parts,)).values()})
    size = local * parts // mine
    place = {row: at for at, row in enumerate(rows(mesh, size))}

    def whole(values: np.ndarray) -> jax.Array:
        def cut(index: Any) -> np.ndarray:
            return values[[place[row] for row in range(size)[index[0]]]]

        return jax.make_array_from_callback((size, *values.shape[1:]), lies, cut)

    return jax.tree.map(whole, batch)


def _path(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def specs(mesh: Mesh, params: Any, rules: tuple) -> Any:
    """Returns the sharding of every parameter: the first rule whose pattern is found in its path.

    Args:
      mesh: the mesh.
      params: arrays or shapes.
      rules: `((pattern, spec), ...)`, spec a tuple of axis names, None, or tuples of names.

    Raises:
      ValueError: a rule that decides no parameter, names no axis of the mesh, or does not divide a shape.
    """
    used = set()

    def decide(path: Any, leaf: Any) -> NamedSharding:
        name = _path(path)
        for number, (pattern, spec) in enumerate(rules):
            if re.search(pattern, name):
                used.add(number)
                _divides(mesh, name, leaf.shape, spec)
                return NamedSharding(mesh, P(*spec))
        return replicated(mesh)

    made = jax.tree_util.tree_map_with_path(decide, params)
    idle = [pattern for number, (pattern, _) in enumerate(rules) if number not in used]
    if idle:
        raise ValueError(f"sharding rule {idle[0]!r} decides no parameter; print the table of parameters to see paths")
    return made


def _divides(mesh: Mesh, name: str, shape: tuple[int, ...], spec: tuple) -> None:
    if len(spec) > len(shape):
        raise ValueError(f"sharding rule {spec} has more axes than {name} {shape}")
    for size, axes in zip(shape, spec, strict=False):
        for axis in axes if isinstance(axes, tuple) else (axes,):
            if axis is not None and axis not in mesh.shape:
                raise ValueError(f"sharding rule {spec} of {name}: no axis {axis!r}; it may be {', '.join(AXES)}")
        parts = int(np.prod([mesh.shape[a] for a in (axes if isinstance(axes, tuple) else (axes,)) if a is not None]))
        if size % parts:
            raise ValueError(f"sharding rule {spec}: {size} of {name} {shape} does not divide over {parts} devices")


def follow(mesh: Mesh, tree: Any, params: Any, lies: Any) -> Any:
    """Returns shardings for an optimizer's state: a leaf lies as the parameter whose path ends its own, if of
    its shape; all others (counts, factored moments) are replicated."""
    known = [(_path(path), leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(params)]
    by_path = dict(zip(known, jax.tree.leaves(lies), strict=True))

    def decide(path: Any, leaf: Any) -> NamedSharding:
        name = "/" + _path(path)
        for (param, shape), sharding in by_path.items():
            if name.endswith("/" + param) and shape == leaf.shape:
                return sharding
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(decide, tree)


def table(params: Any) -> list[tuple[str, tuple[int, ...], str, int]]:
    """Returns (path, shape, spec, bytes per device) of every parameter that has a sharding."""
    lines = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        shard = leaf.sharding.shard_shape(leaf.shape)
        lines.append((_path(path), leaf.shape, str(getattr(leaf.sharding, "spec", P())),
                      int(np.prod(shard)) * leaf.dtype.itemsize))
    return lines
