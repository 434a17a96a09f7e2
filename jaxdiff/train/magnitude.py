"""Forced weight normalization as the last link of an optimizer's chain (Karras et al. 2024, EDM2, sec. 2.3)."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdiff.layers.magnitude import normalize
from jaxdiff.protocols import Array, Params

__all__ = ["project"]


def project(name: str = "weight", packed: tuple[str, ...] = ("attn_qkv",)) -> optax.GradientTransformation:
    """Returns the link after which every weight has unit mean square over its inputs, `w ← (w + u)/(eps + rms(w + u))`.

    The network normalizes its weights itself, so this changes no output; it keeps the effective learning rate, which
    would fall as the weights grow.  It must be the last link: what comes after would be added to unit weights.

    Args:
      name: of the leaves that are projected; all others pass.
      packed: modules whose weight has one axis of inputs, the first, and several of outputs; in the others all axes
        but the last are inputs.

    Source: EDM2, eq. 24 and appendix B.4, where the weights are set before the next forward pass instead.
    """

    def update(updates: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
        if params is None:
            raise ValueError("project() needs the parameters: optimizer.update(gradients, state, params)")
        return jax.tree_util.tree_map_with_path(project_leaf, updates, params), state

    def project_leaf(path: tuple, step: Array, weight: Array) -> Array:
        *above, leaf = [getattr(key, "key", None) for key in path]
        if leaf != name:
            return step
        inputs = (0,) if above and above[-1] in packed else tuple(range(weight.ndim - 1))
        moved = (weight + step).astype(jnp.float32)
        return (normalize(moved, inputs) - weight).astype(step.dtype)

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
