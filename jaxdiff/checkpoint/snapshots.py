"""Snapshots of power averages, from which `train.posthoc` makes one of any length; Karras et al. 2024, section 3.

They lie in `ema_snapshots/<step>` of a run, each like a checkpoint: its averages in the item `ema`, and in `meta` the
fingerprint and a checksum of every array.  They are written whole or not at all, and never deleted by the run.
"""

import functools
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from jaxdiff import processes
from jaxdiff.checkpoint import reading
from jaxdiff.checkpoint.store import Damaged, Failed, Store, first_line, meta
from jaxdiff.checkpoint.store import steps as steps_of
from jaxdiff.checkpoint.sums import checksums, describe
from jaxdiff.protocols import Array, Params
from jaxdiff.train import State, averages, posthoc

__all__ = ["Reconstruction", "reconstructed", "save", "saver", "steps"]

FOLDER = "ema_snapshots"
NEGLIGIBLE = 1e-8  # a weight that float32 parameters do not feel
BAD = 0.1  # relative error of a profile at which it is said


class Reconstruction(NamedTuple):
    """An average made of snapshots; `error` is that of its profile, in L², relative: 0 is exact."""

    step: int
    params: Params
    error: float


def _store(workdir: Any) -> Store:
    return Store(epath.Path(workdir).expanduser().resolve() / FOLDER, None, None)


def steps(workdir: Any) -> list[int]:
    """Returns the steps of a run's snapshots, ascending."""
    return steps_of(_store(workdir))


def saver(workdir: Any, fingerprint: Mapping[str, Any]) -> Callable[[State, int], bool]:
    """Returns `save(state, step)`, which keeps the state's power averages; every process calls it."""

    def keep(state: State, step: int) -> bool:
        kept = {name: params for name, params in state.ema.items() if averages.length_of(name) is not None}
        return save(workdir, kept, step, fingerprint)

    return keep


def save(workdir: Any, kept: Mapping[str, Params], step: int, fingerprint: Mapping[str, Any]) -> bool:
    """Writes a snapshot and waits for it; returns whether it was not there yet.  All processes call it.

    Args:
      workdir: the run's folder.
      kept: averages by name, `{"power_0.05": params}`.
      step: number of finished steps.
      fingerprint: of the run, as its checkpoints have it.

    Raises:
      Failed: it did not reach the disk.
    """
    folder = _store(workdir).folder
    if step in _agreed(workdir):
        return False
    folder.mkdir(parents=True, exist_ok=True)
    tree, sums = {"ema": dict(kept)}, checksums(dict(kept))
    arrays = {"ema": {path: [*facts, sums[path]] for path, facts in describe(tree["ema"]).items()}}
    about = {"step": step, "fingerprint": dict(fingerprint), "arrays": arrays}
    try:
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as writer:
            writer.save(folder / str(step), args=ocp.args.Composite(
                ema=ocp.args.PyTreeSave(tree["ema"]), meta=ocp.args.JsonSave(about)))
    except Exception as error:  # Orbax raises all kinds
        raise Failed(f"saving a snapshot to {folder} failed: {first_line(error)}") from error
    return True


def _agreed(workdir: Any) -> list[int]:
    """Returns the steps as the first process sees them."""
    return json.loads(processes.exchange("snapshots", json.dumps(steps(workdir)))[0])


def reconstructed(workdir: Any, shapes: Params, length: float, step: int | None = None) -> Reconstruction:
    """Returns the power average of a length that was not kept, at a step; all processes call it.

    One stored average is read at a time, so that two models are in memory.  What is stored comes back to the bit.

    Args:
      workdir: the run's folder.
      shapes: of the parameters, with shardings where there is a mesh.
      length: relative standard deviation, as in `power_0.15`.
      step: of a snapshot; the newest by default.

    Raises:
      ValueError: no snapshot, or none of this step; a damaged snapshot, or one of another run.
    """
    folder, there = _store(workdir).folder, _agreed(workdir)
    if not there:
        raise ValueError(f"no snapshots in {folder}; a run keeps them with config.ema_snapshot_every_images")
    step = there[-1] if step is None else step
    if step not in there:  # what came after the last snapshot would be lost
        near = sorted(sorted(there, key=lambda other: abs(other - step))[:2])
        raise ValueError(f"no snapshot of step {step} in {folder}; near it are {' and '.join(map(str, near))}")
    stored = _stored(folder, [number for number in there if number <= step])
    weights, error = posthoc.mix([profile for _, profile in stored], posthoc.Profile(step, length))
    name = f"power_{length:g}"
    if error > BAD:
        logging.getLogger(__name__).warning(
            "%s at step %d: the mix of %d stored averages is %.0f %% off its profile; more snapshots, or a length "
            "nearer theirs, would be closer", name, step, len(stored), 100 * error)
    total = None
    for (number, at), weight in _used(stored, weights):
        tree = _read(folder, number, at, shapes)
        total = _scaled(tree, weight) if total is None else _add(total, tree, weight)
    return Reconstruction(step, total, error)


def _stored(folder: epath.Path, numbers: list[int]) -> list[tuple[tuple[int, str], posthoc.Profile]]:
    """Returns ((step, name), profile) of every average in these snapshots."""
    found, first = [], None
    for number in numbers:
        try:
            about = meta(folder / str(number))
            names = sorted({path.partition("/")[0] for path in about["arrays"]["ema"]})
        except (Damaged, ValueError, KeyError, OSError) as error:
            raise _refused(folder, number, first_line(error)) from None
        first = first or about["fingerprint"]
        if about["fingerprint"] != first:
            raise _refused(folder, number, "of another run than the first", "is")
        lengths = {name: averages.length_of(name) for name in names}
        found += [((number, name), posthoc.Profile(number, value)) for name, value in lengths.items() if value]
    return found


def _used(stored: list, weights: np.ndarray) -> list:
    return [(where, float(weight)) for (where, _), weight in zip(stored, weights, strict=True)
            if abs(weight) > NEGLIGIBLE]


def _read(folder: epath.Path, number: int, name: str, shapes: Params) -> Params:
    problem, trees = reading._tried(folder / str(number), {"ema": {name: shapes}}, processes.Limits.barrier)
    if problem is not None:
        raise _refused(folder, number, problem)
    return trees["ema"][name]


def _refused(folder: epath.Path, number: int, reason: str, what: str = "is damaged:") -> ValueError:
    return ValueError(f"snapshot {number} in {folder} {what} {reason}; move it elsewhere to do without it")


def _scaled(tree: Params, weight: float) -> Params:
    return tree if weight == 1 else jax.tree.map(lambda leaf: np.float32(weight) * leaf, tree)


@functools.partial(jax.jit, donate_argnums=0)
def _add(total: Params, tree: Params, weight: Array) -> Params:
    return jax.tree.map(lambda a, b: a + weight * b, total, tree)
