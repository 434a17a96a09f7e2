"""What a program costs a device: bytes of its memory, and bytes between devices."""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

from jaxdiff.hlo.loops import turns
from jaxdiff.hlo.reading import Instruction, Program, Value, called, read

__all__ = ["BETWEEN_SLICES", "KINDS", "Costs", "Moved", "accessed", "collected", "costs"]

BETWEEN_SLICES = "between-slices"
KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute", BETWEEN_SLICES)
FREE = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "partition-id", "replica-id",
        "while", "conditional", "call", "opt-barrier", "async-start", "async-update"}
SLICES = {"dynamic-slice", "slice", "gather"}
BUFFERS = {"AllocateBuffer", "AssumeGatherIndicesInBound"}  # custom calls that do nothing


@dataclasses.dataclass(frozen=True)
class Moved:
    """What one kind of collective moves, per device and run."""

    times: int = 0
    payload: int = 0  # bytes put together or sent: of a gather the result, else the operands
    wire: float = 0.0  # bytes that a device sends at least


@dataclasses.dataclass(frozen=True)
class Costs:
    """What a program costs a device, each time it runs."""

    memory: int  # bytes read and written in HBM
    moved: Mapping[str, Moved]  # by kind
    unknown: tuple[str, ...]  # loops whose turns were not found; what is in them counts once


def costs(text: str) -> Costs:
    """Returns what a compiled program costs, from `compiled.as_text()`."""
    program = read(text)
    times, unknown = turns(program)
    return Costs(accessed(program, times), collected(program, times), unknown)


# Between devices.


def collected(program: Program, times: Mapping[str, int]) -> dict[str, Moved]:
    """Returns what the collectives move, by kind.

    Each channel counts once, where it moves most: the compiler may spread a collective over several computations.  A
    start and its done are one.

    Args:
      program: as read.
      times: how often each computation runs.
    """
    largest: dict[tuple[str, str], Moved] = {}
    for name, here in program.computations.items():
        for each in here.values() if name in times else ():
            kind = _kind(each, name)
            if kind is not None:
                key = kind, each.says("channel_id") or f"{name}/{each.name}"
                largest[key] = max(largest.get(key, Moved()), _moved(kind, each, here, times[name]), key=_payload)
    return {kind: _sum([moved for (other, _), moved in largest.items() if other == kind]) for kind in KINDS}


def _kind(each: Instruction, computation: str) -> str | None:
    kind = each.opcode.removesuffix("-start")
    if kind == "send" and "megascale" in each.after:
        return BETWEEN_SLICES
    # The TPU's compiler has a reduce-scatter as an all-reduce in a fusion that keeps a part.
    kind = "reduce-scatter" if kind == "all-reduce" and computation.startswith("all-reduce-scatter") else kind
    return kind if kind in KINDS else None


def _payload(moved: Moved) -> int:
    return moved.payload


def _sum(all_moved: list[Moved]) -> Moved:
    return Moved(sum(moved.times for moved in all_moved), sum(map(_payload, all_moved)),
                 sum(moved.wire for moved in all_moved))


def _moved(kind: str, each: Instruction, here: Mapping[str, Instruction], times: int) -> Moved:
    sent = sum(value.size for value in _operands(each, here))
    if kind in ("collective-permute", BETWEEN_SLICES):
        return Moved(times, times * sent, float(times * sent))
    devices = _group(each.after)
    payload = times * sent * (devices or 1) if kind == "all-gather" else times * sent
    share = 1.0 if devices is None else (devices - 1) / devices
    return Moved(times, payload, payload * share * (2 if kind == "all-reduce" else 1))


def _group(after: str) -> int | None:
    """Returns how many devices take part: of `{{0,1},{2,3}}`, of `[2,4]<=[8]` and of `mesh['a'=4,'b'=2] {'a'}`."""
    found = re.search(r"replica_groups=(\{\{[\d,]+\}|\[[\d,]+\]|mesh\[([^\]]*)\]\s*\{([^}]*)\})", after)
    if found is None:
        return None
    if found[2] is not None:
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", found[2]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'([^']+)'", found[3]) if axis in sizes)
    numbers = re.findall(r"\d+", found[1])
    return len(numbers) if found[1].startswith("{") else int(numbers[-1])


# In a device's memory.


def accessed(program: Program, times: Mapping[str, int]) -> int:
    """Returns the bytes that a run reads and writes in HBM: operands and results, of slices the slice alone.

    Args:
      program: as read.
      times: how often each computation runs.
    """
    fused = {name for here in program.computations.values() for each in here.values() if each.opcode == "fusion"
             for name in called(each)}
    return sum(times[name] * sum(_touched(each, here, program) for each in here.values())
               for name, here in program.computations.items() if name in times and name not in fused)


def _operands(each: Instruction, here: Mapping[str, Instruction]) -> Iterator[Value]:
    return (value for name in each.operands if name in here for value in here[name].values)


def _held(values: Iterator[Value] | tuple[Value, ...]) -> int:
    return sum(value.held for value in values)


def _touched(each: Instruction, here: Mapping[str, Instruction], program: Program) -> int:
    if each.opcode in FREE or each.opcode.endswith("-done"):
        return 0
    if each.opcode == "custom-call" and (each.says("custom_call_target") or "").strip('"') in BUFFERS:
        return 0
    if each.opcode == "fusion":
        inner = program.computations[called(each)[0]]
        read_too = sum(_read(inner, number, _held(here[name].values), program)
                       for number, name in enumerate(each.operands) if name in here)
        return read_too + _written(inner, _held(each.values), program)
    if each.opcode in SLICES:
        return 2 * _held(each.values)
    if each.opcode in ("dynamic-update-slice", "scatter"):
        return 2 * _held(here[each.operands[1 if each.opcode[0] == "d" else -1]].values)
    if each.opcode.endswith("-start") and len(each.values) > 1:  # its result names the operand as well
        return _held(each.values)
    return _held(_operands(each, here)) + _held(each.values)


def _read(inner: Mapping[str, Instruction], number: int, whole: int, program: Program) -> int:
    """Returns how much of its operand a fusion reads: of what it only slices the slices, of what it updates nothing."""
    name = next((each.name for each in inner.values() if each.opcode == "parameter" and each.inside == str(number)), "")
    total, pending = 0, [name]
    while pending:
        name = pending.pop()
        for each in inner.values():
            if name not in each.operands:
                continue
            place = each.operands.index(name)
            if each.opcode == "bitcast":
                pending.append(each.name)
            elif each.opcode in SLICES and place == 0:
                total += _held(each.values)
            elif each.opcode == "fusion":
                total += _read(program.computations[called(each)[0]], place, whole, program)
            elif each.opcode != "dynamic-update-slice" or place:
                return whole
    return min(total, whole)


def _written(inner: Mapping[str, Instruction], whole: int, program: Program) -> int:
    """Returns how much a fusion writes: of what it updates in place, the update."""
    root = next(each for each in inner.values() if each.root)
    total = 0
    for name in root.operands if root.opcode == "tuple" else (root.name,):
        each = inner[name]
        while each.opcode == "bitcast" and each.operands[0] in inner:
            each = inner[each.operands[0]]
        if each.opcode == "dynamic-update-slice":
            total += _held(inner[each.operands[1]].values)
        elif each.opcode == "fusion":
            total += _written(program.computations[called(each)[0]], _held(each.values), program)
        else:
            total += _held(inner[name].values)
    return min(total, whole)
