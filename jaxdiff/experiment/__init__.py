"""The only reader of a config: ConfigDict -> frozen values of built parts.

Everything that can be wrong with a config is found here, before anything compiles.
"""

from jaxdiff.experiment.drawing import Generation, conditions_of, generation
from jaxdiff.experiment.folders import check_average, described, examples, next_step, of_network, restored
from jaxdiff.experiment.judges import Scoring, columns_of, criteria_of, extractors_of, scoring
from jaxdiff.experiment.models import Loader, Model, loader, meshed, model, snapshot_steps
from jaxdiff.experiment.unopened import expected
from jaxdiff.experiment.values import FREE, as_json, build, from_json, limits, some

__all__ = [
    "FREE", "Generation", "Loader", "Model", "Scoring", "as_json", "build", "check_average", "columns_of",
    "conditions_of", "criteria_of", "described", "examples", "expected", "extractors_of", "from_json", "generation",
    "limits", "loader", "meshed", "model", "next_step", "of_network", "restored", "scoring", "snapshot_steps", "some",
]
