"""Pickles read without running them: the names they may ask for, and what is made in place of each."""

import io
import math
import pickle
import pickletools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from jaxdiff.protocols import Array

__all__ = ["NAMES", "Record", "Refused", "Storage", "loaded", "plain", "state_dict"]

DEEPEST = 200  # of lists in lists, and modules in modules
STORAGES = {"Double": "f8", "Float": "f4", "Half": "f2", "BFloat16": ml_dtypes.bfloat16, "Long": "i8", "Int": "i4",
            "Short": "i2", "Char": "i1", "Byte": "u1", "Bool": "?"}


class Refused(ValueError):
    """A file that is damaged, of another form, or asks for more than numbers."""


class Record:
    """An object of a class that is not here: its name, and what it held.

    Attributes:
      name: of the class.
      state: attribute -> value; a module's holds `_parameters`, `_buffers` and `_modules`.
    """

    name = ""

    def __init__(self, name: str = "", state: Mapping[str, Any] | None = None) -> None:
        self.name, self.state = name or type(self).name, dict(state or {})

    def __setstate__(self, state: Any) -> None:
        self.name, self.state = type(self).name, dict(state)

    def __getitem__(self, attribute: str) -> Any:
        if attribute not in self.state:
            raise Refused(f"the {self.name} in the file has no {attribute!r}; it has {', '.join(sorted(self.state))}")
        return self.state[attribute]

    def __repr__(self) -> str:
        return f"Record({self.name!r}, {sorted(self.state)})"


class Storage:
    """Raw numbers, which torch's legacy form brings after all that is made of them."""

    def __init__(self, kind: np.dtype, count: int) -> None:
        self.kind, self.count = kind, count
        self.values: Array | None = None

    def fill(self, raw: bytes) -> None:
        if len(raw) != self.count * self.kind.itemsize:
            raise Refused(f"{self.count} numbers of {self.kind} in {len(raw)} bytes")
        self.values = np.frombuffer(raw, self.kind)


class View:
    """A tensor: a strided view of a storage."""

    def __init__(self, storage: Storage, offset: int, shape: tuple, strides: tuple, *rest: Any) -> None:
        self.storage, self.offset, self.shape, self.strides = storage, offset, tuple(shape), tuple(strides)

    def plain(self) -> Array:
        values, numbers = self.storage.values, (self.offset, *self.shape, *self.strides)
        if values is None or len(self.shape) != len(self.strides) or any(type(n) is not int or n < 0 for n in numbers):
            raise Refused(f"a tensor of shape {self.shape}, strides {self.strides} and offset {self.offset}")
        count = math.prod(self.shape)
        last = self.offset + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))
        if count > values.size or (count and last >= values.size):
            raise Refused(f"a tensor of shape {self.shape} and strides {self.strides} in {values.size} numbers")
        if not count:
            return np.zeros(self.shape, values.dtype)
        steps = [stride * values.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(values[self.offset:], self.shape, steps).copy()


class Dict(dict):
    """A dict whose attributes, such as torch's `_metadata`, are dropped."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


class Dtype:
    """Numpy's dtype, of numbers alone."""

    def __init__(self, code: str, *flags: Any) -> None:
        self.code, self.order = code, "<"

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1]

    def plain(self) -> np.dtype:
        if self.code[:1] not in "biufc" or self.order not in "<>|=":
            raise Refused(f"numbers of numpy's dtype {self.code!r}")
        return np.dtype(self.order.replace("|", "=") + self.code)


class Ndarray:
    """Numpy's array."""

    def __setstate__(self, state: tuple) -> None:
        _, self.shape, self.dtype, self.fortran, self.raw = state

    def plain(self) -> Array:
        kind = self.dtype.plain()
        if math.prod(self.shape) * kind.itemsize != len(self.raw):
            raise Refused(f"a numpy array of shape {self.shape} in {len(self.raw)} bytes")
        return np.frombuffer(self.raw, kind).reshape(self.shape, order="F" if self.fortran else "C")


def _scalar(dtype: Dtype, raw: bytes) -> Any:
    return np.frombuffer(raw, dtype.plain(), count=1)[0].item()


def _persistent(meta: Mapping[str, Any]) -> Record:
    """An object of EDM's `persistence`; the source of its class, `module_src`, stays unread."""
    return Record(meta["class_name"], meta["state"])


