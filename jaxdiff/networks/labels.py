"""What a network reads of its condition: a class label, or nothing."""

import jax.numpy as jnp

from jaxdiff.protocols import Array, Cond

__all__ = ["label_of"]


def label_of(cond: Cond, num_classes: int) -> Array | None:
    """Returns `cond["label"]` [b], or None for a network without classes.

    Raises:
      ValueError: a network with classes and no label; a condition that the network would not read;
        a label that is not an integer.
    """
    cond = cond or {}
    given = sorted(cond)
    if not num_classes:
        if given:
            raise ValueError(f"the condition has {', '.join(given)}, but a network with num_classes=0 reads none; "
                             "set num_classes, or leave the condition out")
        return None
    if given != ["label"]:
        raise ValueError(f"a network with num_classes={num_classes} reads 'label' [b] from its condition and nothing "
                         f"else, got {', '.join(given) or 'none'}; {num_classes} is the label of no class")
    label = jnp.asarray(cond["label"])
    if not jnp.issubdtype(label.dtype, jnp.integer):
        raise ValueError(f"labels are integers from 0 to {num_classes} (no class), got {label.dtype}")
    return label
