"""Where activations lie on a mesh."""

import functools
import math

import jax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxdiff.protocols import Array

__all__ = ["batched"]

AXES = ("data", "fsdp")


def batched(x: Array) -> Array:
    """Says that axis 0 is the batch: split over data and fsdp, every other axis left to the compiler.

    Without it the compiler of a sharded network may move activations where it should move weights.
    Changes no value.  The identity unless both axes are Auto axes of the mesh of `jax.set_mesh`
    (under `shard_map` and `pmap` they are Manual or absent), and where the batch does not divide.

    Args:
      x: [b, ...].

    Returns:
      x.
    """
    mesh = jax.sharding.get_abstract_mesh()
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    if any(kinds.get(axis) != AxisType.Auto for axis in AXES):
        return x
    if x.shape[0] % math.prod(mesh.shape[axis] for axis in AXES):
        return x
    return _split(x)


@functools.partial(jax.jit, inline=True)  # outside jit the constraint refuses arrays that are not on the mesh yet
def _split(x: Array) -> Array:
    return jax.lax.with_sharding_constraint(x, P(AXES, *[P.UNCONSTRAINED] * (x.ndim - 1)))
