"""A search on this machine: Optuna is asked what to try, and told what came of it.

    def search(trial):
        return {"batch": trial.suggest_categorical("batch", (32, 64, 128))}

Its study lies in the sweep's folder, so that the same command goes on, with what was running first.
"""

import ast
import dataclasses
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launch import ledger, snapshot, table, trials
from launch.engines import here
from launch.pool import Sweep, attempt, pooled

__all__ = ["searched"]

LOOK_SECONDS = 2.0
CHANGES = "changes"  # where a study keeps what a trial changes


@dataclasses.dataclass
class _Asked:
    """A trial that Optuna gave; `live` where it can be pruned."""

    number: int
    trial: trials.Trial
    live: Any = None
    pruned: bool = False
    reported: int = -1
    looked: float = 0.0


class _Study:
    """Optuna's study, asked and told under a lock."""

    def __init__(self, sweep: Sweep, objective: Callable) -> None:
        try:
            import optuna
            from optuna.storages.journal import JournalFileBackend
        except ImportError as error:
            raise ValueError('--trials needs Optuna: pip install "jaxdiff[sweeps]"') from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        Path(sweep.root).mkdir(parents=True, exist_ok=True)
        file = JournalFileBackend(str(Path(sweep.root) / "search.log"))
        self._optuna, self._sweep, self._objective, self._lock = optuna, sweep, objective, threading.Lock()
        self._study = optuna.create_study(
            study_name=sweep.config, storage=optuna.storages.JournalStorage(file), load_if_exists=True,
            direction="maximize" if table.HIGHER.search(sweep.args.metric) else "minimize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=3) if sweep.args.prune else optuna.pruners.NopPruner())
        # Going on with the seed of the beginning would draw the same values again.
        self._study.sampler = optuna.samplers.TPESampler(seed=len(self._study.trials), constant_liar=True)
        self._left = [frozen for frozen in self._study.trials
                      if frozen.state == optuna.trial.TrialState.RUNNING and CHANGES in frozen.user_attrs]

    def ask(self) -> _Asked | None:
        """Returns the next trial; None once there are as many as were asked for."""
        with self._lock:
            if self._left:
                frozen = self._left.pop(0)
                return _Asked(frozen.number, self._named(ast.literal_eval(frozen.user_attrs[CHANGES])))
            if len(self._study.trials) >= self._sweep.args.trials:
                return None
            live = self._study.ask()
            changes = self._objective(live)
            live.set_user_attr(CHANGES, repr(changes))
            return _Asked(live.number, self._named(changes), live)

    def _named(self, changes: dict) -> trials.Trial:
        (made,) = trials.listed(self._sweep.config, [changes], {})
        return dataclasses.replace(made, name=trials.named(self._sweep.config, changes, [changes, {}], made.key))

    def prune(self, asked: _Asked, workdir: str) -> bool:
        """Reports what a trial has told since; returns whether it has fallen behind."""
        if asked.live is None or not self._sweep.args.prune or time.monotonic() < asked.looked + LOOK_SECONDS:
            return asked.pruned
        asked.looked = time.monotonic()
        with self._lock:
            for step, value in table.curve(workdir, self._sweep.args.metric):
                if step > asked.reported:
                    asked.live.report(value, step)
                    asked.reported = step
            asked.pruned = asked.live.should_prune()
        return asked.pruned

    def tell(self, asked: _Asked, value: float | None) -> None:
        """Says what came of a trial; None for nothing."""
        states = self._optuna.trial.TrialState
        with self._lock:
            if asked.pruned:
                self._study.tell(asked.number, state=states.PRUNED)
            elif value is None:
                self._study.tell(asked.number, state=states.FAIL)
            else:
                self._study.tell(asked.number, value)


def searched(sweep: Sweep, root: Path) -> int:
    """Asks and runs until there are `--trials` trials, some at a time; returns the exit status, 42 where the same
    command is to go on.

    Raises:
      ValueError: Optuna is not installed, or the config has no `def search(trial)`.
    """
    study = _Study(sweep, trials.loaded(sweep.config, root, "search"))
    code = snapshot.code(root, sweep.config)
    place = code.path("search", {"": sweep.root})
    snapshot.write(code, place, {})
    ended = here.Told()

    def worker(number: int) -> list[int]:
        statuses = []
        for asked in iter(study.ask, None):
            if ended():
                break  # asked and not begun: the next time first
            statuses.append(_one(study, asked, sweep, place, code.stamp, ended))
        return statuses

    with pooled(sweep) as pool:
        statuses = [status for each in pool.map(worker, range(sweep.args.parallel)) for status in each]
    return 42 if ended() else here.verdict(statuses)


def _one(study: _Study, asked: _Asked, sweep: Sweep, place: Path, code: str, ended: Callable[[], bool]) -> int:
    workdir = sweep.job(asked.trial).workdir
    status = attempt(sweep, asked.trial, place, code, lambda: ended() or study.prune(asked, workdir))
    if asked.pruned:
        ledger.append(sweep.ledger, "pruned", asked.trial.name)
    elif ended():
        return status  # left as it is, to be gone on with
    study.tell(asked, table.metrics(workdir).get(sweep.args.metric) if status == 0 else None)
    return 0 if asked.pruned else status
