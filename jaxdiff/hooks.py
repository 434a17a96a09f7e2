"""What happens beside training: `(step, state, metrics) -> None`, or a reason to stop.

Hooks are handed what they need (a writer, a `save`, a `draw`); none looks anything up.
"""

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image
from tqdm import tqdm

from jaxdiff import workdir as workdirs
from jaxdiff.protocols import Metrics
from jaxdiff.train import State

__all__ = [
    "PREEMPTED", "Journal", "draw_png", "every", "first", "guard", "log", "pictures", "profiling", "progress", "saving",
    "summaries", "tile",
]

PREEMPTED = "preempted"

Hook = Callable[[int, State, Metrics], str | None]


class Journal:
    """`metrics.jsonl`: one JSON line a write, so that a killed run keeps what it said.

    After a restart a step may stand there twice: the last line of a step counts.  Lines with an "event" are no steps.
    """

    def __init__(self, path: Any) -> None:
        self._lines = workdirs.Lines(path)

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends `{"step": ..., **scalars}`; a value that is not finite is written as null."""
        values = {name: value if np.isfinite(value) else None for name, value in scalars.items()}
        self._lines.write({"step": step, **values})

    def write_event(self, event: str, step: int, values: Mapping[str, Any]) -> None:
        """Appends `{"event": ..., "step": ..., **values}`."""
        self._lines.write({"event": event, "step": step, **values})

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Pictures are files of their own."""

    def flush(self) -> None:
        """Writes what waits; on a disk nothing does."""
        self._lines.flush()

    def close(self) -> None:
        """Closes the file."""
        self._lines.close()


def summaries(workdir: Path) -> Any:
    """Returns CLU's writers: TensorBoard files in `workdir`, and log lines through absl.

    Imported here alone: TensorFlow and TensorBoard cost seconds and half a gigabyte.
    """
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # TensorFlow would say four lines about it
    from clu import metric_writers

    return metric_writers.create_default_writer(str(workdir), asynchronous=False)


def every(steps: int, hook: Hook, *, last: int | None = None) -> Hook:
    """Returns the hook called every so many steps, and at step `last`; 0 means never but then."""

    def called(step: int, state: State, metrics: Metrics) -> str | None:
        return hook(step, state, metrics) if (steps and step % steps == 0) or step == last else None

    return called


def guard(most: int, *, saved: Callable[[], int | None]) -> Hook:
    """Returns the hook that stops after `most` skipped steps in a row.

    It reads the metrics of two steps before, which the loop has waited for already.
    `saved` names the last good checkpoint.
    """
    pending: deque = deque()
    row = 0

    def hook(step: int, state: State, metrics: Metrics) -> str | None:
        nonlocal row
        pending.append((step, metrics["skipped"]))
        while len(pending) > 2 or (pending and row + len(pending) >= most):
            number, skipped = pending.popleft()
            row = row + 1 if int(skipped) else 0
            if row >= most:
                return (f"loss or gradient was not finite {row} times in a row, up to step {number}; the last good "
                        f"checkpoint is of step {saved()}")
        return None

    return hook


def log(writers: Sequence[Any], pace: Any) -> Hook:
    """Returns the hook that writes the step's metrics and, from `pace.take()`, where the time has gone since its last
    call."""

    def hook(step: int, state: State, metrics: Metrics) -> None:
        values = {name: float(value) for name, value in jax.device_get(metrics).items()} | pace.take()
        for writer in writers:
            writer.write_scalars(step, values)

    return hook


def first(tell: Callable[[int], None]) -> Hook:
    """Returns the hook that waits for the first step that it sees, and tells."""
    waiting = [tell]

    def hook(step: int, state: State, metrics: Metrics) -> None:
        if waiting:
            jax.block_until_ready(metrics)
            waiting.pop()(step)

    return hook


