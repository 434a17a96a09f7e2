"""The training loop: it feeds the step, keeps within two steps of the device, and calls the hooks."""

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.sharding import NamedSharding

from jaxdiff import data, train
from jaxdiff.protocols import Batch, Key

__all__ = ["fit", "on_mesh"]

AHEAD = 2  # steps; free on a TPU, and without it loops on virtual devices deadlock


def _untimed(part: str) -> contextlib.AbstractContextManager:
    return contextlib.nullcontext()


def fit(step: Callable, state: train.State, batches: Callable[[int], Iterator[Batch]], key: Key, *, steps: int,
        hooks: Sequence[Callable] = (), put: Callable = lambda batch: batch, beat: Callable = lambda step: None,
        clock: Callable = _untimed, run: Callable | None = None) -> tuple[train.State, str | None]:
    """Trains from `state.step` to `steps`.

    Args:
      step: from `train.make_step`.
      state: its buffers are given away.
      batches: `start -> iterator` over batches from that step on.
      key: the run's; the step folds it with its number.
      steps: the last step's number; a run that has reached it does nothing.
      hooks: `(step, state, metrics) -> None or a reason to stop`, after each step, in order.  The state is
        theirs during the call alone.
      put: makes the global batch from this process's rows, some steps ahead of its use.
      beat: is told of every step that the device has finished.
      clock: `part -> context` in which "data", "dispatch" and "device" take place.
      run: the step compiled already; compiled by the first call if None.

    Returns:
      The state, and the reason why a hook stopped, or None.
    """
    run = run or train.compiled(step, state)
    start = int(state.step)
    recent: deque = deque()
    ready: Any = data.ahead(batches(start), put, depth=AHEAD)
    with on_mesh(state), contextlib.closing(ready) as source:
        for number in range(start + 1, steps + 1):
            with clock("data"):
                batch = next(source, None)
            if batch is None:
                raise RuntimeError(f"the loader ended at step {number} of {steps}")
            with clock("dispatch"):
                state, metrics = run(state, batch, key)
            recent.append((number, metrics))
            if len(recent) > AHEAD:
                finished, waited = recent.popleft()
                with clock("device"):
                    jax.block_until_ready(waited)
                beat(finished)
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
