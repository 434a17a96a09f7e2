"""A job, as every engine is told of it, and what an engine makes of it."""

import dataclasses
import os
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from launch.accelerators import Accelerator

__all__ = ["Job", "Rendering", "checked_name", "clean", "plain", "script", "surroundings"]

NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
LONGEST = 35  # xpk appends to it, and Kubernetes allows 63
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclasses.dataclass(frozen=True)
class Job:
    """One command for one shape of machine.

    Attributes:
      name: of lower-case letters, digits and dashes, at most 35.
      argv: the command, its program first.  No engine sees it: it stands in `jobs/NAME.sh`.
      workdir: where it writes; an absolute path or a bucket.
      accelerator: a TPU slice or the GPUs of a node; None on a machine as it is.
      slices: of a TPU, joined by the data-centre network.
      nodes: of GPUs, or processes on this machine.
      spot: may be taken away at any time, for less.
      zones: where to look for it, in turn.
      env: names and values; they stand in `jobs/NAME.sh` as well.
      secrets: names alone, of variables that the engine brings.
      setup: a shell command before each start, such as one that copies data to the host's disk; what it leaves stays.
      restarts: how often an engine that counts may start it again.
      flags: for the engine's own command, as they are.
    """

    name: str
    argv: tuple[str, ...]
    workdir: str
    accelerator: Accelerator | None = None
    slices: int = 1
    nodes: int = 1
    spot: bool = False
    zones: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    secrets: tuple[str, ...] = ()
    setup: str = ""
    restarts: int = 20
    flags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        checked_name(self.name)
        for word in (*self.argv, self.workdir, self.setup, *self.flags, *self.zones):
            clean(word)
        for variable, value in self.env:
            if not VARIABLE.fullmatch(variable):
                raise ValueError(f"--env={variable}=...: a variable is letters, digits and _, no digit first")
            clean(value, f"--env={variable}")
        for variable in self.secrets:
            if not VARIABLE.fullmatch(variable):
                raise ValueError(f"--secret={variable}: name a variable; its value is never written anywhere")
        for word in ("slices", "nodes"):
            if getattr(self, word) < 1:
                raise ValueError(f"--{word} must be at least 1, got {getattr(self, word)}")

    @property
    def processes(self) -> int:
        """How many processes of jax it will be."""
        if self.accelerator is not None and self.accelerator.is_tpu:
            return self.slices * self.accelerator.vms
        return self.nodes

    def flag(self, name: str) -> str | None:
        """Returns the value of one of the engine's flags; None where it is not given."""
        for number, word in enumerate(self.flags):
            if word.startswith(name + "="):
                return word[len(name) + 1:]
            if word == name and number + 1 < len(self.flags):
                return self.flags[number + 1]
        return None


@dataclasses.dataclass(frozen=True)
class Rendering:
    """What an engine would do; a dry run shows it, and a submission does that very thing.

    Attributes:
      files: by their path within the snapshot.
      submit: commands, each a list of arguments, in turn; run in the snapshot.
      status, logs, stop: one command each.
      said: what the user should know.
      lacks: placeholders that stand in the commands, and the flag that fills each.
    """

    files: Mapping[str, str]
    submit: tuple[tuple[str, ...], ...]
    status: tuple[str, ...]
    logs: tuple[str, ...]
    stop: tuple[str, ...]
    said: tuple[str, ...] = ()
    lacks: tuple[tuple[str, str], ...] = ()


def plain(text: str, longest: int = LONGEST, otherwise: str = "run") -> str:
    """Returns the nearest name that engines take, of at most so many letters."""
    return re.sub("[^a-z0-9]+", "-", text.lower()).strip("-").lstrip("-0123456789")[:longest].strip("-") or otherwise


def surroundings() -> dict[str, str]:
    """Returns the environment in which commands run: with this Python first on the PATH."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}


def checked_name(name: str) -> str:
    """Returns the name.

    Raises:
      ValueError: an engine would refuse it.
    """
    if not NAME.fullmatch(name) or len(name) > LONGEST:
        raise ValueError(f"--name={name}: lower-case letters, digits and dashes, a letter first and no dash last, "
                         f"{LONGEST} at most; such as --name={plain(name)}")
    return name


def clean(word: str, flag: str = "") -> str:
    """Returns the word.

    Raises:
      ValueError: it has a control character, which some engine would drop or cut at.
    """
    found = next((letter for letter in word if ord(letter) < 32 or ord(letter) == 127), None)
    if found is not None:
        raise ValueError(f"{flag + ': ' if flag else ''}{word!r} has the control character {found!r}; "
                         "values are one line of text")
    return word


def script(job: Job, commit: str) -> str:
    """Returns `jobs/NAME.sh`, the same for every engine: exports, then the command in place of bash, so that signals
    reach it."""
    told = {"JAXDIFF_COMMIT": commit, "PYTHONUNBUFFERED": "1", **dict(job.env)}
    return "\n".join([
        "#!/bin/bash",
        'cd "$(dirname "$0")/.." || exit 2',
        'if [ -x .venv/bin/python ]; then export PATH="$PWD/.venv/bin:$PATH"; fi',
        *(f"export {name}={shlex.quote(value)}" for name, value in told.items()),
        *([f"bash -c {shlex.quote(job.setup)} || exit 1"] if job.setup else []),
        f"exec {shlex.join(job.argv)}", ""])
