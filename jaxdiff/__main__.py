"""`python -m jaxdiff`."""

from jaxdiff.main import run

run()
