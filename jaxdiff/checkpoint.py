"""Checkpoints: Orbax behind one door.

A step holds four items: `params`, `ema` (read alone for sampling), `train` (step and optimizer) and `meta`
(the fingerprint of the data order, and shape, dtype and checksum of every array).  Orbax takes an empty
folder for the latest step, does not fall back from a damaged one and does not notice flipped bits: here
a step is read, compared with its checksums, and otherwise passed over for the one before, loudly.
"""

import json
import logging
import time
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from jaxdiff.train import State

__all__ = ["Failed", "Store", "checksums", "failed", "finish", "hush", "opened", "restore", "save", "steps"]

FOLDER = "checkpoints"


class Failed(OSError):
    """A save did not reach the disk; what was saved before is sound."""


class Store(NamedTuple):
    """An open folder of checkpoints; without a manager it is for reading alone."""

    folder: epath.Path
    manager: Any
    fingerprint: dict | None


def opened(workdir: str, fingerprint: dict | None, *, keep: int = 2, keep_every_steps: int | None = None) -> Store:
    """Opens the checkpoints of a run.

    Args:
      workdir: the run's folder.
      fingerprint: of the data order (JSON values), compared with that of what is there; None to read only.
      keep: newest steps kept, >= 1.
      keep_every_steps: also kept for ever, every so many steps.

    Raises:
      ValueError: the newest checkpoint was made with another fingerprint; or nothing there to read.
    """
    folder = epath.Path(workdir).expanduser().resolve() / FOLDER
    if fingerprint is None:
        if not steps(Store(folder, None, None)):
            raise ValueError(f"no checkpoint in {folder}; train first, or name another --workdir")
        return Store(folder, None, None)
    folder.mkdir(parents=True, exist_ok=True)
    for name, old, new in _differences(_fingerprint_of(folder), fingerprint):
        raise ValueError(f"{folder.parent} holds a run with {name}={old}, this one has {name}={new}; "
                         "choose another --workdir")
    kept = [checkpoint_managers.LatestN(keep)]
    if keep_every_steps:
        kept.append(checkpoint_managers.EveryNSteps(keep_every_steps))
    options = ocp.CheckpointManagerOptions(
        preservation_policy=checkpoint_managers.AnyPreservationPolicy(kept), cleanup_tmp_directories=True)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # a failed save would print hundreds of its lines
    return Store(folder, ocp.CheckpointManager(folder, options=options), fingerprint)


def hush() -> None:
    """Keeps Orbax from saying fifty lines a save."""
    logging.getLogger("absl").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=UserWarning, module="orbax")


def steps(store: Store) -> list[int]:
    """Returns the steps that lie there, ascending, sound or not."""
    if not store.folder.is_dir():
        return []
    return sorted(int(path.name) for path in store.folder.iterdir() if path.name.isdigit() and path.is_dir())


def _fingerprint_of(folder: epath.Path) -> dict | None:
    for step in reversed(steps(Store(folder, None, None))):
        try:
            return _meta(folder / str(step))["fingerprint"]
        except (OSError, ValueError, KeyError, _Damaged):
            continue
    return None


def _differences(old: dict | None, new: dict) -> list[tuple[str, Any, Any]]:
    return [] if old is None else [(k, old[k], new[k]) for k in sorted(new) if k in old and old[k] != new[k]]


def checksums(tree: Any) -> dict[str, int]:
    """Returns one number an array, by path: Σ bits_i (2i + 1) mod 2³², i the global index.

    The same on every mesh, and changed by every single flipped bit.
    """
    sums = _sums(jax.tree.leaves(tree))
    return dict(zip(_paths(tree), (int(value) for value in jax.device_get(sums)), strict=True))


@jax.jit
def _sums(leaves: list) -> list:
    return [_sum(leaf) for leaf in leaves]


def _sum(array: jax.Array) -> jax.Array:
    width = {1: jnp.uint8, 2: jnp.uint16}.get(array.dtype.itemsize, jnp.uint32)
    plain = array.astype(jnp.uint8) if array.dtype == bool else array
    bits = jax.lax.bitcast_convert_type(plain, width).astype(jnp.uint32)
    weights = jnp.zeros(bits.shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(bits.ndim)):  # an index that stays sharded as the array is
        weights += jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis) * jnp.uint32(stride % 2**32)
        stride *= bits.shape[axis]
    return jnp.sum(bits * (2 * weights + 1), dtype=jnp.uint32)