def _bytes(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise Refused(f"bytes in the encoding {encoding!r}")
    return text.encode("latin1")


def _legacy(raw: bytes) -> Any:
    return legacy(io.BytesIO(raw))


def _records(*names: str) -> dict[str, type[Record]]:
    return {name: type(last, (Record,), {"name": last}) for name in names for last in [name.rpartition(".")[2]]}


NAMES: dict[str, Any] = {
    "builtins.set": set, "__builtin__.set": set, "collections.OrderedDict": Dict, "dnnlib.util.EasyDict": Dict,
    "_codecs.encode": _bytes,
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent,
    "torch._utils._rebuild_tensor_v2": View, "torch._utils._rebuild_parameter": lambda data, *rest: data,
    "torch.storage._load_from_bytes": _legacy,
    **{f"torch.{name}Storage": type(name, (), {"kind": np.dtype(kind)}) for name, kind in STORAGES.items()},
    **{f"numpy.{core}.multiarray.{name}": make for core in ("core", "_core")
       for name, make in (("_reconstruct", lambda *given: Ndarray()), ("scalar", _scalar))},
    "numpy.ndarray": Ndarray, "numpy.dtype": Dtype,
    **_records("torch.nn.modules.container.ModuleDict", "argparse.Namespace",
               "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"),
}


class Unpickler(pickle.Unpickler):
    """Knows `NAMES` alone; `storage` finds or makes the numbers of a key."""

    def __init__(self, stream: Any, storage: Callable[[str, Storage], Storage] | None) -> None:
        super().__init__(stream, encoding="latin1")
        self.storage = storage

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in NAMES:
            raise Refused(f"asks for {module}.{name}, which makes no numbers; nothing was run")
        return NAMES[f"{module}.{name}"]

    def persistent_load(self, pid: Any) -> Storage:
        if self.storage is None:
            raise Refused("asks for a storage where there is none")
        what, kind, key, _, count, *_ = pid
        if what != "storage" or type(count) is not int or count < 0:
            raise Refused(f"asks for {what!r}")
        return self.storage(key, Storage(kind.kind, count))


def loaded(stream: Any, storage: Callable[[str, Storage], Storage] | None = None) -> Any:
    """Returns the object of one pickle, with what stands for arrays; the stream is then behind it.

    Args:
      stream: in memory or mapped: a read gives no more than there is.
      storage: `(key, empty storage) -> storage`; None where the pickle may ask for none.
    """
    start = stream.tell()
    for position, (code, value, _) in enumerate(pickletools.genops(stream)):  # counts are held against the bytes
        if code.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(value or 0) > position:
            raise Refused(f"asks for room for {value} objects after {position} instructions")
    stream.seek(start)
    return Unpickler(stream, storage).load()


MAGIC = 0x1950A86A20F9469CFC6C


def legacy(stream: Any) -> Any:
    """Returns the object of torch's legacy form: magic, version, C's sizes, object, keys of storages, and these."""
    magic, version, sizes = (loaded(stream) for _ in range(3))
    if (magic, version) != (MAGIC, 1001) or not sizes["little_endian"]:
        raise Refused("not torch's legacy form of little-endian numbers")
    storages: dict[str, Storage] = {}
    made = loaded(stream, storages.setdefault)
    for key in loaded(stream):
        count = int.from_bytes(_exactly(stream, 8), "little")
        if count != storages[key].count:
            raise Refused(f"storage {key} has {count} numbers and should have {storages[key].count}")
        storages[key].fill(_exactly(stream, count * storages[key].kind.itemsize))
    return made


def _exactly(stream: Any, size: int) -> bytes:
    raw = stream.read(size)
    if len(raw) != size:
        raise Refused(f"ends {size - len(raw)} bytes too early")
    return raw


def plain(value: Any) -> Any:
    """Returns a value with arrays in place of what stands for them."""
    return _plain(value, {}, 0)


def _plain(value: Any, seen: dict[int, Any], depth: int) -> Any:
    if id(value) in seen:
        return seen[id(value)][1]
    if depth > DEEPEST:
        raise Refused(f"is nested more than {DEEPEST} deep")
    inner = lambda part: _plain(part, seen, depth + 1)
    if isinstance(value, (View, Ndarray, Dtype)):
        made = value.plain()
    elif isinstance(value, Storage):
        made = value.values
    elif isinstance(value, dict):
        made = {key: inner(part) for key, part in value.items()}
    elif isinstance(value, (list, tuple)):
        made = type(value)(map(inner, value))
    elif isinstance(value, Record):
        made = Record(value.name, inner(value.state))
    else:
        return value
    seen[id(value)] = value, made  # with the value: its id stays its own as long as it lives
    return made


def state_dict(module: Record) -> dict[str, Array]:
    """Returns dotted name -> array of a pickled module, as its `state_dict()` would have been.

    Raises:
      Refused: the record is no module.
    """
    return dict(_named(module, ""))


def _named(module: Any, stem: str) -> Iterator[tuple[str, Array]]:
    if not isinstance(module, Record) or not {"_parameters", "_buffers", "_modules"} <= set(module.state):
        raise Refused(f"{stem.rstrip('.') or 'the object'} is no module: {module!r}")
    passing = module.state.get("_non_persistent_buffers_set", ())
    for kind in ("_parameters", "_buffers"):
        for name, value in module.state[kind].items():
            if value is not None and not (kind == "_buffers" and name in passing):
                yield stem + name, value
    for name, inner in module.state["_modules"].items():
        if inner is not None:
            yield from _named(inner, f"{stem}{name}.")
