"""Tar archives of examples, as WebDataset packs them, read in any order.

The members of a shard whose names are alike up to the first dot of their last part are one example, wherever in the
shard they lie: `0003.jpg` (or png, webp) its image, `0003.cls` its class as an integer, or `0003.json` with
`{"label": 3}`, and `0003.txt` a caption; others are passed over.  Where each lies is found once, kept
(`jaxdiff.data.cache`) and looked up again only where a shard has another size or time.
"""

import dataclasses
import functools
import glob
import io
import itertools
import json
import os
import re
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from jaxdiff.build import nearest
from jaxdiff.data import cache
from jaxdiff.data.files import Broken, check_mode, squared

__all__ = ["Shards", "matched", "shards", "texts"]

IMAGES = ("jpeg", "jpg", "png", "webp")
READ = (*IMAGES, "cls", "json", "txt")
NONE = np.iinfo(np.int64).min  # of an example without a label
ABOUT = "1"  # of what is kept
THREADS = 8
QUIET = 20  # shards that are looked through without a word
OPEN = 128  # shards that are open at a time; a descriptor each


@dataclasses.dataclass(frozen=True)
class Index:
    """Where the examples of one shard lie."""

    stamp: tuple[int, int]
    keys: tuple[str, ...]
    image: np.ndarray  # int64 [n, 2]: where it begins and how long it is
    text: np.ndarray  # int64 [n, 2], -1 where there is none
    label: np.ndarray  # int64 [n]


@dataclasses.dataclass(frozen=True, eq=False)
class Shards:
    """Images that are read from shards one by one; see `shards`, which makes it.

    `source[i]` is `{"image": uint8 [h, w, c]}`, and `{"label": int32}` where there are labels.
    """

    paths: tuple[Path, ...]
    indices: tuple[Index, ...]
    starts: np.ndarray  # of each shard in the order of examples, and the number of all
    labels: np.ndarray | None
    size: int | None
    channels: int

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return self._decoded(index, strict=False)

    def check(self, index: int) -> dict[str, np.ndarray]:
        """Returns what indexing does, and also compares the checksums of a png, which decoding passes over."""
        return self._decoded(index, strict=True)

    def _decoded(self, index: int, *, strict: bool) -> dict[str, np.ndarray]:
        from PIL import Image

        shard, row = self._found(index)
        try:
            data = _read(self.paths[shard], self.indices[shard].stamp, *self.indices[shard].image[row].tolist())
            if strict:
                with Image.open(io.BytesIO(data)) as image:
                    image.verify()
            with Image.open(io.BytesIO(data)) as image:
                check_mode(image.mode, "it")
                pixels = np.asarray(image.convert({1: "L", 3: "RGB"}[self.channels]))
        except Exception as error:  # Pillow's decoders raise whatever they like
            raise ValueError(f"cannot read the image of {self.name(index)}: {error}") from error
        example = {"image": squared(pixels.reshape(*pixels.shape[:2], -1), self.size)}
        return example if self.labels is None else {**example, "label": self.labels[index]}

    def name(self, index: int) -> str:
        """Returns key and shard of an example, for messages."""
        shard, row = self._found(index)
        return f"{self.indices[shard].keys[row]!r} in {str(self.paths[shard])!r}"

    @functools.cached_property
    def files(self) -> tuple[str, ...]:
        """The key of every example, with which captions are compared."""
        return tuple(key for index in self.indices for key in index.keys)

    def _found(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)  # ends a loop over the examples
        shard = int(np.searchsorted(self.starts, index, "right")) - 1
        return shard, index - int(self.starts[shard])


