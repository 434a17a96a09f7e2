"""The training step: `(state, batch, key) -> (state, metrics)`, pure."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdiff.data.pixels import as_is
from jaxdiff.protocols import Array, Batch, Context, Key, Metrics, Objective, Params
from jaxdiff.train import averages
from jaxdiff.train.state import State

__all__ = ["compiled", "make_step"]


def make_step(objective: Objective, optimizer: optax.GradientTransformation, *,
              ema: tuple[str, ...] = ("decay_0.999",), prepare: Callable = as_is, accumulate: int = 1,
              axis_name: str | None = None) -> Callable[[State, Batch, Key], tuple[State, Metrics]]:
    """Returns the step.

    Args:
      objective: the loss.
      optimizer: an optax transformation.
      ema: names of the averages in the state.
      prepare: `(batch, key, frozen) -> Batch`, on the device, keyed by step.
      accumulate: micro-batches, >= 1, which divide the batch.  All randomness of the loss is drawn for the
        whole batch and then split, so that 1 and 4 differ by rounding alone (but for network dropout).
      axis_name: of `jax.pmap`; gradients and metrics are averaged over it.

    Returns:
      `(state, batch, key) -> (state, metrics)`.  The key is the run's, folded with the step.  Metrics are
      "loss", "grad_norm", "skipped" and the objective's own.  Where loss or gradient is not finite,
      parameters, averages and optimizer stay as they were, the step still counts and "skipped" is 1.

    Raises:
      ValueError: accumulate < 1, or an objective that cannot be split.
    """
    if accumulate < 1:
        raise ValueError(f"accumulate must be at least 1, got {accumulate}")
    if accumulate > 1 and not hasattr(objective, "draw"):
        raise ValueError(f"accumulate={accumulate}: {type(objective).__name__} has no draw(batch, key), so its "
                         "batches cannot be split; use accumulate=1")

    def step(state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
        prepare_key, loss_key = jax.random.split(jax.random.fold_in(key, state.step))
        batch = prepare(batch, prepare_key, state.frozen)
        context = Context(state.step, state.ema, state.frozen)
        loss, metrics, grads = _gradients(objective, state.params, batch, loss_key, context, accumulate)
        if axis_name is not None:
            loss, metrics, grads = jax.lax.pmean((loss, metrics, grads), axis_name)
        norm = optax.tree.norm(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = {name: averages.advance(name, state.ema[name], params, state.step + 1) for name in ema_names}
        sound = jnp.isfinite(loss) & jnp.isfinite(norm)
        keep = lambda new, old: jax.tree.map(lambda n, o: jnp.where(sound, n, o), new, old)
        after = State(state.step + 1, keep(params, state.params), keep(ema, state.ema),
                      keep(opt_state, state.opt_state), state.frozen)
        return after, {**metrics, "loss": loss, "grad_norm": norm, "skipped": jnp.where(sound, 0, 1)}

    ema_names = tuple(ema)
    return step


def _gradients(objective: Any, params: Params, batch: Batch, key: Key, context: Context,
               accumulate: int) -> tuple[Array, Metrics, Params]:
    differentiate = jax.value_and_grad(objective, has_aux=True)
    if accumulate == 1:
        (loss, metrics), grads = differentiate(params, batch, key, context)
        return loss, metrics, grads
    size = batch["x0"].shape[0]
    if size % accumulate:
        raise ValueError(f"a batch of {size} does not split into accumulate={accumulate} equal parts")
    draw_key, rest_key = jax.random.split(key)  # as the objective splits it, when it draws for itself
    drawn = objective.draw(batch, draw_key)
    # Strided, so that every part holds its share of the stratified times and stays sharded as the batch is.
    parts = jax.tree.map(lambda a: jnp.swapaxes(a.reshape(size // accumulate, accumulate, *a.shape[1:]), 0, 1), drawn)

    def body(total: Any, part: tuple) -> tuple:
        number, micro = part
        (loss, metrics), grads = differentiate(params, micro, jax.random.fold_in(rest_key, number), context)
        return jax.tree.map(jnp.add, total, (loss, metrics, grads)), None

    first = jax.tree.map(lambda a: a[0], parts)
    shape = jax.eval_shape(lambda: differentiate(params, first, rest_key, context))
    (loss, metrics), grads = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shape)
    total, _ = jax.lax.scan(body, (loss, metrics, grads), (jnp.arange(accumulate), parts))
    return jax.tree.map(lambda value: value / accumulate, total)


def compiled(step: Callable, state: State) -> Callable:
    """Returns the step under `jit`: the state is donated and comes back where it lies.

    Without the output's placement the second step would compile again.
    """
    lies = jax.tree.map(lambda leaf: leaf.sharding, state)
    return jax.jit(step, donate_argnums=0, out_shardings=(lies, None))
