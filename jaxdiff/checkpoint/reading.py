"""Reading: the newest sound checkpoint, compared with its checksums."""

import json
import logging
import time
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from jaxdiff import processes
from jaxdiff.checkpoint.store import Store, first_line, meta, steps
from jaxdiff.checkpoint.sums import checksums, describe

__all__ = ["restore"]


def restore(store: Store, shapes: Mapping[str, Any], *, step: int | None = None,
            timeout: float = processes.Limits.barrier) -> tuple[int, dict] | None:
    """Reads the newest checkpoint that every process finds sound, or the one of `step`.

    Args:
      store: opened.
      shapes: item -> tree of `ShapeDtypeStruct` (with shardings where there is a mesh); an item's tree may
        be a part of what was saved, such as one average of `ema`.
      step: a step that must be there.
      timeout: seconds that processes wait for one another.

    Returns:
      (step, {item: tree}), or None where there is no checkpoint.  A store for writing passes over damaged
      steps with a warning and sets them aside under another name.

    Raises:
      ValueError: no such step; arrays missing, extra or misshapen (all of them, one a line); a damaged
        step, where the store is for reading, or no sound one.
      Lost: a process that does not come to an agreement.
    """
    there = json.loads(processes.exchange("checkpoints", json.dumps(steps(store)), timeout=timeout)[0])
    if step is not None and step not in there:
        raise ValueError(f"no checkpoint of step {step} in {store.folder}; there are {_listed(there)}")
    damaged: dict[int, str] = {}
    for number in [step] if step is not None else reversed(there):
        problem, trees = _tried(store.folder / str(number), shapes, timeout)
        if problem is not None:
            damaged[number] = problem
            continue
        if damaged and store.manager is None:
            raise ValueError(f"checkpoint {_damage(damaged)}; the newest sound one is --checkpoint={number}")
        for bad in damaged:
            _set_aside(store, bad, damaged[bad], timeout)
        return number, trees
    if damaged:
        raise ValueError(f"no sound checkpoint in {store.folder}: {_damage(damaged)}; the run can only start anew, "
                         "in another --workdir")
    return None


def _tried(folder: epath.Path, shapes: Mapping[str, Any], timeout: float) -> tuple[str | None, dict]:
    """Returns what is wrong with a step, the same on every process, and its trees.

    Through Orbax's manager the processes whose files are sound would wait for ever for one whose are not.
    """
    problem, trees, saved = None, {}, {}
    try:
        saved = _fitting(folder, shapes)
        trees = {item: _restored(folder / item, tree) for item, tree in shapes.items()}
    except _Mismatch as error:
        raise ValueError(f"checkpoint {folder.name} in {folder.parent} does not fit this network:\n{error}") from None
    except Exception as error:  # Orbax raises all kinds for a damaged file
        problem = first_line(error)
    problems = processes.agree(f"checkpoint {folder.name}", problem, timeout=timeout)
    if problems:
        one = len(problems) == 1 and 0 in problems
        return "; ".join(text if one else f"process {n}: {text}" for n, text in problems.items()), {}
    for item, tree in trees.items():  # sums over all processes' parts, the same everywhere
        for path, value in checksums(tree).items():
            if value != saved[item][path][2]:
                return f"the checksum of {item}/{path} is wrong", {}
    return None, trees


def _damage(damaged: Mapping[int, str]) -> str:
    return "; ".join(f"{step} is damaged ({reason})" for step, reason in damaged.items())


def _set_aside(store: Store, step: int, reason: str, timeout: float) -> None:
    # Under its own name Orbax would refuse to save this step again, and keep it in place of a sound one.
    aside = f"{step}.damaged-{int(time.time())}"
    logging.getLogger(__name__).warning("checkpoint %d is damaged (%s): set aside as %s, going back to the one before",
                                        step, reason, aside)
    if processes.leads():
        (store.folder / str(step)).rename(store.folder / aside)
    processes.barrier(f"set aside {step}", timeout=timeout)
    store.manager.reload()


class _Mismatch(Exception):
    """The checkpoint is sound and of another network."""


def _fitting(folder: epath.Path, shapes: Mapping[str, Any]) -> dict[str, dict]:
    """Returns item -> path -> [shape, dtype, checksum] as saved; raises `_Mismatch` where it is of another network."""
    saved = meta(folder)["arrays"]
    faults = []
    for item, tree in shapes.items():
        whole = item != "ema"  # of the averages a part may be read
        faults += _faults(item, describe(tree), saved[item], whole)
    if faults:
        raise _Mismatch("\n".join(f"  {fault}" for fault in faults))
    return saved


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


def _listed(there: list[int]) -> str:
    return ", ".join(map(str, there)) if there else "none"
