"""Images through extractors: inside the sampler's program, or read from somewhere."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxdiff.protocols import Array, frozen

__all__ = ["Seeing", "flat", "look", "marks", "outputs_of", "placed"]

AHEAD = 2  # batches


@frozen()
class Seeing:
    """`then` of `sample.stream`: `(x, *decoder's arrays, extractors) -> {extractor: {output: [b, ...]}}`.

    Attributes:
      decode: `(x, *arrays) -> images [b, h, w, c] uint8`; None where x are images already.
      outputs: those that are kept.
    """

    decode: Callable | None
    outputs: tuple[str, ...]

    def __call__(self, x: Array, *given: Any) -> dict[str, dict[str, Array]]:
        """Returns what the extractors see in samples x [b, ...]."""
        *arrays, extractors = given
        images = x if self.decode is None else self.decode(x, *arrays)
        return {name: outputs_of(extract, images, self.outputs) for name, extract in extractors.items()}


def outputs_of(extract: Any, images: Array, kept: Sequence[str] | None = None) -> dict[str, Array]:
    """Returns those of an extractor's outputs that are kept, by name; a user's own may have features alone."""
    if not hasattr(extract, "outputs"):
        return {"features": extract(images)}
    return {name: value for name, value in extract.outputs(images).items() if kept is None or name in kept}


def marks(extract: Any) -> dict[str, str]:
    """Returns what tells an extractor's features from others: name, protocol and the SHA-256 of its weights."""
    return {name: str(getattr(extract, name, "")) for name in ("name", "protocol", "sha256")}


def placed(extractors: Mapping[str, Any], mesh: Any) -> dict[str, Any]:
    """Returns extractors with their weights on every device of a mesh, which may be of several processes."""
    everywhere = NamedSharding(mesh, P())

    def put(leaf: Any) -> jax.Array:
        held = np.asarray(leaf)
        return jax.make_array_from_callback(held.shape, everywhere, lambda index: held[index])

    return jax.tree.map(put, dict(extractors))


def flat(seen: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Returns arrays named `extractor/output`."""
    return {f"{name}/{output}": array for name, outputs in seen.items() for output, array in outputs.items()}


_see = jax.jit(Seeing.__call__, static_argnums=0)


def look(extractors: Mapping[str, Any], examples: Iterable[Mapping[str, np.ndarray]], *,
         outputs: tuple[str, ...] = ("features",), batch: int = 64, mesh: Any = None,
         ) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Yields what extractors see of images, batch by batch and in their order.

    Args:
      extractors: by name, `placed` on the mesh where there is one.
      examples: one by one, `image` [h, w, c] uint8, all of one size, and perhaps a `label`.
      outputs: those kept.
      batch: images a call; the last call is padded to it and cut.
      mesh: to split batches over; its size must divide `batch`.

    Yields:
      How many, and arrays named `extractor/output`, and `label`.
    """
    lies = None if mesh is None else NamedSharding(mesh, P(("data", "fsdp")))
    seeing, pending = Seeing(None, outputs), deque[tuple]()
    for part in _batched(examples, batch):
        images = np.stack([example["image"] for example in part])
        padded = np.concatenate([images, np.repeat(images[-1:], batch - len(part), 0)])
        held = padded if lies is None else jax.make_array_from_callback(padded.shape, lies, padded.__getitem__)
        labels = {"label": np.array([example["label"] for example in part])} if "label" in part[0] else {}
        pending.append((len(part), labels, _see(seeing, held, dict(extractors))))
        if len(pending) > AHEAD:
            yield _fetched(*pending.popleft())
    while pending:
        yield _fetched(*pending.popleft())


def _batched(examples: Iterable[Mapping], batch: int) -> Iterator[list[Mapping]]:
    held: list[Mapping] = []
    for example in examples:
        held.append(example)
        if len(held) == batch:
            yield held
            held = []
    if held:
        yield held


def _fetched(count: int, labels: dict[str, np.ndarray], seen: Any) -> tuple[int, dict[str, np.ndarray]]:
    spread = any(not leaf.is_fully_addressable for leaf in jax.tree.leaves(seen))
    held = multihost_utils.process_allgather(seen, tiled=True) if spread else jax.device_get(seen)
    return count, flat(jax.tree.map(lambda leaf: np.asarray(leaf)[:count], held)) | labels
