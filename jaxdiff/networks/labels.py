"""What a network reads of its condition: a class label, or nothing, and what it names besides."""

import jax.numpy as jnp

from jaxdiff import layers
from jaxdiff.protocols import Array, Cond

__all__ = ["extra_of", "label_of"]


def label_of(cond: Cond, num_classes: int, also: tuple[str, ...] = ()) -> Array | None:
    """Returns `cond["label"]` [b], or None for a network without classes.

    Args:
      cond: the condition.
      num_classes: 0 for none.
      also: other names that the network reads, and that may be missing.

    Raises:
      ValueError: a network with classes and no label; a condition that the network would not read;
        a label that is not an integer.
    """
    cond = cond or {}
    given = sorted(set(cond) - set(also))
    besides = f" but {', '.join(also)}" if also else ""
    if not num_classes:
        if given:
            raise ValueError(f"the condition has {', '.join(given)}, but a network with num_classes=0 reads "
                             f"none{besides}; set num_classes, or leave the condition out")
        return None
    if given != ["label"]:
        raise ValueError(f"a network with num_classes={num_classes} reads 'label' [b] from its condition and nothing "
                         f"else{besides}, got {', '.join(given) or 'none'}; {num_classes} is the label of no class")
    label = jnp.asarray(cond["label"])
    if not jnp.issubdtype(label.dtype, jnp.integer):
        raise ValueError(f"labels are integers from 0 to {num_classes} (no class), got {label.dtype}")
    return label


def extra_of(cond: Cond, name: str, shape: tuple[int, ...]) -> Array:
    """Returns `cond[name]` as float32, zeros of `shape` where it is missing.

    Raises:
      ValueError: another shape.
    """
    if not cond or name not in cond:
        return jnp.zeros(shape)
    value = layers.wide(cond[name])
    if value.shape != shape:
        raise ValueError(f"the condition's {name!r} is {list(shape)} here, got {list(value.shape)}")
    return value
