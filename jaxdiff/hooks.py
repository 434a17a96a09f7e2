"""What happens beside training: `(step, state, metrics) -> None`, or a reason to stop.

Hooks are handed what they need (a writer, a `save`, a `draw`); none looks anything up.
"""

import json
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

from jaxdiff.protocols import Metrics
from jaxdiff.train import State

__all__ = ["Journal", "draw_png", "every", "guard", "log", "pictures", "progress", "saving", "summaries", "tile"]

Hook = Callable[[int, State, Metrics], str | None]


class Journal:
    """`metrics.jsonl`: one JSON line a write, flushed at once, so that a killed run keeps what it said.

    After a restart a step may stand there twice: the last line of a step counts.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "a", encoding="utf-8")

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends `{"step": ..., **scalars}`; a value that is not finite is written as null."""
        values = {name: value if np.isfinite(value) else None for name, value in scalars.items()}
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Pictures are files of their own."""

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


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


def log(writers: Sequence[Any], *, batch: int) -> Hook:
    """Returns the hook that writes the step's metrics and the speed since its last call, in images per second."""
    since: list = [None, None]

    def hook(step: int, state: State, metrics: Metrics) -> None:
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        now = time.perf_counter()
        if since[0] is not None:
            values["images_per_second"] = (step - since[0]) * batch / (now - since[1])
        since[:] = step, now
        for writer in writers:
            writer.write_scalars(step, values)

    return hook


def saving(save: Callable[[State, int], Any], failed: Callable[[], None], *, steps: int, last: int) -> Hook:
    """Returns the hook that saves every so many steps and at the last, and at each step looks whether an
    earlier save has failed."""

    def keep(step: int, state: State, metrics: Metrics) -> None:
        save(state, step)

    due = every(steps, keep, last=last)

    def hook(step: int, state: State, metrics: Metrics) -> str | None:
        failed()
        return due(step, state, metrics)

    return hook


def pictures(draw: Callable[[State], np.ndarray], folder: Path, writers: Sequence[Any]) -> Hook:
    """Returns the hook that draws samples [n, h, w, c] uint8 and keeps them as one picture."""

    def hook(step: int, state: State, metrics: Metrics) -> None:
        grid = tile(draw(state))
        folder.mkdir(parents=True, exist_ok=True)
        draw_png(grid, folder / f"{step:08d}.png")
        for writer in writers:
            writer.write_images(step, {"samples": grid[None]})

    return hook


def draw_png(image: np.ndarray, path: Path) -> None:
    """Writes an image [h, w, c] uint8, gray where c is 1."""
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(path)


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
