"""What a run has to show: its losses, its lives, its results."""

from typing import Any

import numpy as np

from jaxdiff import attempts, tables
from jaxdiff import report as reports
from jaxdiff import workdir as workdirs

__all__ = ["report"]


def report(workdir: Any) -> int:
    """Draws the loss curve and prints paths and results; returns the exit status."""
    about = workdirs.read(workdir, "run.json")
    lines = list(workdirs.rows(workdir / "metrics.jsonl"))
    losses = reports.loss_curve(lines, workdir / "loss.png")
    rows = list(workdirs.rows(workdir / "eval" / "results.jsonl"))
    print(f"{workdir}: {about['parameters']:,} parameters on {about['device']['count']} x {about['device']['kind']}")
    print(f"  loss {losses[0]:.3f} -> {losses[-1]:.3f}  {reports.sparkline(losses)}")
    rows = [row for row in rows if "metrics" in row]
    told = (tables.summary(rows[-1]) if rows else []) + (tables.table(rows) if len(rows) > 1 else [])
    print("\n".join([*_lives(workdir, lines), *told]))
    for name, what in (("loss.png", "loss curve"), ("samples.png", "samples"), ("samples.npz", "samples as arrays"),
                       ("eval/results.jsonl", "results"), ("metrics.jsonl", "metrics"), ("tensorboard", "TensorBoard"),
                       ("checkpoints", "checkpoints")):
        if (workdir / name).exists():
            print(f"  {what}: {workdir / name}")
    return 0


def _lives(workdir: Any, lines: list[dict]) -> list[str]:
    """Returns how often the run was started, how it ended, and what share of the time was of use."""
    told = attempts.summary(workdir)
    paces = [row["time/step_p50"] for row in lines if "time/step_p50" in row]
    if told is None:
        return []
    ends = ", ".join(f"{count} x {'killed' if status is None else f'status {status}'}"
                     for status, count in told["statuses"].items())
    kept = max((row["step"] for row in lines), default=0) - told["from_step"]
    share = "" if not paces else f", goodput {attempts.share(told, kept, float(np.median(paces))):.0%}"
    return [f"  {told['attempts']} attempts in {told['seconds']:,.0f} s ({ends}){share}"]
