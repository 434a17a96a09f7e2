"""Which example goes where: batch k is a pure function of (seed, k, rows).

Example i of the endless stream is the one at place i mod n of epoch i div n, and every
epoch is a permutation of its own, drawn from (seed, epoch).  Row r of batch k is example
k B + r of the stream (B the global batch), so that epochs straddle batches and nothing is
dropped.  Hence a checkpoint needs only the step, and a run goes on exactly on any number
of processes, each of which loads the rows that its devices hold.

Permutations are whole tables rather than grain's `shuffle`: that walks a domain of at
least 2^16 indices, which costs 3 ms a batch of 128 on 1,500 examples, and 300 ms on 10.
"""

import collections
import dataclasses
import functools
import hashlib
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["Batches", "ahead", "batches", "fingerprint"]

READERS = 8  # threads that decode files, each a batch ahead, so that this bounds the memory too
OF_A_WORKER = 2  # threads in each worker process: one decodes while the other waits for the disk


@dataclasses.dataclass(frozen=True, eq=False)
class Batches:
    """`batches(start)` iterates from that step on; see the function `batches`, which makes it."""

    source: Any
    batch: int
    seed: int
    rows: tuple[int, ...]
    shuffle: bool = True
    threads: int = 0
    workers: int = 0

    def __call__(self, start: int = 0) -> Iterator[dict[str, np.ndarray]]:
        """Returns the endless iterator whose first batch is that of step `start` >= 0."""
        if start < 0:
            raise ValueError(f"batches start at a step >= 0, got {start}")
        return self._read(start) if self.threads or self.workers else map(self.at, itertools.count(start))

    def at(self, step: int) -> dict[str, np.ndarray]:
        """Returns this process's rows of the batch of `step`, each [len(rows), ...]."""
        places = self.batch * step + np.asarray(self.rows)
        epochs, indices = np.divmod(places, _length(self.source))
        if self.shuffle:
            for epoch in np.unique(epochs):
                here = epochs == epoch
                indices[here] = _permutation(_length(self.source), self.seed, int(epoch))[indices[here]]
        return _gather(self.source, indices)

    def _read(self, start: int) -> Iterator[dict[str, np.ndarray]]:
        import grain  # here, since it is slow to import and only files need it
        from absl import flags

        steps = grain.MapDataset.range(start, sys.maxsize).map(self.at)
        made = steps.to_iter_dataset(grain.ReadOptions(self.threads, prefetch_buffer_size=self.threads))
        if self.workers:
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()  # or grain, which asks absl for a flag, fails (google/grain#1355)
            made = made.mp_prefetch(grain.MultiprocessingOptions(self.workers, per_worker_buffer_size=2))
        reader = iter(made)
        try:
            yield from reader
        finally:  # also when the iterator is dropped: waiting batches are cancelled and the threads end
            reader.close()


def batches(source: Any, *, batch: int, seed: int = 0, rows: Sequence[int] | None = None, shuffle: bool = True,
            threads: int | None = None, workers: int = 0) -> Batches:
    """Makes `start -> iterator`, the batches of a source from a step on.

    Args:
      source: a dict of equally long numpy columns, or an object with `__len__` and `__getitem__`.
      batch: rows of the global batch; it may exceed the source, whose epochs then repeat within it.
      seed: of the order, 0 to 2^32 - 1.
      rows: the rows of the global batch that this process loads, in that order; all by default.
      shuffle: False keeps the order of the source in every epoch.
      threads: how many read ahead; by default none for columns and 8 otherwise, 2 in each worker process.
      workers: processes that decode, each sent the source; for images that take more than the threads of one process
        can.  Columns, which need no decoding, are always read here.  A script needs `if __name__ == "__main__":`.

    Returns:
      A `Batches`, whose iterators yield dicts of numpy arrays [len(rows), ...], the same whatever reads them.  What a
      source raises is raised from the iterator, in its place in the order.

    Raises:
      ValueError: an empty source, columns of unequal length, or a number out of its range.
    """
    if _length(source) == 0:
        raise ValueError("the source has no examples")
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be in 0..2^32 - 1, got {seed}")
    rows = tuple(range(batch)) if rows is None else tuple(int(row) for row in rows)
    if not rows or min(rows) < 0 or max(rows) >= batch:
        raise ValueError(f"rows must be some of 0..{batch - 1}, the rows of the global batch, got {rows}")
    for name, number in (("threads", threads), ("workers", workers)):
        if number is not None and number < 0:
            raise ValueError(f"{name} must be at least 0, got {number}")
    columns = isinstance(source, Mapping)
    workers = 0 if columns else workers
    if threads is None:
        threads = 0 if columns else OF_A_WORKER if workers else READERS
    return Batches(source, batch, seed, rows, shuffle, threads, workers)


