"""Files of published weights: where they are looked for, and what is held against them.  Nothing is ever downloaded.

A file is what the option `weights` names (a file, or a folder that holds one of the known names), or else lies in the
folder `$JAXDIFF_WEIGHTS`.  It is read by `jaxdiff.foreign`, which makes numbers and runs nothing.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdiff import foreign
from jaxdiff.build import nearest

__all__ = ["FOLDER", "arrays", "find", "opened"]

FOLDER = "JAXDIFF_WEIGHTS"


def find(names: str | Sequence[str], given: str | os.PathLike | None = None, *, source: str = "") -> Path:
    """Returns the file of weights.

    Args:
      names: under which it is published.
      given: a file of any name, or a folder that holds one of the names; None for `$JAXDIFF_WEIGHTS`, which is such
        a folder, or any file in it.
      source: where it is published, for the error.

    Raises:
      ValueError: it is not there; the message says which file to put where, and where it is published.
    """
    names = (names,) if isinstance(names, str) else tuple(names)
    place = os.environ.get(FOLDER) if given is None else given
    published = f", published at {source}" if source else ""
    wanted = f"{' or '.join(names)}{published}"
    if not place:
        raise ValueError(f"these features need weights, and nothing is downloaded: put {wanted}, in a folder and name "
                         f"the folder in ${FOLDER}, or the file in the option 'weights'")
    path = Path(place).expanduser()
    if path.is_file() and (given is not None or path.name in names):
        return path
    folder = path.parent if path.is_file() else path
    for name in names:
        if (folder / name).is_file():
            return folder / name
    where = "the option 'weights'" if given is not None else f"${FOLDER}"
    problem = f"there is none of these features in the folder {folder}" if folder.is_dir() else f"{path} is not there"
    raise ValueError(f"{where} says where weights are, and {problem}: put {wanted}, there; nothing is downloaded")


def opened(path: Path, *, sha256: str | None = None, hashes: Mapping[str, str] | None = None) -> tuple[Any, str]:
    """Reads a file of weights.

    Args:
      path: from `find`.
      sha256: what it must hash to, or the first digits of that; None for what is known of a file of its name.
      hashes: known name -> SHA-256, or its first digits; a name that ends in `-1a2b3c4d`, as torch's do, tells itself.

    Returns:
      What it holds, and its SHA-256.

    Raises:
      ValueError: another hash, or a file that is refused.
    """
    told = re.search(r"-([0-9a-f]{8,64})(?=\.\w+$)", path.name)
    known = dict(hashes or {})
    expected = sha256 or (known[path.name] if path.name in known else told[1] if told else "")
    found = foreign.sha256(path)
    if not found.startswith(expected.lower()):
        remedy = "" if sha256 else "; a file of your own needs a name of its own, or its hash in the option 'sha256'"
        raise ValueError(f"{path} has the sha256 {found}, which should begin with {expected}: damaged, or another "
                         f"file{remedy}")
    return foreign.read(path), found


def arrays(held: Any, wanted: Mapping[str, tuple[int, ...]], *, of: str, ignored: str = "") -> dict[str, np.ndarray]:
    """Returns name -> float32 array of exactly the wanted names and shapes.

    Args:
      held: what a file holds: arrays by name, perhaps in dicts of dicts, whose names are joined by dots.
      wanted: name -> shape.
      of: the network, for errors.
      ignored: a regular expression for names that may be there and are not read.

    Raises:
      ValueError: something that is no array, or the first name or shape that is missing, wrong or too many.
    """
    flat = flattened(held, of)
    for name, shape in wanted.items():
        if name not in flat:
            raise ValueError(f"these are not the weights of {of}: {name!r} is missing{nearest(name, flat)}")
        if flat[name].shape != tuple(shape):
            raise ValueError(f"these are not the weights of {of}: {name!r} has the shape {list(flat[name].shape)}, not "
                             f"{list(shape)}")
        if flat[name].dtype.kind not in "fV":  # V: bfloat16
            raise ValueError(f"these are not the weights of {of}: {name!r} are of {flat[name].dtype}")
    for name in flat:
        if name not in wanted and not (ignored and re.fullmatch(ignored, name)):
            raise ValueError(f"these are not the weights of {of}: it has no {name!r}{nearest(name, wanted)}")
    return {name: flat[name].astype(np.float32) for name in wanted}


def flattened(held: Any, of: str) -> dict[str, np.ndarray]:
    """Returns dotted name -> array of dicts of dicts, or of a pickled module."""
    if isinstance(held, foreign.Record):
        return foreign.state_dict(held)
    if not isinstance(held, Mapping):
        raise ValueError(f"these are not the weights of {of}: tensors by name are wanted, got {type(held).__name__}")
    flat: dict[str, np.ndarray] = {}
    for name, value in held.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": array for inner, array in flattened(value, of).items()}
        elif isinstance(value, np.ndarray):
            flat[str(name)] = value
        else:
            raise ValueError(f"these are not the weights of {of}: {name!r} is no tensor but {type(value).__name__}")
    return flat
