"""What became of a sweep: read from the folders of its runs, and from the engine's list."""

import contextlib
import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["LOWER", "STATES", "as_csv", "as_text", "curve", "draw", "metrics", "read", "sort", "state"]

STATES = ("queued", "running", "preempted", "done", "failed", "pruned", "stopped")
# What is better when larger; all else is a loss or a distance.
HIGHER = re.compile(r"accuracy|precision|recall|density|coverage|^is|images_per_second|mfu|goodput|score|clip_text")
LOWER = "lower is better, except accuracy, precision, recall, density, coverage, scores and speeds"


def read(workdir: str, name: str) -> list[dict[str, Any]]:
    """Returns the whole lines of a file of JSON lines, on a disk or in a bucket."""
    path: Any = Path(workdir) / name
    if "://" in workdir:
        from etils import epath

        path = epath.Path(workdir) / name
    found = []
    with contextlib.suppress(FileNotFoundError):
        for line in path.read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                found.append(json.loads(line))
    return found


def state(attempts: Sequence[Mapping[str, Any]], then: Sequence[str], alive: bool | None) -> str:
    """Returns one of `STATES`.

    Args:
      attempts: lines of `run.jsonl`.
      then: what the ledger notes since the submission.
      alive: whether the engine, or a lock, says that it runs or waits; None where nobody can say.
    """
    ends = {row["attempt"]: row["status"] for row in attempts if row["event"] == "end"}
    starts = [row["attempt"] for row in attempts if row["event"] == "start"]
    last = ends.get(starts[-1]) if starts else None
    if last == 0:
        return "done"
    if "pruned" in then:
        return "pruned"
    if alive:
        return "running" if starts and last is None else "preempted" if starts else "queued"
    if "stopped" in then:
        return "stopped"
    if last in (1, 2):
        return "failed"
    if "failed" in then:
        return "failed"
    if not starts:
        return "queued"
    return "running" if last is None and alive is None else "preempted"


def metrics(workdir: str) -> dict[str, float]:
    """Returns the last of every number that a run has told: of its last logged step, and of its evaluations."""
    found: dict[str, float] = {}
    for row in read(workdir, "metrics.jsonl"):
        if "event" not in row:
            found |= {key: float(value) for key, value in row.items() if _number(value)}
    for row in read(workdir, "eval/results.jsonl"):
        own = {key: value for key, value in row.items() if key in ("accuracy", "nfe", "checkpoint")}
        found |= {key: float(value) for key, value in {**row.get("metrics", {}), **own}.items() if _number(value)}
    return found


def curve(workdir: str, metric: str) -> list[tuple[int, float]]:
    """Returns `(step, value)` of a training metric; the last line of a step counts."""
    found = {int(row["step"]): float(row[metric]) for row in read(workdir, "metrics.jsonl")
             if "event" not in row and _number(row.get(metric))}
    return sorted(found.items())


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def sort(rows: Sequence[Mapping[str, Any]], metric: str) -> list[Mapping[str, Any]]:
    """Returns the rows, the best first, those without the metric last.

    Raises:
      ValueError: none has it; the names that there are.
    """
    if rows and not any(metric in row for row in rows):
        there = sorted({key for row in rows for key in row} - {"name", "state", "workdir"})
        raise ValueError(f"--metric={metric}: no trial has told it" + (f"; there are {', '.join(there)}" if there else
                                                                         " yet"))
    sign = -1 if HIGHER.search(metric) else 1

    def place(row: Mapping[str, Any]) -> tuple[int, float]:
        value = row.get(metric, math.nan)
        return (1, 0.0) if math.isnan(value) else (0, sign * value)

    return sorted(rows, key=place)


def as_text(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Returns a table for reading."""
    cells = [list(columns)] + [[_shown(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(row[at]) for row in cells) for at in range(len(columns))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
                     for row in cells)


def _shown(value: Any) -> str:
    return "" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns all that is known, in full."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def draw(rows: Sequence[Mapping[str, Any]], metric: str, path: Path) -> None:
    """Draws the curves of all trials, of the loss where the metric has none, and its last values, the best on top.

    Args:
      rows: with `name`, `workdir`, `state` and the metric.
      metric: its name.
      path: of the PNG.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    rows = [row for row in sort(rows, metric) if metric in row]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 1.6 + 0.3 * max(6, len(rows))), layout="constrained")
    colours = pyplot.get_cmap("viridis")([number / max(1, len(rows) - 1) for number in range(len(rows))])
    curves, told = [curve(row["workdir"], metric) for row in rows], metric
    if not any(curves):
        curves, told = [curve(row["workdir"], "loss") for row in rows], "loss"
    for points, colour in zip(curves, colours, strict=True):
        if points:
            left.plot(*zip(*points, strict=True), color=colour, linewidth=1)
    left.set(xlabel="step", ylabel=told, title="while training")
    right.barh([row["name"] for row in rows], [row[metric] for row in rows], color=colours)
    right.invert_yaxis()
    right.set(xlabel=metric, title="last")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
