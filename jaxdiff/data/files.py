"""Folders of image files, read with Pillow.

What the check of a file has told is kept (`jaxdiff.data.cache`), so that the next opening decodes only the files that
are new or have another size or time.
"""

import dataclasses
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from jaxdiff.build import nearest
from jaxdiff.data import cache

__all__ = ["Broken", "Folder", "check_mode", "folder", "squared"]

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
GRAY, COLOUR = ("1", "L", "LA"), ("CMYK", "P", "PA", "RGB", "RGBA", "RGBX", "YCbCr")  # Pillow's 8-bit modes
THREADS = 8
MODES = GRAY + COLOUR
QUIET = 2_000  # files that are checked without a word, some seconds' worth

Kind = tuple[tuple[int, int], str]  # (width, height) and mode of a file


class Broken(ValueError):
    """Files that cannot be read; `problems` says of each what is wrong with it."""

    def __init__(self, problems: Sequence[str]) -> None:
        more = f" (and {len(problems) - 1:,} more; `jaxdiff data check` names them)" if len(problems) > 1 else ""
        super().__init__(f"{problems[0]}{more}")
        self.problems = tuple(problems)


@dataclasses.dataclass(frozen=True, eq=False)
class Folder:
    """Images that are decoded one by one; see `folder`, which makes it.

    `source[i]` is `{"image": uint8 [h, w, c]}`, and `{"label": int32}` where there are classes;
    label j stands for `classes[j]`.
    """

    files: tuple[Path, ...]
    labels: np.ndarray | None
    classes: tuple[str, ...]
    mode: str
    size: int | None
    verified: ClassVar[bool] = True  # all of it was decoded when it was opened

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        from PIL import Image

        try:
            with Image.open(self.files[index]) as image:
                pixels = np.asarray(image.convert(self.mode))
        except Exception as error:  # it was whole when the folder was opened
            raise ValueError(f"cannot decode {str(self.files[index])!r}: {error}") from error
        example = {"image": squared(pixels.reshape(*pixels.shape[:2], -1), self.size)}
        return example if self.labels is None else {**example, "label": self.labels[index]}


def folder(path: str, *, size: int | None = None) -> Folder:
    """Opens a folder of images (bmp, jpeg, jpg, png, webp), found at any depth and sorted by path.

    Every file is decoded once here, so that a broken one is found before training and not
    within it, and again only when it has changed.  Names that begin with a dot are passed over.

    Args:
      path: the folder; its first-level subfolders that hold images, sorted, are the classes.
      size: crop every image to its central square and resize it to size x size (Lanczos).

    Returns:
      A source of uint8 [h, w, c] images, c = 1 if all files are grayscale and 3 otherwise (alpha is
      dropped), and of labels where there are subfolders.

    Raises:
      ValueError: no such folder, no images in it, an image that cannot be decoded or has more than
        8 bits, images outside the class folders, or, without `size`, of several sizes or modes.
    """
    if size is not None and size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    root = Path(path).expanduser()
    files = _found(root)
    kinds = _checked(root, files)
    for file, (extent, mode) in zip(files, kinds, strict=True):
        if size is None and (extent, mode) != kinds[0]:
            first = "{}x{} {}".format(*kinds[0][0], kinds[0][1])
            raise ValueError(f"images differ: {files[0]} is {first} and {file} is {extent[0]}x{extent[1]} {mode}; "
                             "give 'size' to crop and resize all of them, in RGB where one has colour")
    classes, labels = _labelled(root, files)
    mode = "L" if all(mode in GRAY for _, mode in kinds) else "RGB"
    return Folder(files, labels, classes, mode, size)


def squared(pixels: np.ndarray, size: int | None) -> np.ndarray:
    """Returns uint8 [h, w, c] cropped to its central square and resized to [size, size, c]; as it is for None."""
    from PIL import Image, ImageOps

    if size is None or pixels.shape[:2] == (size, size):
        return pixels
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)  # antialiased
    return np.asarray(image).reshape(size, size, -1)


def _found(root: Path) -> tuple[Path, ...]:
    if not root.is_dir():
        missing = root
        while not missing.parent.is_dir():
            missing = missing.parent
        siblings = [entry.name for entry in missing.parent.iterdir() if entry.is_dir()]
        raise ValueError(f"no folder {str(missing)!r}{nearest(missing.name, siblings)}")
    files = []
    for place, folders, names in os.walk(root, followlinks=True):  # a class is often a link
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(place, name) for name in names
                  if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
    if not files:
        raise ValueError(f"no images in {str(root)!r}; looked for {', '.join(SUFFIXES)}, at any depth")
    return tuple(sorted(files))


