"""The text of an HLO module as computations and their instructions."""

import dataclasses
import math
import re
from collections.abc import Mapping

__all__ = ["Instruction", "Program", "Value", "called", "read"]

BITS = {"pred": 8, "token": 0, "opaque": 0}  # of other kinds the name says them: s32, bf16, f8e4m3fn

HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) (?:\(.*)?\{$")
LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
ARRAY = re.compile(r"\b(pred|token|opaque|[a-z]+\d+\w*)\[([\d,<= ]*)\](?:\{([\d,]*)(?::([^}]*))?\})?")
CALLS = re.compile(r"\b(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)")
BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Value:
    """An array: its bytes as numbers, and as it lies in HBM (0 where it lies elsewhere)."""

    size: int
    held: int


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of a computation."""

    name: str
    opcode: str
    values: tuple[Value, ...]  # one, or those of a tuple
    operands: tuple[str, ...]
    inside: str  # between the parentheses
    after: str  # attributes
    root: bool

    def says(self, attribute: str) -> str | None:
        """Returns what follows `attribute=`, up to a comma or space."""
        found = re.search(rf"\b{attribute}=%?([^\s,]+)", self.after)
        return found[1] if found else None


@dataclasses.dataclass(frozen=True)
class Program:
    """Computations, by name, each a dict of its instructions in order."""

    computations: Mapping[str, Mapping[str, Instruction]]
    entry: str


def read(text: str) -> Program:
    """Reads a module; lines that are no instructions are passed over.

    Raises:
      ValueError: there is no entry computation.
    """
    computations: dict[str, dict[str, Instruction]] = {}
    entry, here = None, None
    for line in text.splitlines():
        if here is None or not line.startswith(" "):
            head = HEAD.match(line)
            here = None if head is None else computations.setdefault(head[2], {})
            entry = head[2] if head and head[1] else entry
        else:
            made = _instruction(line)
            if made is not None:
                here[made.name] = made
    if entry is None:
        raise ValueError("no HLO module: it has no ENTRY computation")
    return Program(computations, entry)


def _instruction(line: str) -> Instruction | None:
    head = LINE.match(line)
    if head is None:
        return None
    end = _closed(line, head.end()) if line[head.end():head.end() + 1] == "(" else line.find(" ", head.end())
    opening = line.find("(", end)
    if end < 0 or opening < 0:
        return None
    closing = _closed(line, opening)
    inside = line[opening + 1:closing - 1]
    return Instruction(head[2], line[end:opening].strip(), tuple(map(_value, ARRAY.finditer(line, head.end(), end))),
                       tuple(re.findall(r"%([\w.\-]+)", inside)), inside, line[closing:], bool(head[1]))


def _closed(line: str, opening: int) -> int:
    """Returns where the parenthesis at `opening` has been closed."""
    depth = 0
    for found in re.compile(r"[()]").finditer(line, opening):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return found.end()
    return len(line)


def _value(found: re.Match) -> Value:
    kind, shape, order, layout = found.groups()
    bits = BITS[kind] if kind in BITS else int(re.search(r"[a-z](\d+)", kind)[1])  # type: ignore[index]
    dims = [int(re.sub(r"[<= ]", "", size)) for size in shape.split(",") if size.strip()]
    space = re.search(r"S\((\d+)\)", layout or "")
    padded = math.prod(_padded(dims, order, layout or ""))
    return Value(math.prod(dims) * bits // 8, 0 if space and space[1] != "0" else padded * bits // 8)


def _padded(dims: list[int], order: str | None, layout: str) -> list[int]:
    """Returns the sizes, slowest first, with those that a tile `T(8,128)` covers rounded up to it."""
    lying = [dims[int(axis)] for axis in reversed(order.split(","))] if order else dims
    tile = re.search(r"T\(([\d,]+)\)", layout)
    sizes = [int(size) for size in tile[1].split(",")] if tile else []
    covered = min(len(sizes), len(lying))
    rounded = [-(-size // by) * by for size, by in zip(lying[len(lying) - covered:], sizes[len(sizes) - covered:],
                                                       strict=True)]
    return [*lying[:len(lying) - covered], *rounded]


def called(each: Instruction) -> list[str]:
    """Returns the computations that an instruction runs: a fusion's, a loop's body, the branches of a condition."""
    branches = BRANCHES.search(each.after)
    return CALLS.findall(each.after) + (re.findall(r"[\w.\-]+", branches[1]) if branches else [])