def shards(path: str, *, size: int | None = None, channels: int = 3) -> Shards:
    """Opens tar archives of images, in the order of the pattern and within each of its members.

    Args:
      path: the archives, `train-{000..127}.tar`, `{cats,dogs}/*.tar`, or a folder of them; not compressed.
      size: crop every image to its central square and resize it to size x size (Lanczos).
      channels: 3, or 1 for gray; alpha is dropped.

    Returns:
      A source of uint8 [h, w, channels] images, and of labels int32 where the examples have them.  Images are decoded
      only when they are read: `jaxdiff data check` finds the broken ones beforehand.

    Raises:
      ValueError: no such archive, one that is compressed, damaged or cut off, an example without an image or with
        two, a label that is no integer, or labels of some examples alone.
    """
    if size is not None and size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    if channels not in (1, 3):
        raise ValueError(f"channels must be 3 (colour) or 1 (gray), got {channels}")
    paths = matched(path)
    indices = _indices(paths)
    starts = np.cumsum([0, *(len(index.keys) for index in indices)])
    made = Shards(paths, indices, starts, None, size, channels)
    labels = np.concatenate([index.label for index in indices])
    missing = labels == NONE
    if missing.all():
        return made
    if missing.any():
        raise ValueError(f"{missing.sum():,} of {len(labels):,} examples have no label, the first is "
                         f"{made.name(int(missing.argmax()))}; all have one, or none")
    return dataclasses.replace(made, labels=labels.astype(np.int32))


def texts(path: str) -> tuple[list[str], list[str]]:
    """Returns the captions of shards, and the keys of their examples.

    Raises:
      ValueError: as `shards`; an example without a caption, or one that is not UTF-8.
    """
    paths = matched(path)
    found, keys = [], []
    for file, index in zip(paths, _indices(paths), strict=True):
        for key, (offset, length) in zip(index.keys, index.text.tolist(), strict=True):
            if offset < 0:
                raise ValueError(f"{key!r} in {str(file)!r} has no caption ({key}.txt)")
            try:
                found.append(_read(file, index.stamp, offset, length).decode().removesuffix("\n"))
            except UnicodeDecodeError as error:
                raise ValueError(f"the caption of {key!r} in {str(file)!r} is not UTF-8: {error}") from error
            keys.append(key)
    return found, keys


def matched(path: str) -> tuple[Path, ...]:
    """Returns the files that a pattern of braces and wildcards stands for; those of a wildcard are sorted.

    Raises:
      ValueError: none, or not all that the braces name.
    """
    files: list[Path] = []
    for one in _alternatives(os.path.expanduser(path)):
        place = Path(one)
        if place.is_dir():
            found = sorted(place.glob("*.tar"))
        else:
            found = [place] if place.is_file() else sorted(map(Path, glob.glob(one, recursive=True)))
        if not found:
            beside = [entry.name for entry in place.parent.glob("*.tar")] if place.parent.is_dir() else []
            raise ValueError(f"no shard {one!r}{nearest(place.name, beside)}" if not place.is_dir() else
                             f"no shards (*.tar) in {one!r}")
        files += found
    for file in files:
        if file.suffix != ".tar":
            raise ValueError(f"shards are .tar files, not compressed ones, since these are read in any order; got "
                             f"{str(file)!r}")
    return tuple(files)


def _alternatives(pattern: str) -> Iterator[str]:
    """Yields the pattern once for every choice of its braces, {a,b} or {000..127}, the first braces slowest."""
    found = re.search(r"\{([^{}]*)\}", pattern)
    if not found:
        yield pattern
        return
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", found[1])
    choices: Sequence[str] = found[1].split(",")
    if numbers:
        first, last = int(numbers[1]), int(numbers[2])
        choices = [f"{number:0{len(numbers[1])}}" for number in range(first, last + 1)]
    for choice in choices:
        yield from _alternatives(pattern[:found.start()] + choice + pattern[found.end():])


# Where the members of a shard lie.


