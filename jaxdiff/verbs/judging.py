"""What a run is worth: its results, and its report."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxdiff import attempts, experiment, processes
from jaxdiff import evaluate as evaluation
from jaxdiff import report as reports
from jaxdiff import workdir as workdirs
from jaxdiff.verbs.drawing import Drawing, drawn

__all__ = ["evaluate", "report"]


def evaluate(workdir: Any, drawing: Drawing, scoring: experiment.Scoring, beat: Callable = lambda step: None) -> int:
    """Appends a row to `eval/results.jsonl` and prints it; returns the exit status."""
    images, nfe = drawn(drawing, scoring.num, scoring.seed, beat)
    if not processes.leads():
        return 0
    config, generation = drawing.config, drawing.generation
    row: dict[str, Any] = {
        "checkpoint": drawing.checkpoint, "ema": drawing.ema, "sampler": experiment.as_json(config.sampler),
        "times": experiment.as_json(config.times), "steps": generation.times.steps, "nfe": nfe,
        "network_evaluations": nfe * generation.evaluations, "guidance": generation.scale, "num": scoring.num,
        "seed": scoring.seed, "matmul_precision": generation.precision,
        "device": jax.devices()[0].device_kind, "frechet": {},
    }
    sides = [scoring.reference, images] + ([] if scoring.held_out is None else [scoring.held_out])
    n = min(map(len, sides))
    reference = scoring.reference[np.random.default_rng(scoring.seed).permutation(len(scoring.reference))[:n]]
    for name, extract in scoring.extractors.items():
        result = {"n": n, "distance": evaluation.distance(reference, images[:n], extract)}
        if scoring.held_out is not None:
            result |= evaluation.yardsticks(reference, scoring.held_out[:n], extract, seed=scoring.seed)
        row["frechet"][name] = result
    if scoring.classifier is not None and drawing.cond_of is not None and drawing.model.classes:
        labels = drawing.cond_of(np.arange(scoring.num))["label"]
        row |= evaluation.requested_accuracy(images, labels, scoring.classifier.classify)
    path = workdir / "eval" / "results.jsonl"
    evaluation.append(path, row)
    print("\n".join([*reports.summary(row), f"  appended to {path}"]))
    return 0


def report(workdir: Any) -> int:
    """Draws the loss curve and prints paths and results; returns the exit status."""
    about = workdirs.read(workdir, "run.json")
    lines = list(workdirs.rows(workdir / "metrics.jsonl"))
    losses = reports.loss_curve(lines, workdir / "loss.png")
    rows = list(workdirs.rows(workdir / "eval" / "results.jsonl"))
    print(f"{workdir}: {about['parameters']:,} parameters on {about['device']['count']} x {about['device']['kind']}")
    print(f"  loss {losses[0]:.3f} -> {losses[-1]:.3f}  {reports.sparkline(losses)}")
    print("\n".join(_lives(workdir, lines)))
    for row in rows[-1:]:
        print("\n".join(reports.summary(row)))
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
