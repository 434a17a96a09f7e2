"""Evaluation: values in, result rows out; never a config.

Images are *seen* by extractors (`seeing`), many at a time and to be gone on with (`parts`); what was seen of two sets
is compared by `criteria`.  A row names its whole protocol, so that what is not comparable is never taken for it.
"""

from jaxdiff.evaluate import criteria, pictures
from jaxdiff.evaluate.parts import Parts
from jaxdiff.evaluate.rows import Needs, append, finished, identity, key_of, measured, needs
from jaxdiff.evaluate.seeing import Seeing, flat, look, marks, outputs_of, placed
from jaxdiff.evaluate.sides import Side, cut, whole
from jaxdiff.evaluate.yardsticks import matched_noise, requested_accuracy

__all__ = [
    "Needs", "Parts", "Seeing", "Side", "append", "criteria", "cut", "finished", "flat", "identity", "key_of", "look",
    "marks", "matched_noise", "measured", "needs", "outputs_of", "pictures", "placed", "requested_accuracy", "whole",
]
