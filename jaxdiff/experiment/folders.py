"""What a run's folder says of its data and gives back of its network, and what can be done with it next."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxdiff import checkpoint, train
from jaxdiff import workdir as workdirs
from jaxdiff.build import nearest
from jaxdiff.experiment.models import Model
from jaxdiff.protocols import Params

__all__ = ["check_average", "described", "examples", "next_step", "of_network", "restored"]


def described(example: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, list]:
    """Returns the shapes of a global batch as `run.json` keeps them, without the batch; see `examples`."""
    return {name: [list(leaf.shape[1:]), str(leaf.dtype)] for name, leaf in example.items()}


def examples(workdir: Path, config: ConfigDict) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a global batch, as a run's folder tells them."""
    about = workdirs.read(workdir, "run.json")["example"]
    return {name: jax.ShapeDtypeStruct((config.batch, *shape), np.dtype(dtype)) for name, (shape, dtype)
            in about.items()}


def of_network(made: Model, params: Params) -> Params:
    """Returns the network's part of what is trained."""
    return params if made.process else params["generator"]


def restored(workdir: Path, made: Model, ema: str | None = None, *, step: int | None = None,
             on: Any = None) -> tuple[int, str, Params]:
    """Returns the step, the name and the values of an average of a checkpoint, or of one made of snapshots.

    Args:
      workdir: the run's folder.
      made: its model.
      ema: an average, or a power average of any length where there are snapshots; the run's first by default.
      step: of the checkpoint; the newest by default.
      on: the mesh to put it on.

    Raises:
      ValueError: no such average or checkpoint, or a damaged one.
    """
    name = made.ema[0] if ema is None else ema
    check_average(workdir, made, name)
    shapes = made.shapes(on).params  # an average is used as the parameters are, wherever training kept it
    if name not in made.ema:
        length = float(name.removeprefix("power_"))
        made_up = checkpoint.snapshots.reconstructed(str(workdir), shapes, length, step)
        return made_up.step, name, made_up.params
    store = checkpoint.opened(str(workdir), None)
    found = checkpoint.restore(store, {"ema": {name: shapes}}, step=step)
    if found is None:
        raise ValueError(f"the checkpoints in {store.folder} have just gone")
    return found[0], name, found[1]["ema"][name]


def check_average(workdir: Path, made: Model, name: str) -> None:
    """Raises ValueError where a run neither keeps an average nor has snapshots to make it of."""
    if name in made.ema:
        return
    there = checkpoint.snapshots.steps(str(workdir))
    if not there or not name.startswith("power_"):
        also = (f"; its snapshots of steps {there[0]} to {there[-1]} make every power average, such as power_0.15"
                if there else "")
        raise ValueError(f"--ema={name}: the run keeps no such average{nearest(name, made.ema)}{also}")
    train.averages.decay_of(name)  # says what is wrong with it


def next_step(workdir: Path, draws: bool) -> str:
    """Returns the command that a run's folder is good for: one that draws, or an autoencoder."""
    return (f"samples: jaxdiff sample --workdir={workdir}" if draws else
            f"a model of its latents decodes with it: --config.sample.autoencoder={workdir}")
