"""The code as it is at the moment of a submission: the last commit and what was changed since.

A run that is started again next week runs this, whatever the checkout has become.
"""

import dataclasses
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from launch.job import clean

__all__ = ["FOLDER", "Code", "code", "write"]

FOLDER = ".snapshots"


@dataclasses.dataclass(frozen=True)
class Code:
    """A commit and the changes to it.

    Attributes:
      root: of the checkout.
      commit: 40 hex digits.
      changes: as `git diff --binary` has them.
    """

    root: Path
    commit: str
    changes: bytes = dataclasses.field(repr=False, default=b"")

    @property
    def stamp(self) -> str:
        """What a run says of its code."""
        return self.commit + ("+changes" if self.changes else "")

    def path(self, name: str, files: Mapping[str, str]) -> Path:
        """Returns where a snapshot with these files lies: another place for other code or another command."""
        told = hashlib.sha256(self.commit.encode() + self.changes)
        for file, text in sorted(files.items()):
            told.update(f"\0{file}\0{text}".encode())
        return self.root / FOLDER / f"{name}-{told.hexdigest()[:10]}"


def _git(root: Path, *words: str) -> bytes:
    return subprocess.run(["git", "-C", str(root), *words], check=True, capture_output=True).stdout


def code(root: Path, config: str = "") -> Code:
    """Returns what a snapshot of the checkout would hold.

    Args:
      root: of the checkout.
      config: a file that the job reads; it must be in git.

    Raises:
      ValueError: there is no git, no commit, or the config would not be in the snapshot.
    """
    try:
        commit = _git(root, "rev-parse", "HEAD").decode().strip()
        changes = _git(root, "diff", "--binary", "HEAD")
    except (OSError, subprocess.CalledProcessError) as error:
        raise ValueError(f"{root} is no git checkout with a commit; jobs run a snapshot of one") from error
    file = config.partition(":")[0]
    if file:
        where = Path(file)
        inside = where.relative_to(root) if where.is_absolute() and where.is_relative_to(root) else where
        if inside.is_absolute() or not (root / inside).exists():
            raise ValueError(f"--config={config}: no such file in {root}, of which the job gets a snapshot")
        known = _git(root, "ls-files", "--", str(inside)).strip()
        if not known:
            raise ValueError(f"--config={config} is not in git, so the snapshot would lack it: git add {inside}")
    return Code(root, commit, changes)


def write(given: Code, path: Path, files: Mapping[str, str]) -> None:
    """Writes a snapshot, whole or not at all; one that is there stays as it is.

    Args:
      given: the code.
      path: where, as `Code.path` says.
      files: what comes on top.

    Raises:
      ValueError: the changes do not apply, or a path that engines would not carry.
    """
    clean(str(path))
    if path.exists():
        return
    path.parent.mkdir(exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        archive = _git(given.root, "archive", "--format=tar", given.commit)
        subprocess.run(["tar", "-x", "-C", str(partial)], input=archive, check=True)
        if given.changes:
            # Git must not take the checkout around it for what it patches: it would skip every path.
            alone = {**os.environ, "GIT_CEILING_DIRECTORIES": str(path.parent)}
            applied = subprocess.run(["git", "apply", "--whitespace=nowarn", "-"], input=given.changes, cwd=partial,
                                     env=alone, capture_output=True, check=False)
            if applied.returncode:
                raise ValueError(f"the uncommitted changes do not apply to {given.commit[:10]}: "
                                 f"{applied.stderr.decode().strip()}; commit them")
        for name, text in files.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_text(text, encoding="utf-8")
        partial.chmod(0o755)
        partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