def _indices(paths: tuple[Path, ...]) -> tuple[Index, ...]:
    """Returns the index of every shard.

    Raises:
      Broken: of some shards; the others are remembered all the same.
    """
    made: list[Index] = []
    problems = []
    with ThreadPoolExecutor(THREADS) as pool:
        for done, (file, found) in enumerate(zip(paths, pool.map(_told, paths), strict=True), 1):
            problems += [f"shard {str(file)!r}: {found}"] if isinstance(found, str) else []
            made += [] if isinstance(found, str) else [found]
            if len(paths) > QUIET and done % -(-len(paths) // 10) == 0:
                print(f"looked through {done:,} of {len(paths):,} shards", file=sys.stderr)
    if problems:
        raise Broken(problems)
    return tuple(made)


def _told(path: Path) -> Index | str:
    """Returns the index of a shard, kept or made, or what is wrong with it."""
    since, stamp = time.time_ns(), cache.stamp(path)
    kept = cache.recall("shards", path, ABOUT)
    if kept is not None and tuple(kept["stamp"].tolist()) == stamp:
        return Index(stamp, tuple(cache.split(kept["keys"])), kept["image"], kept["text"], kept["label"])
    try:
        index = _indexed(path, stamp)
    except (ValueError, OSError, tarfile.TarError) as error:
        return str(error)
    if cache.settled(stamp, since):
        cache.keep("shards", path, ABOUT, {
            "stamp": np.array(stamp), "keys": cache.joined(index.keys), "image": index.image, "text": index.text,
            "label": index.label})
    return index


def _indexed(path: Path, stamp: tuple[int, int]) -> Index:
    """Looks a shard through; see `shards` for what is refused."""
    members: dict[str, dict[str, tuple[int, int]]] = {}  # in the order of their first parts
    with open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            archive.members = []  # type: ignore[attr-defined]  # it would keep all of them
            folder, _, name = member.name.removeprefix("./").rpartition("/")
            stem, _, suffix = name.partition(".")
            if not member.isreg() or suffix.lower() not in READ or name.startswith("."):
                continue
            if member.issparse():
                raise ValueError(f"member {member.name!r} is sparse, which cannot be read in any order")
            example = members.setdefault(f"{folder}/{stem}" if folder else stem, {})
            if suffix.lower() in example:
                raise ValueError(f"member {member.name!r} is there twice")
            example[suffix.lower()] = member.offset_data, member.size
        _check_end(file, archive.offset, stamp[0])
        if not members:
            raise ValueError(f"no example in it: members are named KEY.SUFFIX, with {', '.join(READ)}")
        return Index(stamp, tuple(members), np.array([_image(*item) for item in members.items()], np.int64),
                     np.array([example.get("txt", (-1, -1)) for example in members.values()], np.int64),
                     np.array([_label(file, *item) for item in members.items()], np.int64))


def _check_end(file: io.BufferedReader, end: int, size: int) -> None:
    """Refuses an archive that was cut off between two members, or has another one behind it."""
    file.seek(end)
    rest: Iterator[bytes] = iter(functools.partial(file.read, 1 << 20), b"")
    first = next(rest, b"")
    if len(first) < tarfile.BLOCKSIZE:
        raise ValueError(f"cut off after {size:,} bytes: an archive ends with blocks of zeros")
    if any(map(any, itertools.chain((first,), rest))):
        raise ValueError(f"something follows the end of the archive at byte {end:,}; `tar --concatenate` joins two")


def _image(key: str, example: dict[str, tuple[int, int]]) -> tuple[int, int]:
    found = [suffix for suffix in IMAGES if suffix in example]
    if len(found) != 1:
        raise ValueError(f"example {key!r} has {' and '.join(found) or 'no image'} (one of {', '.join(IMAGES)})")
    return example[found[0]]


def _label(file: io.BufferedReader, key: str, example: dict[str, tuple[int, int]]) -> int:
    for suffix in ("cls", "json"):
        if suffix not in example:
            continue
        offset, length = example[suffix]
        file.seek(offset)
        text = file.read(length)
        try:
            value = json.loads(text)
            if suffix == "json":
                if "label" not in value:
                    continue
                value = value["label"]
            if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 2**31:
                raise ValueError(f"{value!r} is not an integer")
        except (ValueError, TypeError) as error:
            raise ValueError(f"the label of {key!r} ({key}.{suffix}): {error}") from error
        return value
    return NONE


# Reading.


class _Descriptor:
    """A file that is closed when its last reader lets go of it."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


@functools.lru_cache(maxsize=OPEN)
def _opened(path: Path, stamp: tuple[int, int], process: int) -> _Descriptor:
    """Opens a shard, once in a process; `pread` leaves no place behind that threads could share."""
    del process
    made = _Descriptor(os.open(path, os.O_RDONLY))
    if cache.stamp(made.number) != stamp:
        raise ValueError("the shard has changed since it was looked through; start again")
    return made


def _read(path: Path, stamp: tuple[int, int], offset: int, length: int) -> bytes:
    file = _opened(path, stamp, os.getpid())
    data = os.pread(file.number, length, offset)
    if len(data) < length:
        raise ValueError(f"the shard ends within it, {length - len(data):,} bytes early")
    return data
