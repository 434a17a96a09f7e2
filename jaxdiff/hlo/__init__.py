"""What a compiled program does, read in its HLO text.

XLA's own cost analysis counts the body of a loop once, as does a sum over the text; here each instruction counts as
often as it runs.

    collectives   each channel once, times the turns of the loops it is in; a start and its done are one
    wire          what a device sends at least: payload (n - 1)/n over n devices, twice that for an all-reduce
    between-slices   what goes over the network of the data center, which a TPU's text has as sends and receives
    memory        operands and results of what runs, as they lie in HBM with their tiles padded

Loops whose turns are not found are named, and what is in them counts once.  Both branches of a condition count.
Opcodes that are not known count as reading their operands and writing their results.
"""

from jaxdiff.hlo.counting import BETWEEN_SLICES, KINDS, Costs, Moved, accessed, collected, costs
from jaxdiff.hlo.loops import turns
from jaxdiff.hlo.reading import Instruction, Program, Value, read

__all__ = [
    "BETWEEN_SLICES", "KINDS", "Costs", "Instruction", "Moved", "Program", "Value", "accessed", "collected", "costs",
    "read", "turns",
]
