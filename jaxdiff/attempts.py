"""`run.jsonl`: every start of a run and how it ended, a line each, so that a run that cannot go on is not started for
ever.

    {"event": "start", "attempt": 3, "step": 2000, "time": 1764124020.1, "host", "commit", "device", ...}
    {"event": "end", "attempt": 3, "step": 2500, "time": ..., "seconds": 61.2, "status": 42, "error": "preempted"}

An attempt that was killed has no end.
"""

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jaxdiff import processes
from jaxdiff import workdir as workdirs

__all__ = ["Attempt", "InVain", "begin", "share", "summary"]

FILE = "run.jsonl"


class InVain(RuntimeError):
    """So many attempts saved nothing that another one would not either."""


class Attempt:
    """A start of a run, which says once how it ended."""

    def __init__(self, workdir: Any, number: int, step: int) -> None:
        self._workdir, self._open = workdir, workdir is not None
        self._begun = time.time()
        self.number, self.step = number, step

    def end(self, status: int, error: str = "") -> None:
        """Appends the end; only the first word counts.

        Args:
          status: of the process.
          error: what went wrong, in a line.
        """
        if self._open and self._workdir is not None:
            self._open = False
            workdirs.append(self._workdir / FILE, {
                "event": "end", "attempt": self.number, "step": self.step, "time": round(time.time(), 3),
                "seconds": round(time.time() - self._begun, 3), "status": status, "error": error[:500]})

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        """Within it, what is raised is the end: 2 what the user can mend, 42 a lost peer, 1 all else."""
        try:
            yield
        except BaseException as error:
            cause = error.__cause__ or error
            theirs = cause is not error and isinstance(cause, (ValueError, OSError))  # said to the user in one line
            self.end(2 if theirs else processes.verdict(error), f"{type(cause).__name__}: {cause}".partition("\n")[0])
            raise


def begin(workdir: Any, step: int, about: Mapping[str, Any], *, most: int, writes: bool = True) -> Attempt:
    """Appends a start.

    Args:
      workdir: the run's folder.
      step: of the newest checkpoint; 0 where there is none.
      about: of the machine and the code.
      most: attempts in a row that may save no new step.
      writes: whether this process is the one that writes.

    Raises:
      InVain: so many attempts before this one saved nothing new; how to go on.
    """
    rows = list(workdirs.rows(workdir / FILE))
    starts = [row for row in rows if row["event"] == "start"]
    vain = _in_vain(rows, step)
    if vain >= most:
        errors = [row["error"] for row in rows if row["event"] == "end" and row["error"]]
        raise InVain(
            f"{vain} attempts in a row saved no step after {step}{': the last said ' + errors[-1] if errors else ''}; "
            f"mend the cause, then allow more with --config.limits.attempts={2 * vain} or rename "
            f"{workdir / FILE}")
    number = 1 + max((row["attempt"] for row in starts), default=0)
    if writes:
        workdirs.append(workdir / FILE, {"event": "start", "attempt": number, "step": step,
                                         "time": round(time.time(), 3), **about})
    return Attempt(workdir if writes else None, number, step)


def _in_vain(rows: Iterable[Mapping], step: int) -> int:
    """Returns how many of the last attempts began at this very step and did not end well."""
    count = 0
    for row in rows:
        if row["event"] == "start":
            count = count + 1 if row["step"] == step else 0
        elif row["status"] == 0:
            count = 0
    return count


def summary(workdir: Any) -> dict[str, Any] | None:
    """Returns how many attempts there were, how they ended (status -> number; None for killed), and over how many
    seconds; None where there was none."""
    rows = list(workdirs.rows(workdir / FILE))
    ends = {row["attempt"]: row for row in rows if row["event"] == "end"}
    starts = [row for row in rows if row["event"] == "start"]
    if not starts:
        return None
    statuses: dict[int | None, int] = {}
    for row in starts:
        status = ends[row["attempt"]]["status"] if row["attempt"] in ends else None
        statuses[status] = statuses.get(status, 0) + 1
    last = max(row["time"] for row in rows)
    return {"attempts": len(starts), "statuses": statuses, "seconds": last - starts[0]["time"],
            "from_step": starts[0]["step"], "to_step": max(row["step"] for row in rows)}


def share(told: Mapping[str, Any], kept: int, step_seconds: float) -> float:
    """Returns the goodput: which share of the wall clock, from the first start to the last word, made steps that were
    kept, 0 to 1.

    Args:
      told: a `summary`.
      kept: steps.
      step_seconds: the time of one.
    """
    return min(1.0, kept * step_seconds / told["seconds"]) if told["seconds"] > 0 else 0.0
