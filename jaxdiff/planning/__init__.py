"""What `jaxdiff plan` does: a config's programs, compiled for a TPU that nobody has yet, in processes of their own."""

from jaxdiff.planning.telling import lines
from jaxdiff.planning.whole import PROGRAMS, planned

__all__ = ["PROGRAMS", "lines", "planned"]
