"""Draws jaxdiff from its own imports: a box for each module or folder, with its lines, above all that it imports.

An import that a chain of others implies is not drawn.

Command: python -m benchmarks.architecture   (writes docs/architecture.svg; make docs)
"""

import ast
import functools
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE, PICTURE = ROOT / "jaxdiff", ROOT / "docs" / "architecture.svg"


def room(path: Path) -> str:
    """Returns the module or folder of the package that a file is in."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports() -> dict[str, set[str]]:
    """Returns, for every room, the rooms that it imports."""
    rooms = {room(path) for path in PACKAGE.rglob("*.py")} - {"__init__", "__main__"}
    found: dict[str, set[str]] = {name: set() for name in rooms}
    for path in PACKAGE.rglob("*.py"):
        if room(path) not in rooms:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else (
                [f"{node.module}.{alias.name}" for alias in node.names] if isinstance(node, ast.ImportFrom) else [])
            for name in names:
                words = name.split(".")
                if words[0] == "jaxdiff" and len(words) > 1 and words[1] in rooms - {room(path)}:
                    found[room(path)].add(words[1])
    return found


def lines() -> dict[str, int]:
    """Returns how many lines a room has."""
    found: dict[str, int] = {}
    for path in PACKAGE.rglob("*.py"):
        found[room(path)] = found.get(room(path), 0) + len(path.read_text(encoding="utf-8").splitlines())
    return found


def heights(graph: Mapping[str, set[str]]) -> dict[str, int]:
    """Returns for every room how many imports the longest way down has.

    Raises:
      ValueError: some import one another in a circle.
    """
    open_rooms: list[str] = []

    @functools.cache
    def height(name: str) -> int:
        if name in open_rooms:
            raise ValueError(f"a circle of imports: {' -> '.join([*open_rooms, name])}")
        open_rooms.append(name)
        found = 1 + max((height(below) for below in graph[name]), default=-1)
        open_rooms.pop()
        return found

    return {name: height(name) for name in graph}


def reduced(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Returns the imports that no chain of others implies."""

    @functools.cache
    def under(name: str) -> frozenset[str]:
        return frozenset(graph[name]).union(*(under(below) for below in graph[name]))

    return {name: below - {each for other in below for each in under(other)} for name, below in graph.items()}


def draw() -> None:
    """Writes the picture."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "jaxdiff", "svg.fonttype": "none"})
    from matplotlib import pyplot
    from matplotlib.patches import FancyBboxPatch

    graph, sizes = imports(), lines()
    levels = heights(graph)
    places = {}
    for level in sorted(set(levels.values())):
        row = sorted(name for name in graph if levels[name] == level)
        for number, name in enumerate(row):
            places[name] = ((number - (len(row) - 1) / 2) * 1.25, level)
    figure, axes = pyplot.subplots(figsize=(12, 1.0 + 0.75 * (1 + max(levels.values()))), layout="constrained")
    for name, below in sorted(reduced(graph).items()):
        for other in sorted(below):
            (x, y), (u, v) = places[name], places[other]
            axes.annotate("", (u, v + 0.22), (x, y - 0.22), zorder=1,
                          arrowprops={"arrowstyle": "-|>", "color": "#3050a0", "alpha": 0.4, "lw": 0.8})
    for name, (x, y) in places.items():
        axes.add_patch(FancyBboxPatch((x - 0.52, y - 0.2), 1.04, 0.4, boxstyle="round,pad=0,rounding_size=0.08",
                                      facecolor="#eef2fb", edgecolor="#3050a0", linewidth=0.8, zorder=2))
        axes.text(x, y + 0.05, name, ha="center", va="center", fontsize=8, zorder=3)
        axes.text(x, y - 0.11, f"{sizes[name]:,}", ha="center", va="center", fontsize=6, color="#667", zorder=3)
    width = max(abs(x) for x, _ in places.values()) + 0.8
    axes.set(xlim=(-width, width), ylim=(-0.5, max(levels.values()) + 0.5))
    axes.axis("off")
    figure.savefig(PICTURE, metadata={"Date": None})
    print(PICTURE)


if __name__ == "__main__":
    sys.exit(draw())
