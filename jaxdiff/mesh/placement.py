"""Where a batch lies, and what of it a process holds."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

__all__ = ["batched", "put", "replicated", "rows"]


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what every device holds whole."""
    return NamedSharding(mesh, P())


def batched(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch, over data and fsdp."""
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
    held: Any = batched(mesh).addressable_devices_indices_map((batch,)).values()
    return tuple(sorted({row for index in held for row in range(batch)[index[0]]}))


def put(mesh: Mesh, batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """Makes the global batch from this process's rows (in the order of `rows`), leaves [rows, ...]."""
    local = len(jax.tree.leaves(batch)[0])
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    lies: Any = batched(mesh)
    mine = len({index[0].start for index in lies.addressable_devices_indices_map((parts,)).values()})
    size = local * parts // mine
    place = {row: at for at, row in enumerate(rows(mesh, size))}

    def whole(values: np.ndarray) -> jax.Array:
        def cut(index: Any) -> np.ndarray:
            return values[[place[row] for row in range(size)[index[0]]]]

        return jax.make_array_from_callback((size, *values.shape[1:]), lies, cut)

    return jax.tree.map(whole, batch)
