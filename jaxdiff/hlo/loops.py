"""How often the loops of a program turn.

The text for a TPU does not say it.  It is worked out as a reader would: the condition compares a counter with a limit,
the loop is given the counter's start, and its body adds a step.
"""

import collections
import re
from collections.abc import Mapping

from jaxdiff.hlo.reading import Instruction, Program, called

__all__ = ["turns"]

ALIASES = {"bitcast", "copy", "convert", "reshape", "opt-barrier"}  # of a counter: the same number


def turns(program: Program) -> tuple[dict[str, int], tuple[str, ...]]:
    """Returns how often each computation runs, those inside fusions as well, and the loops that are not understood."""
    times: collections.Counter[str] = collections.Counter()
    unknown = []

    def enter(name: str, count: int) -> None:
        times[name] += count
        for each in program.computations[name].values():
            if each.opcode == "while":
                found = _turns(program, name, each)
                if found is None:
                    unknown.append(each.name)
                enter(called(each)[0], count * (1 if found is None else found))
            elif each.opcode in ("fusion", "call", "async-start", "conditional"):
                for inner in called(each):
                    if inner in program.computations:
                        enter(inner, count)

    enter(program.entry, 1)
    return dict(times), tuple(dict.fromkeys(unknown))


def _turns(program: Program, outside: str, loop: Instruction) -> int | None:
    """Returns how often a loop turns: as it says itself, or ⌈(limit − start)/step⌉."""
    told = re.search(r'known_trip_count"?:\s*\{"?n"?:\s*"?(\d+)', loop.after)
    if told:
        return int(told[1])
    compared = _comparison(program, loop.says("condition") or "")
    if compared is None:
        return None
    (left, right), direction = compared
    body = program.computations[loop.says("body") or ""]
    given = program.computations[outside]
    fixed = lambda side: side if side is None or side[0] == "number" else _start(given, loop, body, side[1])
    counter = left if left and left[0] == "element" and fixed(right) else None
    limit = fixed(right)
    if counter is None or limit is None:
        return None
    step = _step(body, counter[1])
    start = _start(given, loop, None, counter[1])
    if not step or start is None or direction not in ("LT", "LE"):
        return None
    return max(0, -(-(limit[1] + (direction == "LE") - start[1]) // step))


def _comparison(program: Program, condition: str) -> tuple[list, str] | None:
    """Returns the sides of what a condition compares, each ("number", n), ("element", i) of the loop's, or None."""
    here = program.computations.get(condition, {})
    root = next((each for each in here.values() if each.root), None)
    sides: list = [] if root is None else [_number(here, name) for name in root.operands]
    while root is not None and root.opcode == "fusion":  # the CPU's compiler wraps the comparison
        here = program.computations.get(called(root)[0], {})
        inner = next(each for each in here.values() if each.root)
        passed = [_number(here, name) for name in inner.operands]
        sides = [sides[side[1]] if side and side[0] == "parameter" else side for side in passed]
        root = inner
    if root is None or root.opcode != "compare" or len(sides) != 2:
        return None
    return sides, root.says("direction") or ""


def _number(here: Mapping[str, Instruction], name: str) -> tuple[str, int] | None:
    """Follows a whole number to where it is from: a constant, an element of a tuple given, or a parameter."""
    each = here.get(name)
    while each is not None and each.opcode in ALIASES and each.operands:
        each = here.get(each.operands[0])
    if each is None:
        return None
    if each.opcode == "constant" and re.fullmatch(r"-?\d+", each.inside):
        return "number", int(each.inside)
    if each.opcode == "get-tuple-element" and here[each.operands[0]].opcode == "parameter":
        return "element", int(each.says("index") or 0)
    return ("parameter", int(each.inside)) if each.opcode == "parameter" else None


def _start(given: Mapping[str, Instruction], loop: Instruction, body: Mapping[str, Instruction] | None,
           element: int) -> tuple[str, int] | None:
    """Returns the number that a loop is given as one of its elements; with `body`, of one that it leaves as it is."""
    if body is not None:
        root = next(each for each in body.values() if each.root)
        if root.opcode != "tuple" or _number(body, root.operands[element]) != ("element", element):
            return None
    first = given.get(loop.operands[0])
    if first is None or first.opcode != "tuple":
        return None
    found = _number(given, first.operands[element])
    return found if found and found[0] == "number" else None


def _step(body: Mapping[str, Instruction], element: int) -> int | None:
    """Returns what a loop's body adds to one of its elements."""
    root = next(each for each in body.values() if each.root)
    each = body.get(root.operands[element]) if root.opcode == "tuple" else None
    while each is not None and each.opcode in ALIASES:
        each = body.get(each.operands[0])
    if each is None or each.opcode != "add":
        return None
    sides = [_number(body, name) for name in each.operands]
    numbers = [side[1] for side in sides if side and side[0] == "number"]
    return numbers[0] if numbers and ("element", element) in sides else None
