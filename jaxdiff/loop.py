"""The training loop: it feeds the step, keeps within two steps of the device, and calls the hooks."""

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.sharding import NamedSharding

from jaxdiff import train
from jaxdiff.protocols import Batch, Key

__all__ = ["ahead", "fit", "on_mesh"]

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
    with on_mesh(state), contextlib.closing(ahead(AHEAD)) as pace:
        next(pace)
        for number, batch in zip(range(start + 1, steps + 1), batches(start), strict=False):
            state, metrics = run(state, put(batch), key)
            pace.send(metrics)
            for hook in hooks:
                reason = hook(number, state, metrics)
                if reason is not None:
                    return state, reason
    return state, None


def ahead(most: int) -> Iterator:
    """A coroutine to which each step's results are sent: it waits for those of `most` steps before."""
    pending: deque = deque()
    while True:
        pending.append((yield))
        if len(pending) > most:
            jax.block_until_ready(pending.popleft())


def on_mesh(tree: Any) -> contextlib.AbstractContextManager:
    """Enters the mesh on which the arrays of `tree` lie, if they lie on one."""
    for leaf in jax.tree.leaves(tree):
        sharding = getattr(leaf, "sharding", None)
        if isinstance(sharding, NamedSharding):
            return jax.set_mesh(sharding.mesh)
    return contextlib.nullcontext()
