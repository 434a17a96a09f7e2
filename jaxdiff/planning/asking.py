"""A compile is a process of its own, with the environment that libtpu wants, and its answer is kept.

A job is JSON values: `config`, `program`, `batch`, `topology`, `bounds`, `slices`, `effort`, `platform` and `example`.
Answers lie in `$JAXDIFF_CACHE/plan`, or in `$XDG_CACHE_HOME/jaxdiff/plan`, or in `~/.cache/jaxdiff/plan`, by the hash
of all that they depend on; an empty `JAXDIFF_CACHE` keeps nothing.
"""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["answered", "digest", "libtpu", "versions"]

PACKAGE = Path(__file__).resolve().parent.parent
# Of a config: what each program depends on.
NETWORK = ("network", "process", "parameterization", "objective", "prepare", "ema", "mesh")
PARTS = {
    "train": (*NETWORK, "accumulate", "optimizer", "clip_norm", "project"),
    "sample": (*NETWORK, "sampler", "times", "guidance", "sample"),
}
ENVIRONMENT = {  # as if on a TPU's host, whatever kind: the topology's name says the rest
    "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-16", "TPU_WORKER_ID": "0",
    "TPU_WORKER_HOSTNAMES": "localhost", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TF_CPP_MIN_LOG_LEVEL": "2",
    "JAX_ENABLE_COMPILATION_CACHE": "0",
}


def libtpu() -> Path | None:
    """Returns the folder that libtpu is in: where Python looks, or `tpu` in the environment, as `make test` has it."""
    found = importlib.util.find_spec("libtpu")
    if found is not None and found.origin is not None:
        return Path(found.origin).parent.parent
    beside = Path(sys.prefix) / "tpu"
    return beside if (beside / "libtpu").is_dir() else None


def versions(platform: str) -> dict[str, str]:
    """Returns the versions of what compiles."""
    told = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")}
    home = libtpu() if platform == "tpu" else None
    if home is not None:
        found = [each.version for each in importlib.metadata.distributions(name="libtpu", path=[str(home)])]
        told["libtpu"] = found[0] if found else "of no known version"
    return told


def digest(job: Mapping[str, Any]) -> str:
    """Returns the hash of all that an answer depends on, the source of jaxdiff among it."""
    config = {name: job["config"][name] for name in PARTS[job["program"]] if name in job["config"]}
    source = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        source.update(path.read_bytes())
    about = {**job, "config": config, "versions": versions(job["platform"]), "source": source.hexdigest()}
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:24]


def answered(job: Mapping[str, Any], *, devices: int, timeout: float, again: bool = False) -> dict[str, Any]:
    """Returns what `planning.answering.answer` says of a job, from the cache where it was asked before.

    Args:
      job: see the module.
      devices: how many virtual ones a CPU is to have.
      timeout: seconds, after which the process is ended.
      again: ask, whatever the cache says.

    Returns:
      Its values, with `cached`; or `failed`, a line that says why there are none.

    Raises:
      ValueError: what is wrong with the config, before anything compiled.
    """
    place = _place(digest(job))
    if place is not None and not again:
        with contextlib.suppress(OSError, ValueError):
            return json.loads(place.read_text(encoding="utf-8")) | {"cached": True}
    told = _asked(job, devices, timeout)
    if "refused" in told:
        raise ValueError(told["refused"])
    if place is not None and "failed" not in told:
        _keep(place, told)
    return told | {"cached": False}


def _place(name: str) -> Path | None:
    if os.environ.get("JAXDIFF_CACHE") == "":
        return None
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "jaxdiff")
    return Path(os.environ.get("JAXDIFF_CACHE") or home).expanduser() / "plan" / f"{name}.json"


def _keep(place: Path, told: Mapping[str, Any]) -> None:
    """Writes an answer whole or not at all; what cannot be written is asked again."""
    with contextlib.suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        draft = place.with_suffix(f".{os.getpid()}.draft")
        draft.write_text(json.dumps(told), encoding="utf-8")
        draft.replace(place)


def _asked(job: Mapping[str, Any], devices: int, timeout: float) -> dict[str, Any]:
    """Runs a job in a process of its own."""
    command = [sys.executable, "-c", "from jaxdiff.planning import answering; answering.main()"]
    try:
        ended = subprocess.run(command, input=json.dumps(job), env=_environment(job["platform"], devices), text=True,
                               capture_output=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"not compiled within {timeout:g} s and stopped; --compile_timeout=SECONDS gives it longer"}
    if ended.returncode == 0:
        return json.loads(ended.stdout.splitlines()[-1])
    said = [line for line in ended.stderr.splitlines() if line.strip()]
    killed = "; it was killed, as is a process that needs more memory than there is" if ended.returncode == -9 else ""
    return {"failed": f"the compile ended with status {ended.returncode}{killed}: {said[-1][:300] if said else ''}"}


def _environment(platform: str, devices: int) -> dict[str, str]:
    made = {**os.environ, **ENVIRONMENT}
    paths = [str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    home = libtpu() if platform == "tpu" else None
    made["PYTHONPATH"] = os.pathsep.join([*paths, *([] if home is None else [str(home)])])
    if platform == "cpu":
        flags = [os.environ.get("XLA_FLAGS", ""), f"--xla_force_host_platform_device_count={devices}"]
        made["XLA_FLAGS"] = " ".join(filter(None, flags))
    return made
