"""A run's folder: whose it is, and what it says of itself.

    config.json     the resolved config, from which sampling and evaluation rebuild
    run.json        versions, device, commit, parameters, shapes of the data
    metrics.jsonl   one line a logged step         checkpoints/   see `jaxdiff.checkpoint`
"""

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["claim", "environment", "read", "refuse_file", "write"]

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def refuse_file(workdir: Path) -> None:
    """Raises ValueError where the folder cannot be one: a bucket, or a regular file stands in its way."""
    if workdir.parts[:1] and workdir.parts[0].endswith(":"):  # what a path makes of gs://
        raise ValueError(f"--workdir={workdir}: a run's folder is on a disk; mount the bucket and name its folder")
    for place in (workdir, *workdir.parents):
        if place.exists() and not place.is_dir():
            raise ValueError(f"--workdir={workdir}: {place} is a file, not a folder")


def claim(workdir: Path, differences: Sequence[tuple[str, Any, Any]], free: Sequence[str]) -> None:
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


def read(workdir: Path, name: str) -> dict:
    """Returns `workdir/name`, JSON.

    Raises:
      ValueError: there is no run there, or the file is damaged.
    """
    refuse_file(workdir)
    path = workdir / name
    if not path.exists():
        near = sorted(str(p.parent) for p in workdir.parent.glob(f"*/{name}")) if workdir.parent.is_dir() else []
        hint = f"; there are {', '.join(near[:5])}" if near else "; train one first"
        raise ValueError(f"no run in {workdir} (no {name}){hint}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def write(workdir: Path, name: str, values: Mapping[str, Any]) -> None:
    """Writes `workdir/name` whole or not at all."""
    workdir.mkdir(parents=True, exist_ok=True)
    partial = workdir / f".{name}.{os.getpid()}"
    partial.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    partial.replace(workdir / name)


def environment(device: Any, count: int) -> dict[str, Any]:
    """Returns what a figure depends on beside the config: versions, device kind and number, git commit."""
    return {
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "device": {"platform": device.platform, "kind": device.device_kind, "count": count},
        "host": platform.node(),
        "commit": _commit(),
    }


def _commit() -> str | None:
    """Returns the commit of the checkout this package lies in, with "+changes" where it has some."""
    here = Path(__file__).parent
    git = ["git", "-C", str(here)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changes = subprocess.run([*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True,
                                 text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}+changes" if changes else commit
