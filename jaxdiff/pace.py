"""Where the time goes: seconds by part, steps per second, and what share of the device's arithmetic is used.

    model FLOPs utilisation = 3 · 2 · MAC · images/s / (devices · peak)

MAC are the multiply-adds of one evaluation of the network for one image; a training step takes three times as many,
once forward and twice backward; what is computed again to save memory does not count (Chowdhery et al. 2022, app. B).
"""

import contextlib
import dataclasses
import time
from collections import defaultdict
from collections.abc import Iterator

import numpy as np

__all__ = ["Clock", "Pace"]


class Clock:
    """Seconds by name: `with clock("restore"): ...`; the same name again adds up."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Counts the time within under `part`."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += time.perf_counter() - begun

    def take(self) -> dict[str, float]:
        """Returns the seconds, and begins anew."""
        taken, self.seconds = dict(self.seconds), defaultdict(float)
        return taken


@dataclasses.dataclass
class Pace:
    """How fast a run goes.

    Args:
      batch: images a step, over all devices.
      devices: how many there are.
      macs: multiply-adds of one evaluation of the network for one image; None if not known.
      peak: FLOP/s of one device in the dtype of the matrices; None if not known.
    """

    batch: int
    devices: int
    macs: int | None = None
    peak: float | None = None
    clock: Clock = dataclasses.field(default_factory=Clock)
    _laps: list[float] = dataclasses.field(default_factory=list)
    _last: float | None = None

    def lap(self) -> None:
        """Says that a step has been dispatched; between two of them lies a step's time."""
        now = time.perf_counter()
        if self._last is not None:
            self._laps.append(now - self._last)
        self._last = now

    def take(self) -> dict[str, float]:
        """Returns what there is to say since the last time, and begins anew.

        Seconds a step: `time/step_p50`, `time/step_p95`, `time/data` (waiting for the loader), `time/dispatch`,
        `time/device` (waiting for the device); `images_per_second`, the same `_per_device`; `mfu`, 0 to 1.
        """
        laps, self._laps = self._laps, []
        waits = self.clock.take()
        if not laps:
            return {}
        speed = self.batch * len(laps) / sum(laps)
        told = {"images_per_second": speed, "images_per_second_per_device": speed / self.devices,
                "time/step_p50": float(np.percentile(laps, 50)), "time/step_p95": float(np.percentile(laps, 95))}
        told |= {f"time/{part}": seconds / len(laps) for part, seconds in waits.items()}
        if self.macs and self.peak:
            told["mfu"] = 6 * self.macs * speed / (self.devices * self.peak)
        return told
