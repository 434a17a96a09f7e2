"""One number an array, the same on every mesh, and changed by every single flipped bit."""

from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["checksums", "describe", "paths"]


def checksums(tree: Any) -> dict[str, int]:
    """Returns one number an array, by path: Σ bits_i (2i + 1) mod 2³², i the global index.

    The same on every mesh, and changed by every single flipped bit.
    """
    sums = _sums(jax.tree.leaves(tree))
    return dict(zip(paths(tree), (int(value) for value in jax.device_get(sums)), strict=True))


@jax.jit
def _sums(leaves: list) -> list:
    return [_sum(leaf) for leaf in leaves]


def _sum(array: jax.Array) -> jax.Array:
    width = {1: jnp.uint8, 2: jnp.uint16}.get(array.dtype.itemsize, jnp.uint32)
    plain = array.astype(jnp.uint8) if array.dtype == bool else array
    bits = jax.lax.bitcast_convert_type(plain, width).astype(jnp.uint32)
    weights = jnp.zeros(bits.shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(bits.ndim)):  # an index that stays sharded as the array is
        weights += jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis) * jnp.uint32(stride % 2**32)
        stride *= bits.shape[axis]
    return jnp.sum(bits * (2 * weights + 1), dtype=jnp.uint32)


def paths(tree: Any) -> list[str]:
    """Returns the path of every array, `params/dense/kernel`."""
    return [jax.tree_util.keystr(path, simple=True, separator="/")
            for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def describe(tree: Any) -> dict[str, list]:
    """Returns path -> [shape, dtype] of arrays or shapes."""
    return {path: [list(leaf.shape), str(leaf.dtype)]
            for path, leaf in zip(paths(tree), jax.tree.leaves(tree), strict=True)}
