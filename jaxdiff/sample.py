"""Sampling in batches, on a mesh: sample i depends on (key, i) alone."""

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxdiff import process as processes
from jaxdiff.denoiser import Denoiser
from jaxdiff.protocols import Key
from jaxdiff.times import Times

__all__ = ["generate", "stream", "traced"]

AHEAD = 2  # batches
PRECISIONS = ("default", "high", "highest")


def stream(denoiser: Denoiser, sampler: Callable, times: Times, key: Key, *, shape: tuple[int, ...],
           indices: Sequence[int], batch: int = 256, cond_of: Callable | None = None,
           then: Callable | None = None, given: tuple = (), mesh: Any = None,
           precision: str = "default", beat: Callable = lambda: None) -> Iterator[tuple[np.ndarray, Any, float]]:
    """Yields the samples of `indices`, batch by batch.

    Args:
      denoiser: D(x, t, cond).
      sampler: from `jaxdiff.samplers`, options bound by `jaxdiff.build.build` or `functools.partial`.
      times: the grid.
      key: one; sample i is drawn from it and i, whatever the batch or the mesh.  Always threefry inside:
        under other generators a folded key in `vmap` differs from the same outside.
      shape: of one sample.
      indices: which samples, any non-negative integers.
      batch: samples a call; the last call is padded to it and cut.
      cond_of: `indices [batch] -> Cond`, numpy or JAX arrays.
      then: `(x [batch, ...], *given) -> pytree`, inside the same `jit`: quantise, decode, extract features.
      given: pytrees of arrays for `then`, such as a decoder's parameters.
      mesh: a mesh `(data, fsdp, tensor)` to split batches over.
      precision: of matrix products, one of `PRECISIONS`; "default" is the device's own, which on a TPU and on recent
        GPUs has 3 digits.  Times, schedules and the sampler's arithmetic are float32 whatever it is.
      beat: called when a batch has been made.

    Yields:
      (indices [n], then(x) as numpy with leading n, nfe: the mean of the n where samples differ).

    Raises:
      ValueError: batch < 1, or a batch that does not divide over the mesh; an unknown precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    lies = None
    if mesh is not None:
        lies = NamedSharding(mesh, P(("data", "fsdp")))
        parts = mesh.shape["data"] * mesh.shape["fsdp"]
        if batch % parts:
            raise ValueError(f"a sampling batch of {batch} does not divide over {parts} devices")
    key = _threefry(key)
    wanted = np.asarray(indices, np.int64)
    pending: deque = deque()
    for start in range(0, len(wanted), batch):
        part = wanted[start:start + batch]
        padded = np.concatenate([part, np.full(batch - len(part), part[-1])]).astype(np.uint32)
        cond = None if cond_of is None else jax.tree.map(jnp.asarray, dict(cond_of(padded)))
        rows = (jnp.asarray(padded), cond)
        if lies is not None:
            rows = jax.tree.map(partial(_spread, lies), rows)
        with contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh):
            out = _draw(denoiser, key, *rows, given, times, sampler, shape, then, precision)
        pending.append((part, out))
        if len(pending) > AHEAD:
            yield _fetched(pending.popleft(), beat)
    while pending:
        yield _fetched(pending.popleft(), beat)


def _spread(lies: NamedSharding, values: Any) -> jax.Array:
    """Every process has all of the values, and gives its devices their rows."""
    held = np.asarray(values)
    return jax.make_array_from_callback(held.shape, lies, lambda index: held[index])


@partial(jax.jit, static_argnames=("sampler", "shape", "then", "precision"))
def _draw(denoiser: Denoiser, key: Key, indices: jax.Array, cond: Any, given: tuple, times: Times, sampler: Callable,
          shape: tuple[int, ...], then: Callable | None, precision: str) -> tuple[Any, Any]:
    keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(key, i)))(indices)  # [b, 2]
    noise = jax.vmap(lambda k: jax.random.normal(k, shape))(keys[:, 0])
    x = processes.prior_scale(denoiser.process, np.float64(times.t[0])) * noise
    with jax.default_matmul_precision(precision):
        x, aux = sampler(denoiser, x.astype(jnp.float32), times, keys[:, 1], cond=cond)
    return (x if then is None else then(x, *given)), aux["nfe"]


def traced(denoiser: Denoiser, sampler: Callable, times: Times, *, shape: tuple[int, ...], batch: int, cond: Any = None,
           then: Callable | None = None, given: tuple = (), mesh: Any, precision: str = "default") -> Any:
    """Returns the program that `stream` runs for a batch, a `jax.stages.Traced` to be counted and lowered.

    Args:
      denoiser: its leaves are shapes with shardings.
      sampler, times, shape, batch, then, given, mesh, precision: as of `stream`.
      cond: shapes of the conditions of a batch, [batch, ...].
    """
    lies, whole = NamedSharding(mesh, P(("data", "fsdp"))), NamedSharding(mesh, P())
    key = jax.ShapeDtypeStruct((), jax.random.key(0, impl="threefry2x32").dtype, sharding=whole)
    rows = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((batch, *leaf.shape[1:]), leaf.dtype, sharding=lies),
                        (jax.ShapeDtypeStruct((batch,), jnp.uint32), cond))
    with jax.set_mesh(mesh):
        return _draw.trace(denoiser, key, *rows, given, times, sampler, shape, then, precision)


def _threefry(key: Key) -> Key:
    if not jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key) or key.ndim:
        raise ValueError(f"the key must be one typed key, jax.random.key(seed), got {key.dtype}{list(key.shape)}")
    if jax.random.key_impl(key) == jax.random.key_impl(jax.random.key(0, impl="threefry2x32")):
        return key
    return jax.random.wrap_key_data(jax.random.bits(key, (2,), jnp.uint32), impl="threefry2x32")


def _fetched(drawn: tuple[np.ndarray, tuple], beat: Callable) -> tuple[np.ndarray, Any, float]:
    part, out = drawn
    spread = any(not leaf.is_fully_addressable for leaf in jax.tree.leaves(out))
    made, nfe = multihost_utils.process_allgather(out, tiled=True) if spread else jax.device_get(out)
    beat()
    return part, jax.tree.map(lambda a: np.asarray(a)[: len(part)], made), _mean(np.atleast_1d(nfe)[: len(part)])


def _mean(nfe: np.ndarray) -> float:
    """The mean as an int where it is one."""
    mean = float(np.mean(nfe))
    return int(mean) if mean.is_integer() else mean


def generate(denoiser: Denoiser, sampler: Callable, times: Times, key: Key, *, num: int, shape: tuple[int, ...],
             **options: Any) -> np.ndarray:
    """Returns samples 0 .. num - 1, [num, *shape] float32; options as in `stream`.

    Raises:
      ValueError: num < 1.
    """
    if num < 1:
        raise ValueError(f"num must be at least 1, got {num}")
    made = [x for _, x, _ in stream(denoiser, sampler, times, key, shape=shape, indices=range(num), **options)]
    return np.concatenate(made)