def saving(save: Callable[[State, int, Metrics], Any], failed: Callable[[], None], *, steps: int, last: int,
           preempted: Callable[[int], bool] = lambda step: False) -> Hook:
    """Returns the hook that saves every so many steps and at the last, and at each step looks whether an
    earlier save has failed, and whether the run is being preempted: then it saves and stops with `PREEMPTED`."""

    def hook(step: int, state: State, metrics: Metrics) -> str | None:
        failed()
        leaving = preempted(step)
        if leaving or step % steps == 0 or step == last:
            save(state, step, metrics)
        return PREEMPTED if leaving and step != last else None

    return hook


def profiling(folder: Path, start: int, steps: int) -> Hook:
    """Returns the hook that profiles `steps` steps after step `start`, for TensorBoard and Perfetto."""
    running = [False]

    def hook(step: int, state: State, metrics: Metrics) -> None:
        if step == start:
            jax.block_until_ready(metrics)
            jax.profiler.start_trace(str(folder))
            running[0] = True
        elif running[0] and step >= start + steps:
            jax.block_until_ready(metrics)
            jax.profiler.stop_trace()
            running[0] = False

    return hook


def pictures(draw: Callable[[State], np.ndarray], folder: Path, writers: Sequence[Any], *,
             writes: bool = True) -> Hook:
    """Returns the hook that draws samples [n, h, w, c] uint8 and keeps them as one picture, if this process writes."""

    def hook(step: int, state: State, metrics: Metrics) -> None:
        images = draw(state)  # all processes take part in it
        if not writes:
            return
        grid = tile(images)
        folder.mkdir(parents=True, exist_ok=True)
        draw_png(grid, folder / f"{step:08d}.png")
        for writer in writers:
            writer.write_images(step, {"samples": grid[None]})

    return hook


def draw_png(image: np.ndarray, path: Path) -> None:
    """Writes an image [h, w, c] uint8, gray where c is 1."""
    with path.open("wb") as file:
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(file, format="PNG")


def tile(images: np.ndarray, *, columns: int | None = None, least: int = 256) -> np.ndarray:
    """Returns images [n, h, w, c] uint8 as one [H, W, c], a pixel between them, enlarged to `least` wide."""
    n, h, w, c = images.shape
    columns = columns or int(np.ceil(np.sqrt(n)))
    lines = -(-n // columns)
    grid = np.full((lines * (h + 1) + 1, columns * (w + 1) + 1, c), 64, np.uint8)
    for at, image in enumerate(images):
        top, left = (at // columns) * (h + 1) + 1, (at % columns) * (w + 1) + 1
        grid[top:top + h, left:left + w] = image
    scale = max(1, -(-least // grid.shape[1]))
    return grid.repeat(scale, 0).repeat(scale, 1)


def progress(start: int, steps: int, *, batch: int, lines_every: int, out: Any = None) -> Hook:
    """Returns the hook that shows step, loss, images per second and time left: a bar on a terminal, plain lines,
    every `lines_every` steps, elsewhere."""
    out = out or sys.stderr
    begun = time.perf_counter()
    pending: deque = deque()
    bar = tqdm(total=steps, initial=start, unit="step", file=out, dynamic_ncols=True) if out.isatty() else None

    def line(step: int, loss: float) -> None:
        speed = (step - start) / (time.perf_counter() - begun)
        print(f"step {step}/{steps}  loss {loss:.4f}  {speed * batch:,.0f} img/s  {(steps - step) / speed:.0f} s left",
              file=out, flush=True)

    def hook(step: int, state: State, metrics: Metrics) -> None:
        pending.append(metrics["loss"])
        loss = pending.popleft() if len(pending) > 2 else None  # finished two steps ago: no wait
        if bar is not None:
            bar.update(1)
            if loss is not None and step % 10 == 0:
                speed = (step - start) * batch / (time.perf_counter() - begun)
                bar.set_postfix_str(f"loss {float(loss):.4f}  {speed:,.0f} img/s", refresh=False)
            if step == steps:
                bar.close()
        elif step == steps or (lines_every and step % lines_every == 0):
            line(step, float(metrics["loss"]))

    return hook