def _checked(root: Path, files: tuple[Path, ...]) -> list[Kind]:
    """Returns the kind of every file, each decoded unless it is known and unchanged.

    Raises:
      Broken: of some files; the others are remembered all the same.
    """
    since = time.time_ns()
    stamps = [cache.stamp(file) for file in files]  # before decoding: a file that changes meanwhile is no longer known
    known = _recalled(root)
    names = [os.fspath(file).removeprefix(f"{root}{os.sep}") for file in files]
    kinds: list[Kind | None] = [
        known[name][1] if name in known and known[name][0] == stamp else None
        for name, stamp in zip(names, stamps, strict=True)]
    new = [i for i, kind in enumerate(kinds) if kind is None]
    problems = []
    try:
        with ThreadPoolExecutor(THREADS) as pool:
            for done, (i, found) in enumerate(zip(new, pool.map(_told, (files[i] for i in new)), strict=True), 1):
                if isinstance(found, str):
                    problems.append(found)
                else:
                    kinds[i] = found
                if len(new) > QUIET and done % -(-len(new) // 10) == 0:
                    print(f"checked {done:,} of {len(new):,} images in {root}", file=sys.stderr)
    finally:  # also when interrupted
        if new or len(known) > len(files):
            _keep(root, names, stamps, kinds, since)
    if problems:
        raise Broken(problems)
    return [kind for kind in kinds if kind is not None]


def _about() -> str:
    import PIL

    return f"1 Pillow {PIL.__version__}"  # which may lack a format, or refuse what another took


def _recalled(root: Path) -> dict[str, tuple[tuple[int, int], Kind]]:
    """Returns what is remembered of a folder: name -> (stamp, kind)."""
    columns = cache.recall("folders", root, _about())
    if columns is None:
        return {}
    rows: Any = zip(cache.split(columns["names"]), columns["stamps"].tolist(), columns["kinds"].tolist(), strict=True)
    return {name: ((size, time), ((width, height), MODES[mode])) for name, (size, time), (width, height, mode) in rows}


def _keep(root: Path, names: list[str], stamps: list[tuple[int, int]], kinds: list[Kind | None],
          since: int) -> None:
    rows = [(name, stamp, (*kind[0], MODES.index(kind[1]))) for name, stamp, kind
            in zip(names, stamps, kinds, strict=True) if kind is not None and cache.settled(stamp, since)]
    if rows:
        kept, sizes, told = zip(*rows, strict=True)
        cache.keep("folders", root, _about(), {
            "names": cache.joined(kept), "stamps": np.array(sizes, np.int64), "kinds": np.array(told, np.int32)})


def _told(file: Path) -> Kind | str:
    """Returns the kind of a file, or what is wrong with it."""
    try:
        return _decoded(file)
    except ValueError as error:
        return str(error)


def _decoded(file: Path) -> Kind:
    from PIL import Image

    try:
        with Image.open(file) as image:
            image.verify()  # the checksums, which `load` skips
        with Image.open(file) as image:
            image.load()  # the pixels, which `verify` skips
            extent, mode = image.size, image.mode
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        raise ValueError(f"cannot decode {str(file)!r}: {error}") from error
    check_mode(mode, repr(str(file)))
    return extent, mode


def check_mode(mode: str, name: str) -> None:
    """Raises ValueError where an image, by its name, has a mode of Pillow's that is not of 8 bits a channel."""
    if mode not in MODES:
        raise ValueError(f"{name} has mode {mode!r}; images must have 8 bits a channel ({', '.join(MODES)})")


def _labelled(root: Path, files: tuple[Path, ...]) -> tuple[tuple[str, ...], np.ndarray | None]:
    parts = [file.relative_to(root).parts for file in files]
    stray = [file for file, part in zip(files, parts, strict=True) if len(part) == 1]
    if len(stray) == len(files):
        return (), None
    if stray:
        raise ValueError(f"{str(stray[0])!r} lies beside the class folders of {str(root)!r} and so has no label; "
                         "move it into one, or out")
    classes, labels = np.unique([part[0] for part in parts], return_inverse=True)
    return tuple(str(name) for name in classes), labels.astype(np.int32)