def _paths(tree: Any) -> list[str]:
    return [jax.tree_util.keystr(path, simple=True, separator="/")
            for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def _describe(tree: Any) -> dict[str, list]:
    """Returns path -> [shape, dtype] of arrays or shapes."""
    return {path: [list(leaf.shape), str(leaf.dtype)]
            for path, leaf in zip(_paths(tree), jax.tree.leaves(tree), strict=True)}


def items(state: State) -> dict[str, Any]:
    """Returns what a checkpoint holds of a state, or of its shapes."""
    return {"params": state.params, "ema": state.ema, "train": {"step": state.step, "opt_state": state.opt_state}}


def save(store: Store, state: State, step: int, metrics: Mapping[str, float] | None = None) -> bool:
    """Starts to save a step in the background; returns whether it was not there yet.

    Args:
      store: opened for writing.
      state: copied before this returns, so that the next step may donate it.
      step: number of finished steps.
      metrics: kept in `meta`.

    Raises:
      Failed: an earlier save failed (disk full); what was saved before is sound.
    """
    failed(store)
    if step in store.manager.all_steps():
        return False
    trees = {item: tree for item, tree in items(state).items() if jax.tree.leaves(tree)}
    arrays = {}
    for item, tree in trees.items():
        sums = checksums(tree)
        arrays[item] = {path: [*facts, sums[path]] for path, facts in _describe(tree).items()}
    meta = {"step": step, "fingerprint": store.fingerprint, "metrics": dict(metrics or {}), "arrays": arrays}
    saved = {item: ocp.args.PyTreeSave(tree) for item, tree in trees.items()}
    return store.manager.save(step, args=ocp.args.Composite(**saved, meta=ocp.args.JsonSave(meta)))


def failed(store: Store) -> None:
    """Raises `Failed` if a save in the background has failed; free when none has."""
    try:
        store.manager.check_for_errors()
        if not store.manager.is_saving_in_progress():
            store.manager.wait_until_finished()  # here, and nowhere else, Orbax hands over what went wrong
    except Exception as error:
        raise Failed(f"saving a checkpoint to {store.folder} failed: {_first_line(error)}") from error


def finish(store: Store) -> None:
    """Waits until all is saved and closes; raises `Failed` if a save failed."""
    try:
        store.manager.wait_until_finished()
    except Exception as error:
        raise Failed(f"saving a checkpoint to {store.folder} failed: {_first_line(error)}") from error
    finally:
        store.manager.close()


def restore(store: Store, shapes: Mapping[str, Any], *, step: int | None = None) -> tuple[int, dict] | None:
    """Reads the newest sound checkpoint, or the one of `step`.

    Args:
      store: opened.
      shapes: item -> tree of `ShapeDtypeStruct` (with shardings where there is a mesh); an item's tree may
        be a part of what was saved, such as one average of `ema`.
      step: a step that must be there.

    Returns:
      (step, {item: tree}), or None where there is no checkpoint.  A store for writing passes over damaged
      steps with a warning and sets them aside under another name.

    Raises:
      ValueError: no such step; arrays missing, extra or misshapen (all of them, one a line); a damaged
        step, where the store is for reading, or no sound one.
    """
    there = steps(store)
    if step is not None and step not in there:
        raise ValueError(f"no checkpoint of step {step} in {store.folder}; there are {_listed(there)}")
    damaged: dict[int, str] = {}
    for number in [step] if step is not None else reversed(there):
        try:
            found = number, _read(store.folder / str(number), shapes)
        except _Mismatch as error:
            raise ValueError(f"checkpoint {number} in {store.folder} does not fit this network:\n{error}") from None
        except Exception as error:  # Orbax raises all kinds for a damaged file
            damaged[number] = _first_line(error)
            continue
        if damaged and store.manager is None:
            raise ValueError(f"checkpoint {_damage(damaged)}; the newest sound one is --checkpoint={number}")
        for bad in damaged:
            _set_aside(store, bad, damaged[bad])
        return found
    if damaged:
        raise ValueError(f"no sound checkpoint in {store.folder}: {_damage(damaged)}; the run can only start anew, "
                         "in another --workdir")
    return None


def _damage(damaged: Mapping[int, str]) -> str:
    return "; ".join(f"{step} is damaged ({reason})" for step, reason in damaged.items())


def _set_aside(store: Store, step: int, reason: str) -> None:
    # Under its own name Orbax would refuse to save this step again, and keep it in place of a sound one.
    aside = f"{step}.damaged-{int(time.time())}"
    logging.getLogger(__name__).warning("checkpoint %d is damaged (%s): set aside as %s, going back to the one before",
                                        step, reason, aside)
    (store.folder / str(step)).rename(store.folder / aside)
    store.manager.reload()


class _Mismatch(Exception):
    """The checkpoint is sound and of another network."""


class _Damaged(Exception):
    """The checkpoint is not what was saved."""


def _meta(folder: epath.Path) -> dict:
    path = folder / "meta" / "metadata"
    if not path.exists():
        raise _Damaged("half written: it has no meta item")
    return json.loads(path.read_text())


def _read(folder: epath.Path, shapes: Mapping[str, Any]) -> dict:
    saved = _meta(folder)["arrays"]
    faults = []
    for item, tree in shapes.items():
        whole = item != "ema"  # of the averages a part may be read
        faults += _faults(item, _describe(tree), saved[item], whole)
    if faults:
        raise _Mismatch("\n".join(f"  {fault}" for fault in faults))
    trees = {}
    for item, tree in shapes.items():
        trees[item] = _restored(folder / item, tree)
        for path, value in checksums(trees[item]).items():
            if value != saved[item][path][2]:
                raise _Damaged(f"the checksum of {item}/{path} is wrong")
    return trees


def _faults(item: str, wanted: dict, saved: dict, whole: bool) -> list[str]:
    roots = {path.partition("/")[0] for path in wanted}
    extra = [path for path in saved if path not in wanted and (whole or path.partition("/")[0] in roots)]
    lines = [f"{item}/{path} {tuple(facts[0])} is missing from the checkpoint"
             for path, facts in wanted.items() if path not in saved]
    lines += [f"{item}/{path} {tuple(saved[path][0])} is in the checkpoint and not in the network" for path in extra]
    lines += [f"{item}/{path} is {tuple(saved[path][0])} in the checkpoint and {tuple(facts[0])} in the network"
              for path, facts in wanted.items() if path in saved and saved[path][0] != facts[0]]
    return lines


def _restored(folder: epath.Path, shapes: Any) -> Any:
    handler = ocp.PyTreeCheckpointHandler()
    target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=_placed(leaf)), shapes)
    arguments = ocp.args.PyTreeRestore(item=target, partial_restore=True,
                                       restore_args=ocp.checkpoint_utils.construct_restore_args(target))
    return handler.restore(folder, args=arguments)


def _placed(leaf: Any) -> Any:
    return getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.devices()[0])


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]


def _listed(there: list[int]) -> str:
    return ", ".join(map(str, there)) if there else "none"
