"""Runs any text encoder over a file of captions, and keeps what it gives for training.

    python -m jaxdiff.data.embed --encoder=my_encoders:t5 --captions=captions.txt --out=embeddings

`encode(list[str]) -> {"text": [k, m, d], "mask": [k, m], "pooled": [k, p]}` is called with a batch of captions; `mask`
(all tokens) and `pooled` (none) may be left out, and m is one number for all batches.  A run that was interrupted
goes on from its last batch: `progress.json` is written after each, and becomes `embeddings.json` after the last.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from tqdm import tqdm

from jaxdiff import build
from jaxdiff.data import captions
from jaxdiff.data.captions import ARRAYS, Captions

__all__ = ["main", "write"]

DTYPES = {"text": np.float16, "mask": np.bool_, "pooled": np.float16}
FILES = (*(f"{name}.npy" for name in (*ARRAYS, "sums")), "captions.jsonl")


def write(encode: Callable, given: Captions, out: str, *, encoder: str, batch: int = 64) -> None:
    """Writes the embeddings of captions to a folder; `data.encoded` reads them.

    Args:
      encode: see the module.
      given: n captions.
      out: the folder, new, or one whose embeddings of the same captions by the same encoder are unfinished.
      encoder: its name, for the record.
      batch: captions in a call, at least 1; the last call has the rest.

    Raises:
      ValueError: a folder that holds something else, too little room, or an encoder that gives something else.
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    folder, lines = Path(out).expanduser(), captions.as_lines(given)
    about = {"encoder": encoder, "sha256": hashlib.sha256(lines).hexdigest(), "count": len(given.texts)}
    if not given.texts:
        raise ValueError("there are no captions")
    state = _begun(folder, about)
    if state is None:
        return
    (folder / "captions.jsonl").write_bytes(lines)
    arrays = _opened(folder, state) if state["done"] else {}
    with tqdm(total=about["count"], initial=state["done"], unit=" captions", disable=None) as bar:  # terminals only
        while state["done"] < about["count"]:
            texts = given.texts[state["done"]:state["done"] + batch]
            values = _checked(encode(list(texts)), len(texts))
            if not arrays:
                arrays = _created(folder, values, state)
            _put(arrays, values, state["done"])
            state["done"] += len(texts)
            _save(folder / "progress.json", state)
            bar.update(len(texts))
    (folder / "progress.json").replace(folder / "embeddings.json")


