"""Moments of an encoder, made once and read by every run: a folder of numpy columns, mapped into memory.

    moments.npy   [n, h, w, 2c] float16: means, then standard deviations, before any scale
    label.npy     [n] int32, where there are classes
    text.npy, mask.npy, pooled.npy, ...   further columns [n, ...], each the condition of its name
    progress.json   how many of how many are written
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from jaxdiff.build import nearest

__all__ = ["latents", "write_latents"]

PROGRESS = "progress.json"


def latents(path: str) -> dict[str, np.ndarray]:
    """Opens a folder of latents; only the rows that are asked for are read.

    Args:
      path: the folder, as `write_latents` leaves it.

    Returns:
      `{"moments": float16 [n, h, w, 2c], "label": int32 [n], ...}`, a column for each file.

    Raises:
      ValueError: no such folder, no moments in it, columns of other lengths or shapes, or unfinished ones.
    """
    root = Path(path).expanduser()
    if not (root / "moments.npy").is_file():
        beside = [entry.name for entry in root.parent.iterdir() if entry.is_dir()] if root.parent.is_dir() else []
        hint = nearest(root.name, beside) if beside and not root.is_dir() else ""
        raise ValueError(f"no latents in {str(root)!r}{hint}: put moments.npy there, [n, height, width, 2 channels] "
                         "float16 of an encoder's means and standard deviations, and label.npy, [n] int32; "
                         "`jaxdiff encode` writes them, and `jaxdiff.data.write_latents`")
    _finished(root)
    made = {file.stem: np.load(file, mmap_mode="r") for file in sorted(root.glob("*.npy"))}
    shape = made["moments"].shape
    if len(shape) != 4 or shape[-1] % 2:
        raise ValueError(f"moments.npy in {str(root)!r} must be [n, height, width, 2 channels], means and then "
                         f"standard deviations, got {list(shape)}")
    lengths = {name: len(column) for name, column in made.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the columns in {str(root)!r} must be equally long, got {lengths}")
    return made


def _finished(root: Path) -> None:
    written, total = _progress(root)
    if written != total:
        raise ValueError(f"{str(root)!r} holds {written:,} of {total:,} latents: call `write_latents` again, it goes "
                         "on where it stopped")


def _progress(root: Path) -> tuple[int, int]:
    """How many are written, of how many; (0, 0) for columns of another origin."""
    file = root / PROGRESS
    if not file.is_file():
        return 0, 0
    read = json.loads(file.read_text(encoding="utf-8"))
    return read["written"], read["total"]


def write_latents(path: str, encode: Callable[[int], Iterable[Mapping[str, np.ndarray]]], *, total: int) -> Path:
    """Writes a folder of latents; called again after an interruption, it goes on with what is missing.

    Args:
      path: the folder; made where it is not.
      encode: `start -> chunks` of the examples from `start` on, in order, each `{"moments": [k, h, w, 2c], ...}`
        with one name, shape and kind a column throughout.
      total: of examples.

    Returns:
      The folder.

    Raises:
      ValueError: another total than the folder was begun with, columns that change, or too few examples.
    """
    root = Path(path).expanduser()
    root.mkdir(parents=True, exist_ok=True)
    written, begun = _progress(root)
    if begun not in (0, total):
        raise ValueError(f"{str(root)!r} was begun for {begun:,} latents, not {total:,}; choose another folder")
    if written == total:
        return root
    for chunk in encode(written):
        count = min(len(chunk["moments"]), total - written)
        for name, values in chunk.items():
            _put(root / f"{name}.npy", np.asarray(values)[:count], written, total)
        written += count
        _note(root, written, total)
        if written == total:
            return root
    raise ValueError(f"the encoder gave {written:,} examples, and {total:,} were to be written to {str(root)!r}")


def _put(file: Path, values: np.ndarray, start: int, total: int) -> None:
    if file.stem == "moments":
        values = values.astype(np.float16)
    column: np.ndarray
    if start == 0:
        column = np.lib.format.open_memmap(file, mode="w+", dtype=values.dtype, shape=(total, *values.shape[1:]))
    else:
        column = np.load(file, mmap_mode="r+") if file.is_file() else np.empty(0)
    was, are = (f"{a.dtype} {list(a.shape[1:])}" for a in (column, values))
    if was != are:
        raise ValueError(f"column {file.stem!r} was {was} before row {start:,} and is {are} from there on")
    column[start:start + len(values)] = values


def _note(root: Path, written: int, total: int) -> None:
    """Says how far it is, in one piece: a kill leaves the old word or the new one."""
    draft = root / f"{PROGRESS}.draft"
    draft.write_text(json.dumps({"written": written, "total": total}), encoding="utf-8")
    os.replace(draft, root / PROGRESS)
