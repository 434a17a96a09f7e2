"""All that training changes, as one value, sharded from birth."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdiff import mesh as meshes
from jaxdiff.data.pixels import as_is
from jaxdiff.protocols import Array, Batch, Key, Objective, Params
from jaxdiff.train import averages
from jaxdiff.train.scanned import stacks

__all__ = ["State", "init", "shapes"]


class State(NamedTuple):
    """The state of a run; `frozen` is an argument of the step that is never trained."""

    step: Array
    params: Params
    ema: dict[str, Params]
    opt_state: Any
    frozen: Any = None


def init(objective: Objective, optimizer: optax.GradientTransformation, batch: Batch, key: Key, *, mesh: Any = None,
         rules: tuple = (), zero: bool = False, ema: tuple[str, ...] = ("decay_0.999",), frozen: Any = None,
         prepare: Callable = as_is) -> State:
    """Returns the state before the first step.

    Args:
      objective: its `init` makes the parameters.
      optimizer: an optax transformation.
      batch: as the loader gives it; its shapes alone are looked at.
      key: for the parameters.
      mesh: where the state lies; None leaves it on the default device.
      rules: `((pattern, spec), ...)` for parameters by path; see `jaxdiff.mesh.specs`.
      zero: averages and the optimizer's moments are cut over data as well (ZeRO); parameters lie as the rules say.
      ema: names of averages; see `jaxdiff.train.averages`.
      frozen: kept as it is.
      prepare: `(batch, key, frozen) -> Batch`, what the step applies first.

    Raises:
      ValueError: an unknown average, or a rule that decides nothing, does not divide or cuts a stack of blocks.
    """
    create = _creator(objective, optimizer, batch, ema, frozen, prepare)
    if mesh is None:
        here = jnp.zeros(()).sharding  # the default device's, committed, as the step gives the state back:
        return jax.jit(create, out_shardings=here)(key)._replace(frozen=frozen)  # or it would compile twice
    _, lies = _shardings(mesh, create, rules, zero)
    with jax.set_mesh(mesh):
        return jax.jit(create, out_shardings=lies)(key)._replace(frozen=frozen)


def shapes(objective: Objective, optimizer: optax.GradientTransformation, batch: Batch, *, mesh: Any = None,
           rules: tuple = (), zero: bool = False, ema: tuple[str, ...] = ("decay_0.999",), frozen: Any = None,
           prepare: Callable = as_is) -> State:
    """Returns the state as `ShapeDtypeStruct`s with shardings, for restoring and planning; see `init`."""
    create = _creator(objective, optimizer, batch, ema, frozen, prepare)
    if mesh is None:
        return jax.eval_shape(create, jax.random.key(0))._replace(frozen=frozen)
    abstract, lies = _shardings(mesh, create, rules, zero)
    made = jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), abstract, lies)
    return made._replace(frozen=frozen)


def _creator(objective: Objective, optimizer: Any, batch: Batch, ema: tuple[str, ...], frozen: Any,
             prepare: Callable) -> Callable:
    if not ema:
        raise ValueError("a run keeps at least one average, such as ema=('decay_0.999',)")
    for name in ema:
        averages.decay_of(name)
    seen = jax.eval_shape(prepare, batch, jax.random.key(0), frozen)

    def create(key: Key) -> State:
        params = objective.init(jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), seen), key)
        # Copies: an alias of the parameters could not be donated beside them.
        copies = {name: jax.tree.map(jnp.copy, params) for name in ema}
        return State(jnp.zeros((), jnp.int32), params, copies, optimizer.init(params))

    return create


def _shardings(mesh: Any, create: Callable, rules: tuple, zero: bool) -> tuple[State, State]:
    """Returns the shapes of what `create(key)` makes, and where it lies."""
    program, abstract = jax.make_jaxpr(create, return_shape=True)(jax.random.key(0))
    stacked = jax.tree.unflatten(jax.tree.structure(abstract), stacks(program)).params
    params = meshes.specs(mesh, abstract.params, rules, stacked)
    copies = meshes.spread(mesh, abstract.params, params, stacked) if zero else params
    return abstract, State(meshes.replicated(mesh), params, dict.fromkeys(abstract.ema, copies),
                           meshes.follow(mesh, abstract.opt_state, abstract.params, copies))
