"""`{name, **options}` -> callable: the only place where a string becomes code.

A name without a colon is one of the public names (`__all__`) of the slot's own module;
with a colon it is `module:attribute`, so that a stranger's part needs no edit here.
"""

import dataclasses
import difflib
import importlib
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType, UnionType
from typing import Any

__all__ = ["Bound", "build", "nearest", "resolve"]


@dataclasses.dataclass(frozen=True)
class Bound:
    """A part with some of its arguments filled in.

    Unlike `functools.partial`, two of them are equal when their contents are, so that
    a part built twice from one config compiles once.
    """

    part: Callable
    given: tuple = ()
    options: tuple[tuple[str, Any], ...] = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.part(*self.given, *args, **{**dict(self.options), **kwargs})

    def missing(self) -> list[str]:
        """Returns the names of what is required and not filled in."""
        parameters = list(inspect.signature(self.part).parameters.values())[len(self.given):]
        filled = {name for name, _ in self.options}
        return [p.name for p in parameters if p.default is p.empty and p.name not in filled]

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.options)
        return f"{self.part.__name__}({options})"


def nearest(word: str, words: Iterable[str]) -> str:
    """Returns the end of an error message: `; did you mean 'heun'?`, or all that is allowed."""
    words = sorted(words)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; it may be {', '.join(words) or 'nothing'}"


def build(spec: str | Mapping[str, Any], home: ModuleType, *given: Any, **named: Any) -> Any:
    """Builds the part that `spec` describes.

    Args:
      spec: a name, or `{"name": ..., **options}`.  Options that are None count as unset; an
        option that itself has a `name` is built first, from the submodule of `home` that bears
        the option's name where there is one, and otherwise from `home`.
      home: the module whose `__all__` lists the short names.
      *given: the slot's own positional arguments.
      **named: the slot's own keyword arguments, which a spec may not override.

    Returns:
      The part called, or, while something required is missing, a `Bound` of it.

    Raises:
      ValueError: unknown name or option, or an option of the wrong type; it names the nearest right one.
    """
    spec = {"name": spec} if isinstance(spec, str) else dict(spec)
    slot = home.__name__.rpartition(".")[2]
    if not isinstance(spec.get("name"), str):
        raise ValueError(f"a part of {slot!r} needs a 'name', got {spec}")
    name = spec.pop("name")
    part = resolve(name, home)
    options = {key: tuple(value) if isinstance(value, list) else value  # a Bound is hashed
               for key, value in spec.items() if value is not None}
    for key, value in options.items():
        if isinstance(value, Mapping) and "name" in value:
            inner = getattr(home, key, None)
            options[key] = build(value, inner if isinstance(inner, ModuleType) else home)
    signature = inspect.signature(part)
    _check(name, signature, options, len(given), named)
    wanted = {key: value for key, value in named.items() if key in signature.parameters}
    try:
        signature.bind(*given, **options, **wanted)
    except TypeError:
        return Bound(part, given, tuple(sorted({**options, **wanted}.items())))
    return part(*given, **options, **wanted)


def resolve(name: str, home: ModuleType) -> Callable:
    """Finds the callable that `name` stands for; see `build`."""
    if ":" in name:
        return _imported(name)
    part = getattr(home, name) if name in home.__all__ else None
    if not callable(part):
        slot = home.__name__.rpartition(".")[2]
        # `vars`, not `getattr`: a look at every name would wake deprecated ones.
        names = [public for public in home.__all__ if callable(vars(home).get(public))]
        raise ValueError(f"unknown {slot} {name!r}{nearest(name, names)}")
    return part


def _imported(name: str) -> Callable:
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"cannot import {module_name!r} of part {name!r}: {error}") from error
    if not hasattr(module, attribute):
        raise ValueError(f"{module_name!r} has no {attribute!r}{nearest(attribute, vars(module))}")
    return getattr(module, attribute)


def _check(name: str, signature: inspect.Signature, options: Mapping, given: int, named: Mapping) -> None:
    parameters = signature.parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        raise ValueError(f"part {name!r} takes **options; a part must name every option it has")
    taken = {*list(parameters)[:given], *named, "parent", "name"}
    allowed = [key for key in parameters if key not in taken]
    for key, value in options.items():
        if key not in allowed:
            raise ValueError(f"{name!r} has no option {key!r}{nearest(key, allowed)}")
        _check_type(f"option {key!r} of {name!r}", value, parameters[key].annotation)


def _check_type(what: str, value: Any, annotation: Any) -> None:
    """Refuses a value that plainly is not of a plainly annotated type."""
    kinds = {float: (int, float), int: (int,), bool: (bool,), str: (str,), tuple: (tuple,)}
    union = typing.get_origin(annotation) in (typing.Union, UnionType)
    members = set(typing.get_args(annotation)) if union else {annotation}
    named = members - {Any, type(None)}  # `float | Array` is a number: a config holds plain ones
    if len(named) != 1 or not named <= set(kinds):
        return
    (kind,) = named
    if not isinstance(value, kinds[kind]) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{what} must be {kind.__name__}, got {value!r}")
