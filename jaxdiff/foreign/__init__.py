"""The safe reader of weight files: torch's zip and legacy forms, pickles of modules, safetensors; without torch.

All but safetensors are pickles, and a pickle is a program.  It is read twice: first its instructions alone, whose
counts must fit the bytes present, then by an unpickler that knows the names in `pickles.NAMES` and nothing else.
Each of them makes an array or an inert record; any other is refused, and nothing is imported or run.  What was
damaged on its way may still read as numbers, as most single flipped bits do: compare `sha256`.
"""

from jaxdiff.foreign.forms import read, sha256, write
from jaxdiff.foreign.pickles import Record, Refused, state_dict

__all__ = ["Record", "Refused", "read", "sha256", "state_dict", "write"]
