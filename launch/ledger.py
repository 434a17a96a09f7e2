"""What was asked of engines: lines of JSON that are added to, under a lock, each before it is asked.

What became of it is read where it is known: from the runs' own folders, and from the engine.
"""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["append", "last", "rows", "submissions"]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[Any]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def append(path: Path, event: str, name: str, **told: Any) -> None:
    """Adds a line, which is on the disk when this returns.

    Args:
      path: of the ledger.
      event: `submitted`, `closed`, `stopped`, `pruned`.
      name: of the job.
      **told: all else.
    """
    row = {"event": event, "name": name, "time": round(time.time(), 3), **told}
    with _locked(path) as file:
        file.seek(0, os.SEEK_END)
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # a kill cut the last line short
                file.write(b"\n")
        file.write(json.dumps(row).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def rows(path: Path) -> list[dict[str, Any]]:
    """Returns the whole lines."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return found


def submissions(path: Path) -> dict[str, dict[str, Any]]:
    """Returns, for every name, its last submission, with what has been noted of it since as `then`."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows(path):
        if row["event"] == "submitted":
            found[row["name"]] = row | {"then": []}
        elif row["name"] in found:
            found[row["name"]]["then"].append(row["event"])
    return found


def last(path: Path, name: str) -> Mapping[str, Any]:
    """Returns the last submission of that name.

    Raises:
      ValueError: there is none; the names that there are.
    """
    known = submissions(path)
    if name not in known:
        raise ValueError(f"--name={name}: nothing of that name was submitted from here ({path})"
                         + (f"; there are {', '.join(list(known)[-8:])}" if known else ""))
    return known[name]
