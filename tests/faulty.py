"""Digits from a loader that fails on command: it raises, stalls or is slow (FAULTY), after so many images.

It raises or stalls in one process; it is slow in all.
"""

import dataclasses
import os
import threading
import time

import jax
import numpy as np

from jaxdiff import data

ONE_AT_A_TIME = threading.Lock()


@dataclasses.dataclass(frozen=True, eq=False)
class Digits:
    """A source that is read one by one, as files are."""

    images: np.ndarray
    labels: np.ndarray
    read: list

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        self.read.append(index)
        fault = os.environ.get("FAULTY")
        due = len(self.read) > int(os.environ.get("FAULTY_AT", "0"))
        mine = jax.process_index() == int(os.environ.get("FAULTY_PROCESS", "0"))
        if due and fault == "slow":
            with ONE_AT_A_TIME:
                time.sleep(0.02)
        if due and mine and fault == "raise":
            raise OSError(f"cannot decode image {index}")
        if due and mine and fault == "stall":
            time.sleep(600)
        return {"image": self.images[index], "label": self.labels[index]}


def digits():
    """Returns the source."""
    columns = data.digits(split="train")
    return Digits(columns["image"], columns["label"], [])