def _begun(folder: Path, about: dict[str, Any]) -> dict[str, Any] | None:
    """Returns how far the folder's run came, a new one's start, or None for a finished one."""
    for name in ("embeddings.json", "progress.json"):
        if (folder / name).is_file():
            state = _loaded(folder / name)
            for key, value in about.items():
                if state[key] != value:
                    raise ValueError(f"{str(folder)!r} holds embeddings of {key} {state[key]!r}, this is {value!r}; "
                                     "choose another --out")
            return None if name == "embeddings.json" else state
    taken = [name for name in FILES if (folder / name).exists()]
    if taken:
        raise ValueError(f"{str(folder)!r} holds {taken[0]}, which no run wrote; choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    state = {**about, "done": 0, "arrays": {}}
    _save(folder / "progress.json", state)
    return state


def _loaded(file: Path) -> dict[str, Any]:
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
        return {key: state[key] for key in ("encoder", "sha256", "count", "done", "arrays")}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{str(file)!r} is damaged: {error}; remove the folder and begin anew") from error


def _save(file: Path, state: Mapping[str, Any]) -> None:
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
    partial.replace(file)


def _checked(values: Any, number: int) -> dict[str, np.ndarray]:
    """Returns an encoder's arrays as they are kept."""
    if not isinstance(values, Mapping) or not {"text"} <= set(values) <= set(ARRAYS):
        what = ", ".join(sorted(values)) if isinstance(values, Mapping) else type(values).__name__
        raise ValueError(f"an encoder gives a dict of 'text' and, if it likes, 'mask' and 'pooled', got {what}")
    given = {name: np.asarray(value) for name, value in values.items()}
    shape = given["text"].shape
    mask = given.setdefault("mask", np.ones(shape[:2], bool)).astype(bool)
    wanted = {"text": (number, *shape[1:3], *[0] * (3 - len(shape))), "mask": (number, *shape[1:2])}
    for name, array in given.items():
        if array.shape != wanted.get(name, (number, *array.shape[1:2])) or array.ndim != (3 if name == "text" else 2):
            raise ValueError(f"an encoder gives text [k, m, d], mask [k, m] and pooled [k, p] of k={number} captions, "
                             f"got {name} {list(array.shape)} and text {list(shape)}")
    with np.errstate(over="ignore"):
        kept: dict[str, np.ndarray] = {name: given[name].astype(DTYPES[name]) for name in ARRAYS if name in given}
    kept["text"] = np.where(mask[..., None], kept["text"], np.float16(0))
    for name in ("text", "pooled"):
        if name in kept and not np.isfinite(kept[name]).all():
            raise ValueError(f"an encoder gave a {name!r} that is not finite in float16, whose largest is 65,504")
    return kept


def _created(folder: Path, values: Mapping[str, np.ndarray], state: dict[str, Any]) -> dict[str, np.ndarray]:
    """Makes the files, of the shapes of the first batch, and notes them in `state`."""
    count = state["count"]
    state["arrays"] = {name: [[count, *value.shape[1:]], value.dtype.name] for name, value in values.items()}
    need, free = count * sum(value[0].nbytes for value in values.values()), shutil.disk_usage(folder).free
    if need > free:
        raise ValueError(f"{need / 2**30:.1f} GiB are needed in {str(folder)!r}, and {free / 2**30:.1f} are free")
    return _opened(folder, state, "w+")


def _opened(folder: Path, state: Mapping[str, Any], mode: Any = "r+") -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for name, (shape, dtype) in {**state["arrays"], "sums": [[state["count"]], "uint32"]}.items():
        try:
            arrays[name] = np.lib.format.open_memmap(folder / f"{name}.npy", mode, dtype, tuple(shape))
        except (OSError, ValueError) as error:
            raise ValueError(f"{str(folder)!r} is damaged: {error}; remove it and begin anew") from error
        if mode != "w+" and [list(arrays[name].shape), arrays[name].dtype.name] != [shape, dtype]:
            raise ValueError(f"{str(folder)!r} is damaged: {name}.npy is not what progress.json says; remove it and "
                             "begin anew")
    return arrays


def _put(arrays: Mapping[str, Any], values: Mapping[str, np.ndarray], start: int) -> None:
    """Writes a batch to its rows."""
    for name, array in arrays.items():
        if name != "sums" and (name not in values or values[name].shape[1:] != array.shape[1:]):
            shape = list(values[name].shape[1:]) if name in values else "missing"
            raise ValueError(f"all batches have one shape: {name!r} was {list(array.shape[1:])} and is {shape} for "
                             f"captions {start} and on; pad to a fixed number of tokens")
    if set(values) - set(arrays):
        raise ValueError(f"the encoder gives {', '.join(set(values) - set(arrays))} for captions {start} and on, and "
                         "did not before")
    number = len(values["text"])
    for name, value in values.items():
        arrays[name][start:start + number] = value
    rows = ({name: value[i] for name, value in values.items()} for i in range(number))
    arrays["sums"][start:start + number] = [captions.check_sum(row) for row in rows]
    for array in arrays.values():
        array.flush()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see --help")


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    parser = _Parser(prog="python -m jaxdiff.data.embed", description="Embed captions with any encoder.",
                     allow_abbrev=False)
    parser.add_argument("--encoder", required=True, metavar="MODULE:FUNCTION", help="encode(list[str]) -> dict")
    parser.add_argument("--captions", required=True, metavar="FILE", help=".txt, one a line, or .jsonl")
    parser.add_argument("--out", required=True, metavar="DIR", help="where the embeddings go")
    parser.add_argument("--batch", type=int, default=64, help="captions in a call (%(default)s)")
    try:
        args = parser.parse_args(argv)
        if ":" not in args.encoder:
            raise ValueError(f"--encoder is MODULE:FUNCTION, got {args.encoder!r}")
        given = captions.read(args.captions)
        encode = build.resolve(args.encoder, build)
        write(encode, given, args.out, encoder=args.encoder, batch=args.batch)
    except (ValueError, OSError) as error:
        print(f"embed: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("embed: interrupted; the same command goes on from the last batch", file=sys.stderr)
        return 130
    print(f"{len(given.texts)} captions are embedded in {args.out}")
    return 0


if __name__ == "__main__":
    sys.path.insert(0, os.getcwd())  # so that a user's own encoder imports
    sys.exit(main(sys.argv[1:]))
