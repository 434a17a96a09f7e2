"""Tables that say where foreign tensors lie in our trees: `(theirs, ours, transform)`, the first that matches decides.

Names are templates, read in both directions:

    Rule("blocks.{layer}.attn.to_{part}.weight", "blocks/attention/qkv/kernel", heads)

`{layer}` is a number, and its tensors are stacked on axis 0; `{part}` is q, k or v, and they are joined on the axis
before the heads.  Any other group stands for a word without a dot, a number where it has one letter, or what a
pattern after its colon allows, and is the same on both sides.  `ours` is None for what we do not keep.
"""

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdiff.convert.transforms import Transform, kernel, same
from jaxdiff.protocols import Array

__all__ = ["Mismatch", "Rule", "back", "convert", "layer", "norm", "shapes"]

PARTS = "qkv"
GROUP = re.compile(r"\{(\w+)(?::([^{}]+))?\}")


class Mismatch(ValueError):
    """Weights that do not fit the network: every fault, one a line."""


class Rule(NamedTuple):
    """A line of a table."""

    theirs: str
    ours: str | None
    transform: Transform


def layer(theirs: str, ours: str, transform: Transform = kernel, bias: Transform | None = None) -> tuple[Rule, ...]:
    """Returns the rules of weight and bias of a layer."""
    return (Rule(f"{theirs}.weight", f"{ours}/kernel", transform),
            Rule(f"{theirs}.bias", f"{ours}/bias", same if bias is None else bias))


def norm(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Returns the rules of a norm's scale and bias."""
    return Rule(f"{theirs}.weight", f"{ours}/scale", same), Rule(f"{theirs}.bias", f"{ours}/bias", same)


@functools.cache
def _pattern(template: str) -> re.Pattern[str]:
    """Compiles a template; a group's second occurrence is what its first was."""
    made, end, seen = "", 0, set()
    for match in GROUP.finditer(template):
        name, allowed = match.groups()
        kind = {"part": f"[{PARTS}]", "layer": r"\d+"}.get(name, r"\d+" if len(name) == 1 else r"\w+")
        made += re.escape(template[end:match.start()])
        made += f"(?P={name})" if name in seen else f"(?P<{name}>{allowed or kind})"
        seen.add(name)
        end = match.end()
    return re.compile(made + re.escape(template[end:]))


def _filled(template: str, groups: Mapping[str, str]) -> str:
    return GROUP.sub(lambda match: groups[match[1]] if match[1] in groups else match[0], template)


def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Returns path -> shape of parameters (or of their shapes), without the collection `params`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree["params"])
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves}


def convert(source: Mapping[str, Array], rules: Iterable[Rule], shapes: Mapping[str, tuple[int, ...]]) -> dict:
    """Returns path -> float32 array, as many as `shapes`.

    Args:
      source: their name -> value.
      rules: the table.
      shapes: our path -> shape; see `shapes`.

    Raises:
      Mismatch: tensors that are missing, are too many, or have another shape: all of them.
    """
    rules, faults = tuple(rules), []
    pieces: dict[str, dict[Place, tuple[str, Array]]] = {}
    for name, value in source.items():
        try:
            path, place, piece = _piece(name, value, rules, shapes)
        except Mismatch as fault:
            faults.append(str(fault))
            continue
        if path:
            first, _ = pieces.setdefault(path, {}).setdefault(place, (name, piece))
            if first != name:
                faults.append(f"twice: {name} goes to {path}, where {first} lies already")
    made = {}
    for path, shape in shapes.items():
        found = {place: piece for place, (_, piece) in pieces.get(path, {}).items()}
        missing = _places(found, shape) - set(found)
        if not missing:
            made[path] = _assembled(found).reshape(shape)
        elif not any(path in fault for fault in faults):
            faults.append(f"missing: {_their_name(path, rules)} for {path} of shape {shape}{_of(missing, found)}")
    if faults:
        raise Mismatch(f"{len(faults)} tensors do not fit this network:\n" + "\n".join(faults))
    return made


class Place(NamedTuple):
    """Where in one of our parameters a tensor lies; None where there is no such axis."""

    layer: int | None
    part: int | None


