"""The training loop: it feeds the step, keeps within two steps of the device, and calls the hooks."""

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.sharding import NamedSharding

from jaxdiff import train
from jaxdiff.protocols import Batch, Key

__all__ = ["fit", "on_mesh"]

AHEAD = 2  # steps; free on a TPU, and without it loops on virtual devices deadlock


def fit(step: Callable, state: train.State, batches: Callable[[int], Iterator[Batch]], key: Key, *, steps: int,
        hooks: Sequence[Callable] = (), put: Callable = lambda batch: batch) -> tuple[train.State, str | None]:
    """Trains from `state.step` to `steps`.

    Args:
      step: from `train.make_step`.
      state: its buffers are given away.
      batches: `start -> iterator` over batches from that step on.
      key: the run's; the step folds it with its number.
      steps: the last step's number; a run that has reached it does nothing.
      hooks: `(step, state, metrics) -> None or a reason to stop`, after each step, in order.  The state is
        theirs during the call alone.
      put: makes the global batch from this process's rows.

    Returns:
      The state, and the reason why a hook stopped, or None.
    """
    run = train.compiled(step, state)
    start = int(state.step)
    recent: deque = deque()
    with on_mesh(state):
        for number, batch in zip(range(start + 1, steps + 1), batches(start), strict=False):
            state, metrics = run(state, put(batch), key)
            recent.append(metrics)
            if len(recent) > AHEAD:
                jax.block_until_ready(recent.popleft())
            for hook in hooks:
                reason = hook(number, state, metrics)
                if reason is not None:
                    return state, reason
    return state, None


def on_mesh(tree: Any) -> contextlib.AbstractContextManager:
    """Enters the mesh on which the arrays of `tree` lie, if they lie on one."""
    for leaf in jax.tree.leaves(tree):
        sharding = getattr(leaf, "sharding", None)
        if isinstance(sharding, NamedSharding):
            mesh: Any = sharding.mesh
            return jax.set_mesh(mesh)
    return contextlib.nullcontext()