def ahead(iterator: Iterator[Any], put: Callable[[Any], Any], *, depth: int = 2) -> Iterator[Any]:
    """Yields `put(batch)` of every batch, so many of them put on the device before they are asked for.

    A transfer takes place while the device computes, since `put` returns before it is done.  No thread is used: the
    next batch is fetched when one is asked for, right after the step before was sent off.

    Args:
      iterator: of batches; closed at the end, also when this iterator is dropped.
      put: host to device.
      depth: batches that lie there beside the one that is used, >= 0.

    Yields:
      The batches in their order.  What `iterator` or `put` raises comes in its place, behind the good ones.

    Raises:
      ValueError: a depth below 0.
    """
    if depth < 0:
        raise ValueError(f"depth must be at least 0, got {depth}")
    return _ahead(iterator, put, depth)


def _ahead(iterator: Iterator[Any], put: Callable[[Any], Any], depth: int) -> Iterator[Any]:
    waiting: collections.deque = collections.deque()
    failed: Exception | None = None
    ended = False
    try:
        while True:
            while not ended and len(waiting) <= depth:
                try:
                    waiting.append(put(next(iterator)))
                except StopIteration:
                    ended = True
                except Exception as error:
                    failed, ended = error, True
            if not waiting:
                break
            yield waiting.popleft()
        if failed is not None:
            raise failed
    finally:
        if hasattr(iterator, "close"):
            iterator.close()


def fingerprint(source: Any, *, seed: int, batch: int) -> dict[str, int | str]:
    """Returns what a run must find unchanged to go on with the same batches.

    Cheap: the hash is over the first, middle and last example (names, dtypes, shapes, bytes of the decoded arrays).

    Returns:
      `{"examples", "seed", "batch", "sha256"}`: JSON-able numbers and 16 hexadecimal digits.
    """
    count = _length(source)
    digest = hashlib.sha256()
    for index in sorted({0, count // 2, count - 1}):
        for name, values in sorted(_gather(source, np.array([index])).items()):
            digest.update(f"{name} {values.dtype.str} {values.shape[1:]}".encode())
            digest.update(values.tobytes())
    return {"examples": count, "seed": seed, "batch": batch, "sha256": digest.hexdigest()[:16]}


@functools.lru_cache(maxsize=4)  # a batch straddles two epochs, and readers run ahead
def _permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    # RandomState's stream is frozen (NEP 19), `default_rng`'s is not: another numpy must not reorder a run
    return np.random.RandomState([seed, epoch]).permutation(count)


def _length(source: Any) -> int:
    if not isinstance(source, Mapping):
        if not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
            raise ValueError(f"a source is a dict of columns or has __len__ and __getitem__, got {source!r}")
        return len(source)
    lengths = {name: len(column) for name, column in source.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the columns of a source must be equally long, got {lengths}")
    return next(iter(lengths.values()), 0)


def _gather(source: Any, indices: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the examples at `indices`, stacked along a new first axis."""
    if isinstance(source, Mapping):
        return {name: column[indices] for name, column in source.items()}
    examples = [source[int(index)] for index in indices]
    for name, first in examples[0].items():
        for index, example in zip(indices, examples, strict=True):
            if np.shape(example[name]) != np.shape(first):
                raise ValueError(f"examples {indices[0]} and {index} differ in shape: {name!r} is {np.shape(first)} "
                                 f"and {np.shape(example[name])}; images need one size (option 'size' of the source)")
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}
