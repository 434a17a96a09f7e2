"""What a run's folder gives back: the shapes of its data, and one average of its network."""

from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxdiff import checkpoint
from jaxdiff import workdir as workdirs
from jaxdiff.experiment.models import Model, model
from jaxdiff.protocols import Params

__all__ = ["examples", "of_network", "restored"]


def examples(workdir: Path, config: ConfigDict) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a global batch, as a run's folder tells them."""
    about = workdirs.read(workdir, "run.json")["example"]
    return {name: jax.ShapeDtypeStruct((config.batch, *shape), np.dtype(dtype)) for name, (shape, dtype)
            in about.items()}


def of_network(made: Model, params: Params) -> Params:
    """Returns the network's part of what is trained."""
    return params if made.process else params["generator"]


def restored(workdir: Path, config: ConfigDict, ema: str) -> tuple[int, Params, Model]:
    """Returns the step, the network's part of an average, and the model."""
    made = model(config, examples(workdir, config))
    store = checkpoint.opened(str(workdir), None)
    found = checkpoint.restore(store, {"ema": {ema: made.shapes(None).ema[ema]}})
    if found is None:
        raise ValueError(f"the checkpoints in {store.folder} have just gone")
    return found[0], of_network(made, found[1]["ema"][ema]), made
