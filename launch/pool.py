"""A sweep on this machine: a pool of trials, each under a lock that its processes inherit, so that one which outlives
the sweep is seen and not run twice."""

import argparse
import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from launch import ledger, run, snapshot, table, trials
from launch.engines import here
from launch.job import Job, script, surroundings

__all__ = ["Sweep", "attempt", "ledger_of", "lock_of", "noted", "pooled", "run_all"]


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep about to be submitted."""

    root: str
    config: str
    args: argparse.Namespace
    changes: tuple[str, ...]
    flags: tuple[str, ...]

    @property
    def ledger(self) -> Path:
        """Returns where it notes what it asked for: in its folder, or, where that is a bucket, beside the snapshots."""
        return ledger_of(self.root)

    def job(self, trial: trials.Trial) -> Job:
        """Returns a trial's job, which writes to a folder of its own whatever its config says."""
        workdir = f"{self.root.rstrip('/')}/{trial.name}"
        words = run.command("train", workdir, self.config, [*self.changes, *trial.flags()])
        return run.job_of(self.args, trial.name, words, workdir, self.flags)

    def note(self, trial: trials.Trial, job: Job, place: Path, code: str, **told: Any) -> None:
        """Writes the ledger's line of a submission."""
        ledger.append(self.ledger, "submitted", trial.name, key=trial.key, changes=trial.changes, engine=self.args.on,
                      snapshot=str(place), code=code, argv=job.argv, workdir=job.workdir, **told)


def ledger_of(root: str) -> Path:
    """Returns where a sweep's ledger lies."""
    if "://" in root:
        return run.ROOT / snapshot.FOLDER / f"{root.partition('://')[2].replace('/', '_')}.jsonl"
    return Path(root) / "ledger.jsonl"


def lock_of(root: str, name: str) -> Path:
    """Returns the file that is locked as long as a trial runs."""
    return Path(root) / ".locks" / name


def noted(root: str) -> Path:
    """Returns the file that notes the process of the pool."""
    return Path(root) / ".locks" / ".sweep.pid"


def run_all(sweep: Sweep, due: Sequence[trials.Trial], place: Path, code: str) -> int:
    """Runs trials, some at a time, to the end of the last, or until this process is told to end.

    Args:
      sweep: whose.
      due: in turn.
      place: of the snapshot.
      code: its stamp.

    Returns:
      0; the first 1 or 2 of a trial; 42 where the same command is to go on.
    """
    ended = here.Told()
    with pooled(sweep) as pool:
        statuses = list(pool.map(lambda trial: attempt(sweep, trial, place, code, ended), due))
    return 42 if ended() else here.verdict(statuses)


@contextlib.contextmanager
def pooled(sweep: Sweep) -> Iterator[ThreadPoolExecutor]:
    """Yields a pool for a sweep's trials; while it is open, `sweep.py stop` finds this process."""
    here.claim(noted(sweep.root))
    with ThreadPoolExecutor(sweep.args.parallel) as pool:
        yield pool
    noted(sweep.root).unlink(missing_ok=True)


def attempt(sweep: Sweep, trial: trials.Trial, place: Path, code: str, look: Callable[[], bool]) -> int:
    """Runs one trial on this machine, unless an orphan of an earlier sweep did; returns its exit status.

    Args:
      sweep: whose.
      trial: which.
      place: of the snapshot.
      code: the snapshot's stamp.
      look: says whether to stop.
    """
    job, status = sweep.job(trial), 0
    lock = here.Lock(lock_of(sweep.root, trial.name))
    try:
        if not lock.taken():
            print(f"{trial.name}: still runs, left by an earlier sweep; waited for", flush=True)
        if look() or not lock.waited(look):
            return 42
        if table.state(table.read(job.workdir, "run.jsonl"), (), False) != "done":
            sweep.note(trial, job, place, code)
            print(f"{trial.name}: begins, or goes on", flush=True)
            status = _started(sweep, job, place, code, lock, look)
            print(f"{trial.name}: ended with {status}", flush=True)
            if status in (1, 2):
                ledger.append(sweep.ledger, "failed", trial.name, status=status)
        if status == 0 and sweep.args.evaluate and not look():
            words = run.command("evaluate", job.workdir, None, (), watch=False)
            status = _started(sweep, dataclasses.replace(job, argv=tuple(words)), place, code, lock, look, "-eval")
        return status
    finally:
        lock.close()


def _started(sweep: Sweep, job: Job, place: Path, code: str, lock: here.Lock, look: Callable[[], bool],
             what: str = "") -> int:
    log, file = Path(sweep.root) / job.name / "launch.log", place / "jobs" / f"{job.name}{what}.sh"
    for folder in (log.parent, file.parent):
        folder.mkdir(parents=True, exist_ok=True)
    file.write_text(script(job, code), encoding="utf-8")
    return here.run(("bash", str(file)), job.processes, here.virtual(job), job.restarts, log, look,
                    surroundings() | lock.environment())
