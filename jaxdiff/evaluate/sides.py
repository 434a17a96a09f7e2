"""What is known of one set of images under one extractor."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdiff import metrics

__all__ = ["Side", "cut", "whole"]


@dataclasses.dataclass(frozen=True, eq=False)
class Side:
    """Arrays that an extractor has made of n images, or the moments that a file keeps of them.

    Attributes:
      n: of images; None where a published file does not say.
      arrays: such as "features" [n, d], "spatial", "logits", and "label" [n].
      moments: of "features" and "spatial", where the file has them.
      where: what to call it in an error.
    """

    n: int | None
    arrays: Mapping[str, np.ndarray]
    moments: Mapping[str, metrics.Moments] = dataclasses.field(default_factory=dict)
    where: str = "the images"
    _made: dict[str, metrics.Moments] = dataclasses.field(default_factory=dict, repr=False)

    def __getitem__(self, name: str) -> np.ndarray:
        """Returns an array.

        Raises:
          ValueError: it is not there.
        """
        if name not in self.arrays:
            held = ", ".join([*self.arrays, *(f"moments of {key}" for key in self.moments)]) or "nothing"
            raise ValueError(f"{self.where}: no {name!r} there, only {held}")
        return self.arrays[name]

    def moments_of(self, name: str) -> metrics.Moments:
        """Returns moments: the file's own, which are over the whole set, or those of the array."""
        if name in self.moments:
            return self.moments[name]
        if name not in self._made:
            self._made[name] = metrics.moments(self[name])
        return self._made[name]


def cut(side: Side, n: int, seed: int | None = None) -> Side:
    """Returns the first n images of a side, or n of them at random.

    Raises:
      ValueError: it has only moments.
    """
    if not side.arrays:
        raise ValueError(f"{side.where}: {n} of its images are wanted, and it has only moments")
    if side.n is None or n >= side.n:
        return side
    rows: Any = slice(n) if seed is None else np.random.default_rng(seed).permutation(side.n)[:n]
    return Side(n, {name: array[rows] for name, array in side.arrays.items()}, where=side.where)


def whole(arrays: Mapping[str, np.ndarray], extractor: str, where: str = "the images") -> Side:
    """Returns the side of an extractor from arrays named `extractor/output`, and labels named `label`."""
    mine = {name.removeprefix(f"{extractor}/"): array for name, array in arrays.items()
            if name.startswith(f"{extractor}/")}
    if "label" in arrays:
        mine["label"] = arrays["label"]
    return Side(len(next(iter(mine.values()))), mine, where=where)
