"""Captions beside images: as tokens, or as embeddings that an encoder wrote to a folder before.

Captions are a `.txt` file, one a line, or a `.jsonl` file of `{"caption": ..., "file": ...}`, in the order of the
images; `file`, which may be left out, is then compared with the image's own.  Or they lie in the images' own shards,
and are named as these are, `train-{000..127}.tar`.  A folder of embeddings, as `python -m jaxdiff.data.embed` writes
it, holds

    embeddings.json   encoder, number and sha256 of the captions, shapes    captions.jsonl   what was encoded
    text.npy          float16 [n, m, d], zero where there is no token       mask.npy         bool [n, m]
    pooled.npy        float16 [n, p], if the encoder gives it               sums.npy         uint32 [n], CRC-32 of rows

and is mapped into memory, so that only the rows that are read are in it.
"""

import dataclasses
import hashlib
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdiff.build import nearest
from jaxdiff.data import archives, tokens

__all__ = ["ARRAYS", "Captions", "Joined", "as_lines", "captioned", "check_sum", "encoded", "parse", "read"]

ARRAYS = ("text", "mask", "pooled")


class Captions(NamedTuple):
    """Captions [n], and the files of their images where these are named."""

    texts: tuple[str, ...]
    files: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Joined:
    """Images with something more to each; see `captioned` and `encoded`, which make it."""

    images: Any
    columns: Mapping[str, np.ndarray]
    sums: np.ndarray | None = None
    folder: str = ""

    def __len__(self) -> int:
        return _length(self.images)

    def __getstate__(self) -> dict[str, Any]:
        """What a worker process is sent: of a mapped column the name of its file."""
        return {**vars(self), "columns": _sent(self.columns), "images": _sent(self.images)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, columns=_received(state["columns"]), images=_received(state["images"]))

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        row = {name: np.array(column[index]) for name, column in self.columns.items()}
        if self.sums is not None and check_sum(row) != self.sums[index]:
            raise ValueError(f"row {index} of {self.folder!r} is damaged; remove the folder and embed once more")
        if not isinstance(self.images, Mapping):
            return {**self.images[index], **row}
        return {name: column[index] for name, column in self.images.items()} | row


def captioned(images: Any, *, captions: str, length: int = 77, tokenizer: str | None = None) -> Any:
    """Joins images and the tokens of their captions.

    Args:
      images: a source of n images.
      captions: a file of n captions, in the order of the images, or the shards of both.
      length: of a text in tokens; see `tokens.Tokenizer.encode`.
      tokenizer: a file that `tokens.save` wrote; None takes bytes.

    Returns:
      The source of images, with `{"tokens": int32 [length], "token_mask": bool [length]}` more in each example.

    Raises:
      ValueError: no such file, a damaged one, or captions that are not those of the images.
    """
    found = read(captions)
    _check(images, found, captions)
    known = tokens.Tokenizer() if tokenizer is None else tokens.load(tokenizer)
    ids, mask = known.encode(found.texts, length)
    columns = {"tokens": ids, "token_mask": mask}
    return {**images, **columns} if isinstance(images, Mapping) else Joined(images, columns)


def encoded(images: Any, *, embeddings: str) -> Joined:
    """Joins images and the embeddings of their captions.

    Args:
      images: a source of n images.
      embeddings: a folder that `python -m jaxdiff.data.embed` wrote, of n captions in the order of the images.

    Returns:
      A source of what the images have and `{"text": float16 [m, d], "mask": bool [m]}`, with `"pooled": float16 [p]`
      where the encoder gives it.  A row is compared with its checksum whenever it is read.

    Raises:
      ValueError: no such folder, one that is unfinished or damaged, or captions that are not those of the images.
    """
    folder = Path(embeddings).expanduser()
    about = _about(folder)
    try:
        columns = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in (*about["arrays"], "sums")}
        lines = (folder / "captions.jsonl").read_bytes()
        whole = about["sha256"] == hashlib.sha256(lines).hexdigest() and len(columns["sums"]) == about["count"] and all(
            [list(columns[name].shape), columns[name].dtype.name] == value for name, value in about["arrays"].items())
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"embeddings in {str(folder)!r} are damaged: {error}") from error
    if not whole:
        raise ValueError(f"embeddings in {str(folder)!r} are damaged: its files are not what embeddings.json says")
    _check(images, parse(lines.decode(), str(folder)), str(folder))
    return Joined(images, columns, columns.pop("sums"), str(folder))


