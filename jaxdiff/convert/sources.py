"""What is to be converted: a weight file, or a folder of diffusers; and what was found in it."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from jaxdiff import foreign
from jaxdiff.convert.tables import Rule
from jaxdiff.protocols import Array

__all__ = ["Found", "Source", "Told", "known", "number", "opened"]

WHOLE = ("ema", "model_ema", "model_ema1", "state_dict", "model", "net")  # which of several networks, the first there
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl")


class Told(dict):
    """What a file says, by name; what it does not say is the user's to know of, not a fault of ours."""

    def __missing__(self, name: str) -> NoReturn:
        there = ", ".join(sorted(map(str, self))[:3]) or "nothing"
        raise ValueError(f"no {name}: not a network of this layout, or not all of one; there are {there}, ...")


class Source(NamedTuple):
    """What was read.

    Attributes:
      weights: their name -> array.
      record: the pickled module, where it was one.
      beside: the other objects of the file.
      config: `config.json` of a diffusers folder, {} elsewhere.
      schedule: `scheduler_config.json`, {} where there is none.
      sha256: file name -> hash.
    """

    weights: dict[str, Array]
    record: foreign.Record | None
    beside: dict[str, Any]
    config: dict[str, Any]
    schedule: dict[str, Any]
    sha256: dict[str, str]


class Found(NamedTuple):
    """What a layout makes of a source; None stands for what the file does not say.

    Attributes:
      weights: their name -> array, without what surrounds the network.
      network: its part of a config.
      rules: `(network, resolution) -> table`.
      shape: of a sample, (height, width, channels).
      process, parameterization, prepare, sampler, times: parts of a config.
      conditions: key of `cond` -> (shape without the batch, dtype).
    """

    weights: Mapping[str, Array]
    network: dict[str, Any]
    rules: Callable[[Any, int], tuple[Rule, ...]]
    shape: tuple[int | None, int | None, int]
    process: dict[str, Any] | None
    parameterization: dict[str, Any] | None
    prepare: dict[str, Any]
    sampler: dict[str, Any]
    times: dict[str, Any]
    conditions: dict[str, tuple[tuple[int, ...], str]]


def opened(path: Path, *, sha256: str | None = None, parts: tuple[str, ...] = ()) -> Source:
    """Reads a weight file, a folder of diffusers, or a part of one.

    Args:
      path: the file or the folder.
      sha256: what the one weight file must hash to.
      parts: subfolders of a pipeline that may hold the network, such as `unet`.

    Raises:
      ValueError: nothing there, no weights in it, another hash, or a file that is refused.
      OSError: it cannot be read.
    """
    if not path.exists():
        raise ValueError(f"{path} is not there; download it on a machine with internet and name its place")
    files, config, schedule = ([path], {}, {}) if path.is_file() else _folder(path, parts)
    hashes = {file.name: foreign.sha256(file) for file in files}
    if sha256 is not None and [sha256.lower()] != list(hashes.values()):
        raise ValueError(f"{path} has the sha256 {', '.join(hashes.values())}, not {sha256}: damaged, or another file")
    weights: dict[str, Array] = {}
    for file in files:
        record, inner, beside = _network(foreign.read(file), file)
        weights |= inner
    return Source(Told(weights), record, beside, Told(config), Told(schedule), hashes)


def _folder(path: Path, parts: tuple[str, ...]) -> tuple[list[Path], dict, dict]:
    home = next((path / part for part in parts if (path / part / "config.json").exists()), path)
    beside = [home / "scheduler", home.parent / "scheduler"]
    schedule = next((_json(folder / "scheduler_config.json") for folder in beside
                     if (folder / "scheduler_config.json").exists()), {})
    if not (home / "config.json").exists():
        raise ValueError(f"{path} has no config.json{' in ' + ' or '.join(parts) if parts else ''}: "
                         "not a folder of diffusers; name a weight file")
    for index in sorted(home.glob("*.index.json")):
        names = sorted({*_json(index)["weight_map"].values()})
        return [home / name for name in names], _json(home / "config.json"), schedule
    files = sorted((file for file in home.iterdir() if file.suffix in SUFFIXES),
                   key=lambda file: (SUFFIXES.index(file.suffix), len(file.name)))  # not `.fp16` where both are there
    if not files:
        raise ValueError(f"{home} has no weights; one of *{', *'.join(SUFFIXES)} should lie there")
    return files[:1], _json(home / "config.json"), schedule


def _json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _network(read: Any, file: Path) -> tuple[foreign.Record | None, dict[str, Array], dict[str, Any]]:
    """Returns the module, its weights, and what lies beside it."""
    if isinstance(read, foreign.Record):
        return read, foreign.state_dict(read), {}
    if not isinstance(read, Mapping):
        raise ValueError(f"{file} holds a {type(read).__name__}, not weights by name")
    if read and all(isinstance(name, str) and hasattr(value, "shape") for name, value in read.items()):
        return None, dict(read), {}
    for name in WHOLE:
        if isinstance(read.get(name), (Mapping, foreign.Record)):
            record, weights, _ = _network(read[name], file)
            return record, weights, {key: value for key, value in read.items() if key != name}
    raise ValueError(f"{file} holds {', '.join(map(str, read))}; none of {', '.join(WHOLE)} is among them")


def number(weights: Mapping[str, Array], stem: str) -> int:
    """Returns how many numbers follow a stem in the names; 0 where it is in none."""
    return 1 + max((int(name.removeprefix(stem).split(".")[0]) for name in weights if name.startswith(stem)),
                   default=-1)


def known(kwargs: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `wanted` with the values that are there, sequences as tuples; None counts as not there."""
    there = {key: default if kwargs.get(key) is None else kwargs[key] for key, default in wanted.items()}
    return {key: tuple(value) if isinstance(value, list) else value for key, value in there.items()}
