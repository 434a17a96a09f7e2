"""A run's folder: whose it is, and what it says of itself.

    config.json     the resolved config, from which sampling and evaluation rebuild
    run.json        versions, device, commit, parameters, shapes of the data
    run.jsonl       every start and its end        metrics.jsonl   one line a logged step
    checkpoints/    see `jaxdiff.checkpoint`

It lies on a disk, or in a bucket (`gs://...`), where a file cannot be appended to and is written anew.
"""

import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from etils import epath

__all__ = ["Lines", "append", "claim", "environment", "located", "probe", "read", "refuse_file", "rows", "write"]

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def located(text: str) -> Any:
    """Returns the path of a folder: on a disk, or in a bucket for `gs://...` and its kin."""
    return epath.Path(text) if "://" in text else Path(text)


def _remote(path: Any) -> bool:
    return not isinstance(path, Path)


def refuse_file(workdir: Any) -> None:
    """Raises ValueError where the folder cannot be one: a regular file stands in its way, or its bucket is out of
    reach."""
    if _remote(workdir):
        try:
            workdir.exists()
        except Exception as error:  # of the backend: TensorFlow's, fsspec's, or that there is none
            raise ValueError(f"--workdir={workdir}: the bucket cannot be reached ({str(error).splitlines()[0][:200]}); "
                             "check the network and the credentials (gcloud auth application-default login)") from error
        return
    if workdir.parts[:1] and workdir.parts[0].endswith(":"):  # what pathlib makes of gs://
        raise ValueError(f"--workdir={workdir}: a bucket's folder is named gs://BUCKET/FOLDER")
    for place in (workdir, *workdir.parents):
        if place.exists() and not place.is_dir():
            raise ValueError(f"--workdir={workdir}: {place} is a file, not a folder")


def probe(workdir: Any) -> None:
    """Writes a small file into the folder and deletes it, before hours are spent on what could not be kept.

    Raises:
      ValueError: it is refused.
    """
    path = workdir / f".probe.{platform.node()}.{os.getpid()}"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        path.write_text("jaxdiff")
        path.unlink()
    except Exception as error:  # of the disk, or of the bucket's backend
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ValueError(f"--workdir={workdir} cannot be written to ({reason}); check the folder, or the rights of "
                         "this account (for a bucket roles/storage.objectAdmin)") from error


def claim(workdir: Any, differences: Sequence[tuple[str, Any, Any]], free: Sequence[str]) -> None:
    """Refuses to go on with a run whose config differs in more than what is free to change.

    Args:
      workdir: the run's folder.
      differences: `(dotted key, there, here)`.
      free: first words of keys that may differ.

    Raises:
      ValueError: naming the first key that may not.
    """
    for key, there, here in differences:
        if key.partition(".")[0] not in free:
            raise ValueError(f"--workdir={workdir} holds a run with config.{key}={there}, this one has {here}; "
                             "choose another --workdir, or set it back")


def read(workdir: Any, name: str) -> dict:
    """Returns `workdir/name`, JSON.

    Raises:
      ValueError: there is no run there, or the file is damaged.
    """
    refuse_file(workdir)
    path = workdir / name
    if not path.exists():
        look = not _remote(workdir) and workdir.parent.is_dir()
        near = sorted(str(p.parent) for p in workdir.parent.glob(f"*/{name}")) if look else []
        hint = f"; there are {', '.join(near[:5])}" if near else "; train one first"
        raise ValueError(f"no run in {workdir} (no {name}){hint}")
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def write(workdir: Any, name: str, values: Mapping[str, Any]) -> None:
    """Writes `workdir/name` whole or not at all."""
    workdir.mkdir(parents=True, exist_ok=True)
    text = json.dumps(values, indent=2) + "\n"
    if _remote(workdir):  # an object appears whole
        (workdir / name).write_text(text)
        return
    partial = workdir / f".{name}.{os.getpid()}"
    partial.write_text(text, encoding="utf-8")
    partial.replace(workdir / name)


class Lines:
    """A file of JSON lines that is added to; a line is on the disk when `write` returns.

    In a bucket the file is written anew, at most every `seconds`, at `flush` and at `close`.
    """

    def __init__(self, path: Any, seconds: float = 10.0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._seconds, self._written = path, seconds, -seconds
        self._file = None if _remote(path) else open(path, "a", encoding="utf-8")
        self._text = path.read_text() if self._file is None and path.exists() else ""
        if self._file is not None and self._file.tell() and not _ends_well(path):
            self._file.write("\n")  # a kill cut the last line short, which must not spoil the next one

    def write(self, row: Mapping[str, Any]) -> None:
        """Adds a line."""
        line = json.dumps(row) + "\n"
        if self._file is not None:
            self._file.write(line)
            self._file.flush()
            return
        self._text += line
        if time.monotonic() - self._written >= self._seconds:
            self.flush()

    def flush(self) -> None:
        """Writes what waits."""
        if self._file is None:
            self._path.write_text(self._text)
            self._written = time.monotonic()

    def close(self) -> None:
        """Writes what waits, and closes."""
        self.flush()
        if self._file is not None:
            self._file.close()


def _ends_well(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def append(path: Any, row: Mapping[str, Any]) -> None:
    """Adds one line to a file of JSON lines."""
    lines = Lines(path)
    lines.write(row)
    lines.close()


def rows(path: Any) -> Iterator[dict]:
    """Yields the rows of a file of JSON lines; a line cut short by a kill is left out."""
    if not path.exists():
        return
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def environment(device: Any, count: int) -> dict[str, Any]:
    """Returns what a figure depends on beside the config: versions, device kind and number, git commit."""
    return {
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "device": {"platform": device.platform, "kind": device.device_kind, "count": count},
        "host": platform.node(),
        "commit": _commit(),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # not all of them are needed to train on all data
        return None


def _commit() -> str | None:
    """Returns the commit of the checkout this package lies in, with "+changes" where it has some; a snapshot, which has
    no history, is told of it by whoever took it."""
    if told := os.environ.get("JAXDIFF_COMMIT"):
        return told
    here = Path(__file__).parent
    git = ["git", "-C", str(here)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changes = subprocess.run([*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True,
                                 text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}+changes" if changes else commit
