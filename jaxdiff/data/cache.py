"""What reading files has told before, kept so that the next opening need not read them again.

It lies in `$JAXDIFF_CACHE`, or in `$XDG_CACHE_HOME/jaxdiff`, or in `~/.cache/jaxdiff`, as numpy columns in one file
for each folder or shard; an empty `JAXDIFF_CACHE` keeps nothing.  All of it may be removed at any time: what is
missing, damaged, unreadable or cannot be written costs time and nothing else.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

__all__ = ["joined", "keep", "recall", "settled", "split", "stamp"]

SETTLED = 2_000_000_000  # nanoseconds after which a further change shows in the time of a file


def stamp(path: Path | int) -> tuple[int, int]:
    """Returns (size, time of change in ns) of a file or descriptor, which tell another content; (-1, -1) of none."""
    try:
        found = os.stat(path)
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


def settled(stamp: tuple[int, int], since: int) -> bool:
    """Whether a file that had this stamp at `since` (ns) would show any later change in it."""
    return stamp[0] >= 0 and since - stamp[1] > SETTLED


def joined(names: Iterable[str]) -> np.ndarray:
    """Returns names as one column of bytes uint8 [k]; see `split`."""
    return np.frombuffer(b"\0".join(map(os.fsencode, names)), np.uint8)


def split(column: np.ndarray) -> list[str]:
    """Returns the names of `joined`; of none it makes one empty name."""
    return [os.fsdecode(name) for name in column.tobytes().split(b"\0")]


def recall(kind: str, path: Path, about: str) -> dict[str, np.ndarray] | None:
    """Returns the columns kept of a folder or file, or None.

    Args:
      kind: what they tell.
      path: of what.
      about: what else they depend on, such as versions; others are as good as none.
    """
    try:
        with np.load(_place(kind, path), allow_pickle=False) as file:
            columns = dict(file)
        return columns if str(columns.pop("about")) == about else None
    except Exception:  # a damaged archive raises whatever zipfile, zlib and numpy raise
        return None


def keep(kind: str, path: Path, about: str, columns: Mapping[str, np.ndarray]) -> None:
    """Keeps columns for `recall`, whole or not at all."""
    if os.environ.get("JAXDIFF_CACHE") == "":
        return
    with contextlib.suppress(OSError):
        place = _place(kind, path)
        place.parent.mkdir(parents=True, exist_ok=True)
        draft = place.with_suffix(f".{os.getpid()}.draft")
        try:
            with open(draft, "wb") as file:
                np.savez(file, allow_pickle=False, about=np.array(about), **columns)
            draft.replace(place)
        finally:
            draft.unlink(missing_ok=True)


def _place(kind: str, path: Path) -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "jaxdiff")
    root = Path(os.environ.get("JAXDIFF_CACHE") or home).expanduser()
    whole = path.expanduser().resolve()
    return root / kind / f"{whole.name or 'root'}-{hashlib.sha256(os.fsencode(whole)).hexdigest()[:16]}.npz"
