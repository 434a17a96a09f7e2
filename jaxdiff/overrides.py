"""Config files and what the command line changes in them: `--config=x.py:arg`, `--config.a.b=value`.

Every key is looked up and every value compared with the type of what it replaces; a whole part is
replaced by a dict, `--config.sampler="{'name': 'ddim', 'eta': 0.5}"`.
"""

import ast
import copy
import inspect
import math
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxdiff.build import nearest

__all__ = ["apply", "differences", "load", "split"]

SHIPPED = Path(sys.prefix) / "share" / "jaxdiff"  # holds configs/ where the package was installed as a wheel


def split(argv: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Separates `--config.key=value`, `--config.key value`, `--config.flag` and `--noconfig.flag` from the rest.

    Raises:
      ValueError: a key without a value.
    """
    rest: list[str] = []
    pairs: list[tuple[str, str]] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        if word.startswith(("--config.", "--noconfig.")):
            key, equals, value = word.partition(".")[2].partition("=")
            if word.startswith("--no"):
                value = "False"
            elif not equals:
                value = words.pop(0) if words and not words[0].startswith("--") else "True"
            pairs.append((key, value))
        else:
            rest.append(word)
    return rest, pairs


def load(spec: str) -> ConfigDict:
    """Runs `get_config(arg)` of a file `path` or `path:arg`.

    Where it is not found from here, the configs that were installed with the package are looked through.

    Raises:
      ValueError: no such file, no `get_config`, or an argument it does not take.
    """
    name, _, arg = spec.partition(":")
    path = Path(name)
    if not path.is_file() and (SHIPPED / name).is_file():
        path = SHIPPED / name
        sys.path.extend({str(SHIPPED)} - set(sys.path))  # they have parents
    if not path.is_file():
        beside = [str(p) for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise ValueError(f"no config file {name!r} in {Path.cwd()}{nearest(name, beside) if beside else ''}")
    try:
        defined = runpy.run_path(str(path))
    except ModuleNotFoundError as error:
        raise ValueError(f"{name} imports {error.name!r}, which is not found from {Path.cwd()}; run the command in the "
                         "folder above configs/") from error
    if "get_config" not in defined:
        raise ValueError(f"{name} defines no get_config(arg)")
    get_config = defined["get_config"]
    takes = inspect.signature(get_config).parameters
    if arg and not takes:
        raise ValueError(f"{name}: its get_config takes no argument, got {arg!r}")
    return get_config(arg) if takes else get_config()


def apply(config: ConfigDict, pairs: Sequence[tuple[str, str]]) -> ConfigDict:
    """Returns a locked copy of `config` with `(key, text)` pairs applied in order.

    Raises:
      ValueError: an unknown key or a value of the wrong type, with the nearest right key.
    """
    made = copy.deepcopy(config)  # references within it go on referring to their copies
    with made.unlocked():
        for key, text in pairs:
            _set(made, key, text)
    return made.lock()


def _set(config: ConfigDict, key: str, text: str) -> None:
    *parents, last = key.split(".")
    place = config
    for depth, name in enumerate([*parents, last]):
        if not isinstance(place, ConfigDict) or name not in place:
            so_far = ".".join(("config", *parents[:depth]))
            here = list(place.keys()) if isinstance(place, ConfigDict) else []
            hint = nearest(name, here) if here else f"; {so_far} has no parts"
            raise ValueError(f"--config.{key}: {so_far} has no {name!r}{hint}{_whole_part(place, so_far)}")
        if depth < len(parents):
            place = place[name]
    value = _coerced(key, text, place, last)
    with place.unlocked():
        if isinstance(value, dict):
            del place[last]  # the part is replaced whole, not merged
        place[last] = value


def _whole_part(place: Any, path: str) -> str:
    """Says how to give a part an option that its config does not have."""
    if not isinstance(place, ConfigDict) or "name" not in place:
        return ""
    whole = f"--{path}=\"{{'name': '{place.name}', ...}}\""
    return f" (to give part {place.name!r} another option, replace it whole: {whole})"


def _coerced(key: str, text: str, place: ConfigDict, last: str) -> Any:
    kind = place.get_type(last)
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = {"true": True, "false": False, "none": None}.get(text.lower(), text)

    def refuse(wanted: str) -> ValueError:
        return ValueError(f"--config.{key} must be {wanted}, got {text!r}")

    if value is None:
        if place[last] is None:
            return None
        raise refuse(f"{kind.__name__}; it cannot be unset")
    if issubclass(kind, ConfigDict):
        if not isinstance(value, dict):
            raise refuse("a dict such as \"{'name': ..., option: ...}\"")
        return value
    if kind is float:
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
            raise refuse("a number")
        return float(value)
    if kind is int:
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1 or math.isinf(value):
            raise refuse("a whole number")
        return int(value)
    if kind is bool:
        if not isinstance(value, bool):
            raise refuse("True or False")
        return value
    if kind is tuple:
        return value if isinstance(value, tuple) else tuple(value) if isinstance(value, list) else (value,)
    return text if kind is str else value


def differences(old: dict, new: dict, prefix: str = "") -> list[tuple[str, Any, Any]]:
    """Returns (dotted key, old, new) wherever two configs, as plain JSON values, differ."""
    found = []
    for key in sorted({*old, *new}):
        name = f"{prefix}{key}"
        a, b = (tree[key] if key in tree else "unset" for tree in (old, new))
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{name}.")
        elif a != b:
            found.append((name, a, b))
    return found
