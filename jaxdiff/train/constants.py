"""Leaves that were drawn or measured once and are not trained: random frequencies, the scale of latents.

They lie among the parameters, so that they are saved and averaged with the rest, and get no gradient; but a weight
decay would still shrink them, and a count of parameters would take them for trained.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdiff.protocols import Params

__all__ = ["CONSTANTS", "count", "held"]

CONSTANTS = ("freqs", "phases", "latent_scale", "latent_shift")


def held(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """Returns the optimizer, whose updates of constants are zero; its state is as before."""

    def update(updates: Params, state: Any, params: Params | None = None, **extra: Any) -> tuple[Params, Any]:
        made, state = inner.update(updates, state, params, **extra)
        stay = lambda path, leaf: jnp.zeros_like(leaf) if _is_constant(path) else leaf
        return jax.tree_util.tree_map_with_path(stay, made), state

    inner = optax.with_extra_args_support(optimizer)
    return optax.GradientTransformationExtraArgs(optimizer.init, update)


def count(params: Params) -> int:
    """Returns the number of parameters that are trained, of arrays or of their shapes."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return sum(leaf.size for path, leaf in leaves if not _is_constant(path))


def _is_constant(path: tuple) -> bool:
    return getattr(path[-1], "key", None) in CONSTANTS if path else False