def read(path: str) -> Captions:
    """Returns the captions of a `.txt` or `.jsonl` file, or of shards; see the module.

    Raises:
      ValueError: no such file, one of another kind or without captions, or a line that is no caption.
    """
    file = Path(path).expanduser()
    if file.suffix == ".tar":
        texts, keys = archives.texts(path)
        return Captions(tuple(texts), tuple(keys))
    if not file.is_file():
        beside = [other.name for kind in ("*.txt", "*.jsonl") for other in file.parent.glob(kind)]
        raise ValueError(f"no captions {path!r}{nearest(file.name, beside)}")
    if file.suffix not in (".txt", ".jsonl"):
        raise ValueError(f"captions are a .txt or a .jsonl file, or .tar shards, got {path!r}")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path!r} is not UTF-8: {error}") from error
    if not text:
        raise ValueError(f"no captions in {path!r}")
    if file.suffix == ".txt":
        return Captions(tuple(text.removesuffix("\n").split("\n")))  # `splitlines` also cuts at U+2028
    return parse(text, path)


def parse(text: str, where: str) -> Captions:
    """Returns the captions of JSON lines; errors name `where`."""
    texts, files = [], []
    for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):
        try:
            values = json.loads(line)
            texts.append(values["caption"])
            files += [values["file"]] if "file" in values else []
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"line {number} of {where!r} is no {{'caption': ..., 'file': ...}}: {error}") from error
        if not all(isinstance(value, str) for value in (texts[-1], *files[-1:])):
            raise ValueError(f"line {number} of {where!r} holds what is no string")
    if files and len(files) < len(texts):
        raise ValueError(f"{len(files)} of {len(texts)} lines of {where!r} name a file; all do, or none")
    return Captions(tuple(texts), tuple(files) or None)


def as_lines(captions: Captions) -> bytes:
    """Returns captions as JSON lines, which `parse` reads."""
    names = captions.files or (None,) * len(captions.texts)
    lines = ({"caption": text} | ({} if file is None else {"file": file})
             for text, file in zip(captions.texts, names, strict=True))
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def check_sum(row: Mapping[str, np.ndarray]) -> int:
    """Returns the CRC-32 of one row of every array."""
    crc = 0
    for name in ARRAYS:
        if name in row:
            crc = zlib.crc32(np.ascontiguousarray(row[name]).tobytes(), crc)
    return crc


def _sent(columns: Any) -> Any:
    if not isinstance(columns, Mapping):
        return columns
    return {name: Path(column.filename) if isinstance(column, np.memmap) and column.filename else column
            for name, column in columns.items()}


def _received(columns: Any) -> Any:
    if not isinstance(columns, Mapping):
        return columns
    return {name: np.load(column, mmap_mode="r") if isinstance(column, Path) else column
            for name, column in columns.items()}


def _about(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        siblings = [entry.name for entry in folder.parent.glob("*/") if (entry / "embeddings.json").is_file()]
        raise ValueError(f"no folder of embeddings {str(folder)!r}{nearest(folder.name, siblings)}")
    file, unfinished = folder / "embeddings.json", folder / "progress.json"
    if not file.is_file():
        raise ValueError(f"embeddings in {str(folder)!r} are unfinished; the command that began them goes on"
                         if unfinished.is_file() else f"no embeddings (embeddings.json) in {str(folder)!r}")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        return {name: values[name] for name in ("encoder", "sha256", "count", "arrays")}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{str(file)!r} is damaged: {error}") from error


def _check(images: Any, captions: Captions, where: str) -> None:
    """Refuses captions that are not those of the images."""
    if len(captions.texts) != _length(images):
        raise ValueError(f"{where!r} has {len(captions.texts)} captions for {_length(images)} images")
    if captions.files is None or not hasattr(images, "files"):
        return
    for i, (name, file) in enumerate(zip(captions.files, images.files, strict=True)):
        if Path(file).parts[-len(Path(name).parts):] != Path(name).parts:
            raise ValueError(f"row {i} of {where!r} is of {name!r}, and image {i} is {str(file)!r}; captions are in "
                             "the order of the images")


def _length(images: Any) -> int:
    return len(next(iter(images.values()))) if isinstance(images, Mapping) else len(images)