def _piece(name: str, value: Array, rules: tuple[Rule, ...],
           shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, Place, Array]:
    """Returns path, place and value of one tensor; the path is "" where it is not kept."""
    rule, groups = next(_matches(name, rules, "theirs"), (None, {}))
    if rule is None:
        raise Mismatch(f"unknown: {name} of shape {value.shape}")
    if rule.ours is None:
        return "", Place(None, None), value
    place = Place(int(groups["layer"]) if "layer" in groups else None,
                  PARTS.index(groups["part"]) if "part" in groups else None)
    path = _filled(rule.ours, groups)
    if path not in shapes:
        raise Mismatch(f"extra: {name} of shape {value.shape}, which would be {path}")
    shape = shapes[path][place.layer is not None:]
    shape = shape if place.part is None else shape[:-3] + shape[-2:]
    try:
        piece = rule.transform.there(np.asarray(value, np.float32), shape)
    except (ValueError, IndexError):
        piece = None
    if piece is None or piece.shape != shape:
        raise Mismatch(f"misshapen: {name} of shape {value.shape}, where {path} takes {shape}")
    return path, place, piece


def _matches(name: str, rules: Iterable[Rule], side: str) -> Iterator[tuple[Rule, dict[str, str]]]:
    for rule in rules:
        template = getattr(rule, side)
        match = None if template is None else _pattern(template).fullmatch(name)
        if match:
            yield rule, match.groupdict()


def _places(found: Iterable[Place], shape: tuple[int, ...]) -> set[Place]:
    """Returns the places that a parameter is made of, as those that were found are: layers, parts, or whole."""
    layers = [place.layer for place in found if place.layer is not None]
    numbers = range(min(layers), min(layers) + shape[0]) if layers else (None,)
    parts = range(3 - shape[-3], 3) if any(place.part is not None for place in found) else (None,)  # (k, v) are two
    return {Place(layer, part) for layer in numbers for part in parts}


def _assembled(found: Mapping[Place, Array]) -> Array:
    layers: dict[int | None, dict[int | None, Array]] = {}
    for place in sorted(found, key=lambda place: (place.layer or 0, place.part or 0)):
        layers.setdefault(place.layer, {})[place.part] = found[place]
    whole = [parts[None] if None in parts else np.stack(list(parts.values()), -3) for parts in layers.values()]
    return whole[0] if None in layers else np.stack(whole)


def _their_name(path: str, rules: Iterable[Rule]) -> str:
    """Returns what they call it, by the first rule that leads there; what does not follow stays in braces."""
    rule, groups = next(_matches(path, rules, "ours"), (None, {}))
    return "nothing" if rule is None else _filled(rule.theirs, groups)


def _of(missing: Iterable[Place], found: Mapping[Place, Array]) -> str:
    words = [" ".join([*([] if place.layer is None else [f"layer {place.layer}"]),
                       *([] if place.part is None else [PARTS[place.part]])])
             for place in sorted(missing, key=str)]
    return f" ({', '.join(words)})" if found else ""


def back(params: Mapping[str, Array], rules: Iterable[Rule]) -> dict[str, Array]:
    """Returns their name -> value of our path -> value: what `convert` with the same table turns into `params`.

    Raises:
      Mismatch: parameters that the table has no rule for, or cannot turn back.
    """
    made, faults, rules = {}, [], tuple(rules)
    for path, value in params.items():
        rule, groups = next(_matches(path, rules, "ours"), (None, {}))
        if rule is None or rule.transform.back is None:
            faults.append(f"{path} of shape {value.shape}")
            continue
        named = {name for name, _ in GROUP.findall(rule.theirs)}
        for layer in range(len(value)) if "layer" in named else (None,):
            whole = value if layer is None else value[layer]
            for part in range(whole.shape[-3]) if "part" in named else (None,):
                piece = whole if part is None else np.take(whole, part, -3)
                letter = "" if part is None else PARTS[3 - whole.shape[-3] + part]
                name = _filled(rule.theirs, {**groups, "layer": str(layer), "part": letter})
                if next(_matches(name, rules, "theirs"), (None, {}))[0] is not rule:  # another rule's on the way there
                    faults.append(f"{path} of shape {value.shape}, whose layer {layer} is no {name}")
                    break
                made[name] = np.ascontiguousarray(rule.transform.back(np.asarray(piece)))
    if faults:
        raise Mismatch(f"this table has no way back for {len(faults)} parameters:\n" + "\n".join(faults))
    return made
