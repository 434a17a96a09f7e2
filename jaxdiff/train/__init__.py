"""State, step and averages: pure functions; the loop is `jaxdiff.loop`."""

from jaxdiff.train import averages, posthoc
from jaxdiff.train.constants import CONSTANTS, count, held
from jaxdiff.train.magnitude import project
from jaxdiff.train.state import State, init, shapes
from jaxdiff.train.update import compiled, make_step

__all__ = ["CONSTANTS", "State", "averages", "compiled", "count", "held", "init", "make_step", "posthoc", "project",
           "shapes"]
