"""Checkpoints: Orbax behind one door.

A step holds four items: `params`, `ema` (read alone for sampling), `train` (step and optimizer) and `meta`
(the fingerprint of the data order, and shape, dtype and checksum of every array).  Orbax takes an empty
folder for the latest step, does not fall back from a damaged one and does not notice flipped bits: here
a step is read, compared with its checksums, and otherwise passed over for the one before, loudly.
"""

from jaxdiff.checkpoint import snapshots
from jaxdiff.checkpoint.reading import restore
from jaxdiff.checkpoint.store import Failed, Store, failed, finish, hush, items, opened, save, steps, steps_in, told
from jaxdiff.checkpoint.sums import checksums

__all__ = [
    "Failed", "Store", "checksums", "failed", "finish", "hush", "items", "opened", "restore", "save",
    "snapshots", "steps", "steps_in", "told",
]
