"""The few types that every floor speaks.

Images are `[b, h, w, c]`, float32 in [-1, 1] inside and uint8 at the borders.
Time runs from 0 (data) to 1 (noise).  `eps` is unit noise, `x0` the clean data.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar, dataclass_transform, runtime_checkable

import jax

__all__ = [
    "Array", "Batch", "Cond", "Context", "Key", "LearnedProcess", "Metrics", "Network", "Objective",
    "Parameterization", "Params", "Process", "frozen",
]

Array = Any  # a numpy or JAX array: schedules are evaluated on the host and inside `jit` alike
Key = jax.Array  # a typed PRNG key, or an array of them, one a sample
Params = Any  # a pytree of arrays
Cond = Mapping[str, Array] | None  # leaves [b, ...]
Batch = Mapping[str, Any]  # {"x0": [b, ...] float32, "cond": Cond}
Metrics = dict[str, Array]

T = TypeVar("T")


@runtime_checkable
class Process(Protocol):
    """`x_t = alpha(t) x0 + sigma(t) eps`; all else is derived in `jaxdiff.process`.

    A process may also define `alpha(t)` and `sigma(t)`, where a direct form is finite
    and their exponentials are not, and `t_of_logsnr(logsnr)`, found by bisection otherwise.
    """

    @property
    def span(self) -> tuple[float, float]: ...
    def log_alpha(self, t: Array) -> Array: ...
    def log_sigma(self, t: Array) -> Array: ...


@runtime_checkable
class LearnedProcess(Protocol):
    """A process with parameters of its own, which are trained with the network."""

    def init(self, key: Key) -> Params: ...
    def bind(self, params: Params) -> Process: ...


@runtime_checkable
class Parameterization(Protocol):
    """What a network predicts, `y = A x0 + B eps`, and what it is shown."""

    def coefficients(self, alpha: Array, sigma: Array, d_alpha: Array, d_sigma: Array) -> tuple[Array, Array]: ...
    def c_in(self, alpha: Array, sigma: Array) -> Array: ...
    def c_noise(self, logsnr: Array) -> Array: ...


@runtime_checkable
class Network(Protocol):
    """A Linen module: `(x [b, ...], c_noise [b], cond) -> [b, ...]` float32."""

    def init(self, key: Key, x: Array, c_noise: Array, cond: Cond) -> Params: ...
    def apply(self, params: Params, x: Array, c_noise: Array, cond: Cond, *, train: bool = False,
              rngs: Any = None) -> Array: ...


class Context(NamedTuple):
    """What a loss may read and is not differentiated by."""

    step: Array
    ema: Mapping[str, Params]
    frozen: Any = None


@runtime_checkable
class Objective(Protocol):
    """A loss over everything that is trained.

    Gradient accumulation also needs `draw(batch, key) -> batch`: all randomness of the loss,
    drawn for the whole batch, which the step then splits.
    """

    def init(self, batch: Batch, key: Key) -> Params: ...
    def __call__(self, params: Params, batch: Batch, key: Key, context: Context) -> tuple[Array, Metrics]: ...
    def denoiser(self, params: Params, frozen: Any = None) -> Any: ...


@dataclass_transform(frozen_default=True)
def frozen(*, leaves: tuple[str, ...] = ()) -> Callable[[type[T]], type[T]]:
    """Makes a class a frozen dataclass and a pytree whose children are the fields `leaves`.

    Every other field is static: compared and hashed, so that equal values share one trace.
    """

    def decorate(cls: type[T]) -> type[T]:
        made: Any = dataclasses.dataclass(frozen=True)(cls)
        names = [field.name for field in dataclasses.fields(made)]
        static = [name for name in names if name not in leaves]
        return jax.tree_util.register_dataclass(made, data_fields=list(leaves), meta_fields=static)

    return decorate
