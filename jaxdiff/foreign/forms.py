"""The forms of weight files, told apart by their first bytes."""

import hashlib
import io
import json
import math
import mmap
import os
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxdiff.foreign import pickles
from jaxdiff.foreign.pickles import Refused, Storage
from jaxdiff.protocols import Array

__all__ = ["read", "sha256", "write"]

DTYPES = {"F64": "f8", "F32": "f4", "F16": "f2", "BF16": ml_dtypes.bfloat16, "I64": "i8", "I32": "i4", "I16": "i2",
          "I8": "i1", "U8": "u1", "BOOL": "?"}
DAMAGE = (ValueError, EOFError, LookupError, TypeError, AttributeError, OverflowError, RecursionError, MemoryError,
          struct.error, pickle.UnpicklingError, zipfile.BadZipFile, NotImplementedError, AssertionError)


def sha256(file: str | Path) -> str:
    """Returns the SHA-256 of a file, 64 hexadecimal digits."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read(file: str | Path) -> Any:
    """Returns what a weight file holds: dicts, lists, numbers, strings, numpy arrays and `Record`s.

    Args:
      file: `.pkl`, `.pt`, `.pth`, `.ckpt` or `.safetensors`; its content decides, not its name.

    Raises:
      Refused: a name that is not allowed, counts that do not fit the bytes, a form that is none of these.
      OSError: it cannot be read.
    """
    try:
        with open(file, "rb") as stream:
            if stream.read(4) == b"PK\x03\x04":
                return _zip(stream)
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _mapped(data)
    except Refused as error:
        raise Refused(f"{file}: {error}") from error
    except DAMAGE as error:
        raise Refused(f"{file} is damaged, or of another form ({type(error).__name__}: {error})") from error


def _mapped(data: mmap.mmap) -> Any:
    if data[8:9] == b"{":
        return _safetensors(data)
    if data[:1] != b"\x80":
        raise Refused("neither a pickle, nor torch's form, nor safetensors")
    legacy = pickles.MAGIC.to_bytes(10, "little") in data[:32]
    return pickles.plain(pickles.legacy(data) if legacy else pickles.loaded(data))


def _zip(stream: io.BufferedReader) -> Any:
    """Torch's present form: `data.pkl` beside a member for each storage."""
    size = stream.seek(0, io.SEEK_END)
    with zipfile.ZipFile(stream) as archive:
        members = {name.partition("/")[2]: info for name, info in archive.NameToInfo.items()}
        if "data.pkl" not in members:
            raise Refused("a zip file without torch's data.pkl")
        if any(info.compress_type != zipfile.ZIP_STORED or info.file_size > size for info in members.values()):
            raise Refused("a compressed zip file; torch's are not")
        if "byteorder" in members and archive.read(members["byteorder"]) != b"little":
            raise Refused("of big-endian numbers")
        storages: dict[str, Storage] = {}

        def storage(key: str, made: Storage) -> Storage:
            if key not in storages:
                made.fill(archive.read(members[f"data/{key}"]))
                storages[key] = made
            return storages[key]

        return pickles.plain(pickles.loaded(io.BytesIO(archive.read(members["data.pkl"])), storage))


def _safetensors(data: mmap.mmap) -> dict[str, Array]:
    """A JSON header that says where each tensor lies, and their bytes."""
    length = int.from_bytes(data[:8], "little")
    if length > len(data) - 8:
        raise Refused(f"a header of {length} bytes in a file of {len(data)}")
    header = json.loads(data[8:8 + length])
    return {name: _tensor(name, data, 8 + length, **entry) for name, entry in header.items() if name != "__metadata__"}


def _tensor(name: str, data: mmap.mmap, body: int, dtype: str, shape: list[int], data_offsets: list[int]) -> Array:
    if dtype not in DTYPES:
        raise Refused(f"{name} has the dtype {dtype!r}; it may be {', '.join(DTYPES)}")
    (start, end), kind = data_offsets, np.dtype(DTYPES[dtype])
    fits = all(type(n) is int and n >= 0 for n in shape) and end - start == math.prod(shape) * kind.itemsize
    if not fits or not 0 <= start <= end <= len(data) - body:
        raise Refused(f"{name} of shape {shape} lies at bytes {start} to {end} of {len(data) - body}")
    return np.frombuffer(data[body + start:body + end], kind).reshape(shape)


def write(file: str | Path, arrays: Mapping[str, Array], about: Mapping[str, str] | None = None) -> None:
    """Writes name -> array as safetensors, whole or not at all.

    Args:
      file: its place; the folder is made.
      arrays: of the dtypes that `read` knows.
      about: kept in the header, strings to strings.

    Raises:
      ValueError: an array of another dtype.
    """
    names = {np.dtype(kind): name for name, kind in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": dict(about or {})}
    end = 0
    for name, array in arrays.items():
        if array.dtype not in names:
            raise ValueError(f"{name} has the dtype {array.dtype}; it may be {', '.join(DTYPES)}")
        offsets = [end, end + array.nbytes]
        header[name] = {"dtype": names[array.dtype], "shape": list(array.shape), "data_offsets": offsets}
        end += array.nbytes
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    place = Path(file)
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_name(f".{place.name}.{os.getpid()}")
    with open(partial, "wb") as stream:
        stream.write(len(head).to_bytes(8, "little") + head)
        for array in arrays.values():
            stream.write(np.ascontiguousarray(array).tobytes())
    partial.replace(place)
