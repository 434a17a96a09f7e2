"""What a sweep tries: a config's `sweep(s)`, and a name for each of its trials.

    def sweep(s):
        return s.product(s.grid({"batch": (64, 128)}), s.seeds(2))
"""

import dataclasses
import hashlib
import importlib.util
import itertools
import math
import random
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from launch.job import LONGEST, plain

__all__ = ["Space", "Trial", "listed", "loaded", "named"]

Draw = Callable[[random.Random], Any]


class Space:
    """What `sweep(s)` is handed: ways to list changes of a config, each `{dotted key: value}`.  A part is changed
    whole: `{"optimizer": {"name": "adam", "learning_rate": 1e-3}}`."""

    def grid(self, values: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
        """Returns every combination, the last key fastest."""
        return [dict(zip(values, row, strict=True)) for row in itertools.product(*values.values())]

    def zip(self, values: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
        """Returns the first values together, the second together, and so on.

        Raises:
          ValueError: some are longer than others.
        """
        if len({len(each) for each in values.values()}) > 1:
            lengths = ", ".join(f"{key} {len(each)}" for key, each in values.items())
            raise ValueError(f"s.zip wants as many values of every key; there are {lengths}")
        return [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]

    def random(self, number: int, draws: Mapping[str, Draw], seed: int = 0) -> list[dict[str, Any]]:
        """Returns `number` draws; more of them begin with the same ones."""
        chance = random.Random(seed)
        return [{key: draw(chance) for key, draw in draws.items()} for _ in range(number)]

    def uniform(self, low: float, high: float) -> Draw:
        """Returns a draw between two numbers."""
        return lambda chance: chance.uniform(low, high)

    def log_uniform(self, low: float, high: float) -> Draw:
        """Returns a draw between two numbers above zero, every factor as likely; three digits of it."""
        return lambda chance: float(f"{math.exp(chance.uniform(math.log(low), math.log(high))):.3g}")

    def choice(self, values: Sequence[Any]) -> Draw:
        """Returns a draw of one of them."""
        return lambda chance: chance.choice(values)

    def seeds(self, number: int) -> list[dict[str, Any]]:
        """Returns `{"seed": 0}`, `{"seed": 1}`, and so on."""
        return [{"seed": seed} for seed in range(number)]

    def product(self, *lists: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Returns every member of the first with every one of the second, and so on, merged."""
        return [dict(itertools.chain.from_iterable(each.items() for each in row)) for row in itertools.product(*lists)]


@dataclasses.dataclass(frozen=True)
class Trial:
    """One set of changes.

    Attributes:
      key: 6 hex digits of the config's name and the changes, the same in every sweep that has them.
      name: readable, of the config's stem, the values that vary, and the key.
      changes: dotted key -> value.
    """

    key: str
    name: str
    changes: Mapping[str, Any] = dataclasses.field(hash=False)

    def flags(self) -> list[str]:
        """Returns them as `jaxdiff train` takes them."""
        return [f"--config.{key}={value if isinstance(value, str) else repr(value)}"
                for key, value in self.changes.items()]


def loaded(config: str, root: Path, wanted: str) -> Callable:
    """Returns a function of a config's file.

    Args:
      config: `FILE[:ARG]`, from `root`.
      root: of the checkout.
      wanted: `sweep` or `search`.

    Raises:
      ValueError: there is no such file, or no such function in it.
    """
    file = root / config.partition(":")[0]
    if not file.is_file():
        raise ValueError(f"--config={config}: no such file in {root}")
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    spec = importlib.util.spec_from_file_location(f"_swept_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(getattr(module, wanted, None)):
        near = sorted(str(each.relative_to(root)) for each in (root / "configs" / "sweeps").glob("*.py")
                      if re.search(rf"^def {wanted}\(", each.read_text(encoding="utf-8"), re.M))
        raise ValueError(f"{config} has no `def {wanted}(...)`" + (f"; {', '.join(near)} have" if near else ""))
    return getattr(module, wanted)


def listed(config: str, found: Iterable[Mapping[str, Any]], known: Mapping[str, str]) -> list[Trial]:
    """Returns the trials of a sweep.

    Args:
      config: `FILE[:ARG]`.
      found: what `sweep(s)` gave.
      known: names that were given before, by key: a grid that grew does not rename what has run.

    Raises:
      ValueError: there are none, two are the same, or one is no mapping.
    """
    changes = list(found)
    if not changes:
        raise ValueError(f"the sweep of {config} is empty")
    for each in changes:
        if not isinstance(each, Mapping):
            raise ValueError(f"a sweep yields mappings of dotted keys to values, got {each!r}")
    keys = [_key(config, each) for each in changes]
    for number, key in enumerate(keys):
        if key in keys[:number]:
            raise ValueError(f"two trials of {config} are the same: {dict(changes[number])}")
    return [Trial(key, known.get(key) or named(config, each, changes, key), dict(each))
            for key, each in zip(keys, changes, strict=True)]


def _key(config: str, changes: Mapping[str, Any]) -> str:
    told = repr((config, sorted((key, repr(value)) for key, value in changes.items())))
    return hashlib.sha256(told.encode()).hexdigest()[:6]


def named(config: str, changes: Mapping[str, Any], among: Sequence[Mapping[str, Any]], key: str) -> str:
    """Returns a name within what engines take: the stem, values that are not the same in all, the key."""
    flat = [dict(_leaves(each)) for each in among]
    mine = dict(_leaves(changes))
    varying = [leaf for leaf in mine if any(other.get(leaf) != mine[leaf] for other in flat)]
    file, _, arg = config.partition(":")
    words = "-".join(filter(None, [Path(file).stem, arg, *(_short(mine[leaf]) for leaf in varying)]))
    return f"{plain(words, LONGEST - 1 - len(key), 'trial')}-{key}"


def _leaves(value: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, Any]]:
    for key, each in value.items():
        if isinstance(each, Mapping):
            yield from _leaves(each, f"{before}{key}.")
        else:
            yield f"{before}{key}", each


def _short(value: Any) -> str:
    if not isinstance(value, float) or value == 0 or 0.01 <= abs(value) < 1e4:
        return f"{value:.3g}" if isinstance(value, float) else str(value)
    digits, _, power = f"{value:.1e}".partition("e")
    return f"{digits.removesuffix('.0')}e{int(power)}"
