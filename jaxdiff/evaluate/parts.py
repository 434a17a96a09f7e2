"""What was seen so far, on the disk: an interrupted evaluation goes on where it was."""

import io
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["Parts"]

SECONDS = 60.0  # between two files


class Parts:
    """Arrays of consecutive rows, in files `000000000-000001024.npz` of a folder on a disk or in a bucket.

    Names of arrays are paths, `inception/features`.  A file is written whole or not at all.
    """

    def __init__(self, folder: Any, *, seconds: float = SECONDS, writes: bool = True) -> None:
        self._folder, self._seconds, self._writes = folder, seconds, writes
        self._held: list[Mapping[str, np.ndarray]] = []
        self._first = self._count = 0
        self._at = time.monotonic()

    def read(self) -> int:
        """Takes up what lies there, from row 0 on without a gap; returns how many rows."""
        found = sorted(self._folder.glob("[0-9]*-*.npz")) if self._folder.exists() else []
        self._held, self._count = [], 0
        for path in found:
            start, _, end = path.name.removesuffix(".npz").partition("-")
            if int(start) != self._count:
                continue
            try:
                with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
                    self._held.append(dict(file))
            except Exception:  # a damaged archive raises whatever its first wrong byte leads to
                continue  # its rows may have been made again, in a file of another end
            self._count = int(end)
        self._first = self._count
        self._waiting: list[Mapping[str, np.ndarray]] = []
        return self._count

    def add(self, rows: Mapping[str, np.ndarray]) -> None:
        """Adds rows; at times they are written."""
        self._waiting.append(rows)
        self._count += len(next(iter(rows.values())))
        if time.monotonic() - self._at >= self._seconds:
            self.write()

    def write(self) -> None:
        """Writes what has not been written."""
        self._at = time.monotonic()
        if not self._waiting:
            return
        joined = _joined(self._waiting)
        self._held.append(joined)
        self._waiting = []
        if self._writes:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"{self._first:09d}-{self._count:09d}.npz"
            data = io.BytesIO()
            np.savez(data, allow_pickle=False, **joined)
            partial = self._folder / f".{path.name}"
            partial.write_bytes(data.getvalue())
            partial.rename(path)
        self._first = self._count

    def taken(self) -> dict[str, np.ndarray]:
        """Returns all rows, joined."""
        return _joined([*self._held, *self._waiting])

    def discard(self) -> None:
        """Removes the files: their sum is kept elsewhere."""
        if self._writes and self._folder.exists():
            for path in [*self._folder.glob("*.npz"), *self._folder.glob(".*.npz")]:
                path.unlink()
            self._folder.rmdir()


def _joined(parts: list[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}
