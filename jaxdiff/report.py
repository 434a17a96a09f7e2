"""What a run has to show of its training: the loss curve as a picture, and as a line of a terminal."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

__all__ = ["loss_curve", "sparkline"]

BARS = "▁▂▃▄▅▆▇█"


def latest(rows: Iterable[Mapping]) -> list[Mapping]:
    """Returns rows by step, ascending; of a step written twice (a restart) the last one counts."""
    by_step = {row["step"]: row for row in rows if "loss" in row and row["loss"] is not None}
    return [by_step[step] for step in sorted(by_step)]


def loss_curve(rows: Iterable[Mapping], path: Path) -> list[float]:
    """Draws loss against step to a PNG; returns the losses.

    Raises:
      ValueError: there is no loss to draw.
    """
    points = latest(rows)
    if not points:
        raise ValueError("no loss has been logged yet")
    import matplotlib

    matplotlib.use("Agg")  # no screen is needed, nor looked for
    from matplotlib import pyplot

    steps, losses = [row["step"] for row in points], [row["loss"] for row in points]
    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    axes.plot(steps, losses, color="#8fb8de", linewidth=1, label="loss of the step")
    if len(losses) >= 10:
        axes.plot(steps, _smoothed(np.asarray(losses)), color="#1f4e79", linewidth=2, label="smoothed")
        axes.legend(frameon=False)
    axes.set(xlabel="step", ylabel="loss", yscale="log")
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
    return losses


def _smoothed(values: np.ndarray, width: int = 5) -> np.ndarray:
    padded = np.pad(values, width // 2, mode="edge")
    return np.convolve(padded, np.full(width, 1 / width), "valid")


def sparkline(values: Sequence[float], width: int = 60) -> str:
    """Returns values as a line of bars, on a logarithmic scale, for a terminal."""
    logs = np.log([value for value in values if value > 0])
    if not len(logs):
        return ""
    parts = [part.mean() for part in np.array_split(logs, min(width, len(logs)))]
    low, high = min(parts), max(parts)
    return "".join(BARS[int((part - low) / (high - low + 1e-12) * (len(BARS) - 1))] for part in parts)
