"""An open folder of checkpoints: what is kept in it, and saving."""

import json
import logging
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from jaxdiff.checkpoint.sums import checksums, describe
from jaxdiff.train import State

__all__ = [
    "Damaged", "Failed", "Store", "failed", "finish", "first_line", "hush", "items", "meta", "opened", "save", "steps",
    "steps_in", "told",
]

FOLDER = "checkpoints"


class Failed(OSError):
    """A save did not reach the disk; what was saved before is sound."""


class Damaged(Exception):
    """The checkpoint is not what was saved."""


class Store(NamedTuple):
    """An open folder of checkpoints; without a manager it is for reading alone."""

    folder: epath.Path
    manager: Any
    fingerprint: dict | None


def opened(workdir: Any, fingerprint: dict | None, *, keep: int = 2, keep_every_steps: int | None = None,
           keep_best: Mapping[str, Any] | None = None) -> Store:
    """Opens the checkpoints of a run; all processes do.

    Args:
      workdir: the run's folder, on a disk or in a bucket (`gs://...`).
      fingerprint: of the data order (JSON values), compared with that of what is there; None to read only.
      keep: newest steps kept, >= 1.
      keep_every_steps: also kept for ever, every so many steps.
      keep_best: `{"metric", "mode": "min" or "max", "number"}`: also kept, the best by a metric that `save` is given.

    Raises:
      ValueError: the newest checkpoint was made with another fingerprint; or nothing there to read; a mode that is
        neither min nor max.
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
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # a failed save would print hundreds of its lines
    return Store(folder, ocp.CheckpointManager(folder, options=_kept(keep, keep_every_steps, keep_best)), fingerprint)


def _kept(keep: int, every: int | None, best: Mapping[str, Any] | None) -> ocp.CheckpointManagerOptions:
    rules: list = [checkpoint_managers.LatestN(keep)]
    told: dict[str, Any] = {}
    if every:
        rules.append(checkpoint_managers.EveryNSteps(every))
    if best:
        name, mode = best["metric"], best["mode"]
        if mode not in ("min", "max"):
            raise ValueError(f"keep_best's mode must be 'min' or 'max', got {mode!r}")
        of = lambda metrics: float(metrics[name])
        rules.append(checkpoint_managers.BestN(get_metric_fn=of, reverse=mode == "min", n=best["number"],
                                               keep_checkpoints_without_metrics=False))
        told = {"best_fn": of, "best_mode": mode}  # or the metrics would not reach the disk
    return ocp.CheckpointManagerOptions(preservation_policy=checkpoint_managers.AnyPreservationPolicy(rules),
                                        cleanup_tmp_directories=True, **told)


def hush() -> None:
    """Keeps Orbax from saying fifty lines a save."""
    logging.getLogger("absl").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=UserWarning, module="orbax")


def steps(store: Store) -> list[int]:
    """Returns the steps that lie there, ascending, sound or not."""
    if not store.folder.is_dir():
        return []
    return sorted(int(path.name) for path in store.folder.iterdir() if path.name.isdigit() and path.is_dir())


def steps_in(workdir: Any) -> list[int]:
    """Returns the steps that lie in a run's folder, ascending, sound or not."""
    return steps(Store(epath.Path(workdir).expanduser().resolve() / FOLDER, None, None))


def told(workdir: Any, step: int) -> dict:
    """Returns what a checkpoint says of itself: step, fingerprint, metrics, and shape and checksum of every array.

    Raises:
      ValueError: it is not there, or half written.
    """
    folder = epath.Path(workdir).expanduser().resolve() / FOLDER / str(step)
    try:
        return meta(folder)
    except (Damaged, json.JSONDecodeError) as error:
        raise ValueError(f"checkpoint {folder} is no longer there, or damaged: {error}") from error


def _fingerprint_of(folder: epath.Path) -> dict | None:
    for step in reversed(steps(Store(folder, None, None))):
        try:
            return meta(folder / str(step))["fingerprint"]
        except (OSError, ValueError, KeyError, Damaged):
            continue
    return None


def meta(folder: epath.Path) -> dict:
    """Returns the `meta` item of a step's folder; raises `Damaged` where there is none."""
    path = folder / "meta" / "metadata"
    if not path.exists():
        raise Damaged("half written: it has no meta item")
    return json.loads(path.read_text())


def _differences(old: dict | None, new: dict) -> list[tuple[str, Any, Any]]:
    return [] if old is None else [(k, old[k], new[k]) for k in sorted(new) if k in old and old[k] != new[k]]


def items(state: State) -> dict[str, Any]:
    """Returns what a checkpoint holds of a state, or of its shapes."""
    return {"params": state.params, "ema": state.ema, "train": {"step": state.step, "opt_state": state.opt_state}}


def save(store: Store, state: State, step: int, metrics: Mapping[str, float] | None = None) -> bool:
    """Starts to save a step in the background; returns whether it was not there yet.  All processes call it.

    Args:
      store: opened for writing.
      state: copied before this returns, so that the next step may donate it.
      step: number of finished steps.
      metrics: kept in `meta`, and what `keep_best` looks at.

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
        arrays[item] = {path: [*facts, sums[path]] for path, facts in describe(tree).items()}
    told = {name: float(value) for name, value in (metrics or {}).items()}
    about = {"step": step, "fingerprint": store.fingerprint, "metrics": told, "arrays": arrays}
    saved = {item: ocp.args.PyTreeSave(tree) for item, tree in trees.items()}
    return store.manager.save(step, args=ocp.args.Composite(**saved, meta=ocp.args.JsonSave(about)),
                              metrics=told or None)


def failed(store: Store) -> None:
    """Raises `Failed` if a save in the background has failed; free when none has."""
    try:
        store.manager.check_for_errors()
        if not store.manager.is_saving_in_progress():
            store.manager.wait_until_finished()  # here, and nowhere else, Orbax hands over what went wrong
    except Exception as error:
        raise Failed(f"saving a checkpoint to {store.folder} failed: {first_line(error)}") from error


def finish(store: Store) -> None:
    """Waits until all is saved and closes; raises `Failed` if a save failed."""
    try:
        store.manager.wait_until_finished()
    except Exception as error:
        raise Failed(f"saving a checkpoint to {store.folder} failed: {first_line(error)}") from error
    finally:
        store.manager.close()


def first_line(error: BaseException) -> str:
    """Returns the first line of what went wrong, of 200 characters at most."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]
