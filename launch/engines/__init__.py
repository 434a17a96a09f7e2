"""The engines, each a module with a pure `render(job, place, python) -> Rendering`.

Adding one: a module here with NAME, COMMAND and `render`, and a line in MODULES.
"""

import difflib
import importlib
from types import ModuleType

__all__ = ["MODULES", "engine"]

# None bears the name of a package it drives.
MODULES = {"sky": "skypilot", "xpk": "gke", "gcloud": "queued", "slurm": "slurm", "local": "here"}


def engine(name: str) -> ModuleType:
    """Returns an engine by the name of its command.

    Raises:
      ValueError: there is none of that name; the nearest.
    """
    if name not in MODULES:
        near = difflib.get_close_matches(name, MODULES, n=1)
        raise ValueError(f"--on={name}: no such engine{f'; did you mean {near[0]}?' if near else ''}  "
                         f"There are {', '.join(MODULES)}")
    return importlib.import_module(f"launch.engines.{MODULES[name]}")
