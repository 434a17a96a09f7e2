"""Result rows to read: a summary of one, and a table and pictures of many.

Rows are compared only with rows of the same reference, features and numbers of images; over seeds the mean is given,
and the minimum, which papers report (of three, after EDM).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["best_of", "groups", "pictures", "setting", "summary", "table"]

AXES = {"checkpoint": "step", "nfe": "evaluations", "guidance": "guidance"}
COLUMNS = 5  # figures


def setting(row: Mapping) -> str:
    """Returns how a row's samples are drawn, in a few words; or whose images it is of."""
    if "images" in row:
        return str(row["images"])
    steps = row["steps"] if "steps" in row else row["times"]["steps"] if "steps" in row["times"] else "its own"
    scale = row["guidance"] if "guidance" in row else 1
    guided = f", guidance {scale:g}" if scale != 1 else ""
    count = f" ({row['nfe']} evaluations{guided})" if "nfe" in row else ""
    how = f"{row['sampler']['name']} with {steps} steps{count}"
    return f"step {row['checkpoint']}, {row['ema']}, {how}, seed {row['seed']}"


def summary(row: Mapping) -> list[str]:
    """Returns a result row as lines to read: every distance beside its yardsticks."""
    lines = [f"{setting(row)}: {row['n']['made']} images against {row['n']['real']}"]
    figures = row["metrics"]
    for name, value in figures.items():
        if name.endswith(("_floor", "_ceiling")):
            continue
        text = f"  {name} {value:.4g}"
        if f"{name}_floor" in figures:
            text += f"   (held-out real images {figures[f'{name}_floor']:.4g}"
            text += f", matched noise {figures[f'{name}_ceiling']:.4g})" if f"{name}_ceiling" in figures else ")"
        lines.append(text)
    if "accuracy" in row:
        lines.append(f"  requested class recognised: {row['accuracy']:.1%} of {row['num']} "
                     f"(95 % interval {row['accuracy_low']:.1%} to {row['accuracy_high']:.1%})")
    if "closest" in row:
        lines.append(f"  samples beside the training images nearest to them: {row['closest']}")
    return lines


def groups(rows: Iterable[Mapping]) -> list[list[list[Mapping]]]:
    """Returns rows that may be compared, together: of each such set the settings, of each setting the seeds."""
    sets: dict[str, dict[str, list[Mapping]]] = {}
    for row in rows:
        comparable = {key: row[key] for key in ("n", "reference", "extractors", "equal") if key in row}
        drawn = {key: row[key] for key in ("config", "checkpoint", "ema", "sampler", "times", "guidance_chain",
                                           "precision", "images") if key in row}
        sets.setdefault(_text(comparable), {}).setdefault(_text(drawn), []).append(row)
    return [list(settings.values()) for settings in sets.values()]


def best_of(seeds: Sequence[Mapping], name: str) -> tuple[float, float]:
    """Returns the mean and the minimum of a figure over the rows of one setting."""
    values = [row["metrics"][name] for row in seeds if name in row["metrics"]]
    return sum(values) / len(values), min(values)


def table(rows: Sequence[Mapping]) -> list[str]:
    """Returns lines: a table for every set of rows that may be compared, the best first."""
    lines: list[str] = []
    for settings in groups(rows):
        first = settings[0][0]
        names = [name for name in first["metrics"] if not {"floor", "ceiling", "std"} & set(name.split("_"))][:COLUMNS]
        if not names:
            continue
        lines.append(f"{first['n']['made']} images against {first['n']['real']}; mean (minimum) over seeds:")
        there = [seeds for seeds in settings if all(name in seeds[0]["metrics"] for name in names)]
        there.sort(key=lambda seeds: best_of(seeds, names[0]), reverse=names[0].startswith(("precision", "recall")))
        cells = [["", *names, "seeds"]]
        for seeds in there:
            told = ["{:.4g} ({:.4g})".format(*best_of(seeds, name)) for name in names]
            cells.append([setting(seeds[0]).rpartition(", seed")[0] or setting(seeds[0]), *told, str(len(seeds))])
        widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
        lines += ["  " + "  ".join(word.ljust(width) if not i else word.rjust(width)
                                   for i, (word, width) in enumerate(zip(line, widths, strict=True))) for line in cells]
    return lines


def pictures(rows: Sequence[Mapping], folder: Path) -> list[Path]:
    """Draws the first figure against step, evaluations and guidance, where they differ; returns the paths."""
    drawn = []
    for number, settings in enumerate(groups(rows)):
        first = settings[0][0]
        if "checkpoint" not in first or not first["metrics"]:
            continue
        name = next(iter(first["metrics"]))
        for axis, label in AXES.items():
            if len({seeds[0][axis] for seeds in settings}) > 1:
                tail = f"_{number}" if number else ""
                drawn.append(_picture(settings, name, axis, label, folder / f"{name}_against_{label}{tail}.png"))
    return drawn


def _picture(settings: Sequence[Sequence[Mapping]], name: str, axis: str, label: str, path: Path) -> Path:
    import matplotlib

    matplotlib.use("Agg")  # no screen is needed, nor looked for
    from matplotlib import pyplot

    lines: dict[str, list[tuple[float, float, float]]] = {}
    for seeds in settings:
        row = seeds[0]
        others = {"checkpoint": f"step {row['checkpoint']}", "ema": row["ema"], "sampler": row["sampler"]["name"],
                  "nfe": f"{row['nfe']} evaluations", "guidance": f"guidance {row['guidance']:g}"}
        told = ", ".join(text for key, text in others.items() if key != axis)
        lines.setdefault(told, []).append((row[axis], *best_of(seeds, name)))
    figure, axes = pyplot.subplots(figsize=(6, 3.8), layout="constrained")
    for told, points in sorted(lines.items()):
        x, mean, least = zip(*sorted(points), strict=True)
        line, = axes.plot(x, mean, marker="o", label=told)
        axes.fill_between(x, least, mean, color=line.get_color(), alpha=0.2)
    axes.set(xlabel=label, ylabel=f"{name} (mean; shade: to the minimum)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
    return path


def _text(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, default=str)
