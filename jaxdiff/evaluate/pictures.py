"""Other people's images: a folder, or an .npz as ADM's evaluator reads it."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from jaxdiff import data

__all__ = ["examples", "first", "opened"]

THREADS, AHEAD = 8, 128
KEYS = ("arr_0", "samples", "image", "images")


def opened(path: str) -> Any:
    """Opens images.

    Args:
      path: a folder (`data.folder`: at any depth, sorted by path; grey where all are, else RGB, alpha dropped), or an
        .npz with `arr_0` [n, h, w, c] uint8, and perhaps `arr_1`, labels [n].

    Returns:
      A source, as `jaxdiff.data` has them.

    Raises:
      ValueError: nothing there, images that are broken or of several sizes, other arrays.
    """
    place = Path(path).expanduser()
    if place.suffix != ".npz":
        return data.folder(path)
    try:
        with np.load(place, allow_pickle=False) as file:
            name = next((key for key in KEYS if key in file), None)
            if name is None:
                raise ValueError(f"it has {', '.join(file) or 'nothing'}")
            columns = {"image": file[name]}
            for key in ("arr_1", "labels", "label"):
                if key in file and file[key].shape == (len(columns["image"]),):
                    columns["label"] = file[key].astype(np.int32)
    except Exception as error:  # numpy raises whatever a damaged archive leads it to
        raise ValueError(f"{path}: an .npz of images, arr_0 [n, h, w, c] uint8, should be there ({error})") from error
    images = columns["image"]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3, 4) or not len(images):
        raise ValueError(f"{path}: images are [n, h, w, 1 or 3] uint8, got {list(images.shape)} {images.dtype}")
    return columns | {"image": images[..., :3]}  # alpha is dropped, as in folders


def first(source: Any) -> tuple[tuple[int, ...], bool]:
    """Returns the shape of a source's first image, [h, w, c], and whether there are labels.

    Raises:
      ValueError: there are no images.
    """
    example = next(iter(examples(source, 0, 1))) if not isinstance(source, Mapping) else {
        name: column[0] for name, column in source.items()}
    if "image" not in example or example["image"].dtype != np.uint8:
        raise ValueError(f"an evaluation looks at images, uint8 [h, w, c], and there are {', '.join(example)}; latents "
                         "are judged as images: --reference=FILE names some, or statistics of them, and "
                         "--config.sample.autoencoder=FOLDER decodes samples")
    return tuple(example["image"].shape), "label" in example


def examples(source: Any, start: int = 0, end: int | None = None) -> Iterator[Mapping[str, np.ndarray]]:
    """Yields a source's examples in order, those that are decoded some ahead and in threads."""
    if isinstance(source, Mapping):
        for i in range(start, len(source["image"]) if end is None else end):
            yield {name: source[name][i] for name in ("image", "label") if name in source}
        return
    end = len(source) if end is None else end
    with ThreadPoolExecutor(THREADS) as pool:
        for first in range(start, end, AHEAD):
            yield from pool.map(source.__getitem__, range(first, min(first + AHEAD, end)))
