"""Depth by `scan`: one block is traced and compiled, whatever their number, and its parameters are stacked.

What the backward pass keeps of a block and what it computes again is a policy by name.  It changes neither
the parameters nor, beyond rounding, the numbers.
"""

from typing import Any

import flax.linen as nn
import jax

__all__ = ["REMAT", "stacked"]

REMAT = {
    "none": None,  # keep everything
    "full": jax.checkpoint_policies.nothing_saveable,  # keep the block's input alone
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,  # keep projections; logits are made again
    "all_dots": jax.checkpoint_policies.dots_saveable,  # keep every product of matrices
}


def stacked(block: Any, depth: int, *, remat: str = "none", each: bool | tuple[bool, ...] = False,
            **fields: Any) -> nn.Module:
    """Returns `depth` blocks in a row as one module, parameters stacked on axis 0.

    The module maps `(x, *arguments)` to `(x, ys)`, as a block does; `ys` are stacked too.

    Args:
      block: a Linen class.
      depth: at least 1.
      remat: `none`, `full`, `dots` or `all_dots`, a key of `REMAT`.
      each: the arguments (or those for which it is True) are cut along axis 0, a slice for each block; otherwise
        every block gets the same.
      **fields: of the block, `name` among them.

    Raises:
      ValueError: no depth, no name, or an unknown policy.

    Source: `nn.scan` and `nn.remat` of Flax; the policies, `jax.checkpoint_policies`.
    """
    if remat not in REMAT:
        raise ValueError(f"there is no remat policy {remat!r}; it may be {', '.join(REMAT)}")
    if depth < 1 or not fields.get("name"):
        raise ValueError(f"stacked blocks have a depth of at least 1 and a name, got depth={depth} and "
                         f"name={fields.get('name')!r}")
    if remat != "none":
        block = nn.remat(block, policy=REMAT[remat], prevent_cse=False)  # a scan's body is safe without barriers
    scan = nn.scan(block, variable_axes={"params": 0}, split_rngs={"params": True, "dropout": True},
                   in_axes=tuple(map(_axis, each)) if isinstance(each, tuple) else _axis(each), length=depth)
    return scan(**fields)


def _axis(cut: bool) -> Any:
    return 0 if cut else nn.broadcast
