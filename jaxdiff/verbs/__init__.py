"""What the command does: train, sample, evaluate, refer, report.

Each verb is two halves: what it builds, where a fault is the user's, and what it runs.
"""

from jaxdiff.verbs.drawing import Drawing, Preempted, changed, ready, sample
from jaxdiff.verbs.elsewhere import evaluate_images, refer
from jaxdiff.verbs.grid import settings
from jaxdiff.verbs.judging import Judging, awaited, commission, evaluate, followed
from jaxdiff.verbs.reporting import report
from jaxdiff.verbs.training import Run, begun, prepare, train

__all__ = [
    "Drawing", "Judging", "Preempted", "Run", "awaited", "begun", "changed", "commission", "evaluate",
    "evaluate_images", "followed", "prepare", "ready", "refer", "report", "sample", "settings", "train",
]
