"""What the command does: train, sample, evaluate, report.

Each verb is two halves: what it builds, where a fault is the user's, and what it runs.
"""

from jaxdiff.verbs.drawing import Drawing, Preempted, changed, ready, sample
from jaxdiff.verbs.judging import evaluate, report
from jaxdiff.verbs.training import Run, begun, prepare, train

__all__ = [
    "Drawing", "Preempted", "Run", "begun", "changed", "evaluate", "prepare", "ready", "report", "sample", "train",
]
