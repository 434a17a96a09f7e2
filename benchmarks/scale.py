"""What a run costs beside its steps, on the machine at hand: loading, checkpoints, restarts, more devices.

    loader       images a second from a folder of PNG and from columns in memory, by threads
    checkpoint   seconds that a save keeps the loop waiting, takes in the background, and takes to be read
    restart      seconds from the start of the process to its first step, cold and with compiled programs at hand
    devices      step time on 1 to 8 virtual devices of one CPU, over that of one device, and whether the losses agree

Command: python -m benchmarks.scale            (about six minutes on 2 CPU cores; --only=loader for one part)
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DIT = {"name": "DiT", "width": 64, "depth": 4, "heads": 4, "patch": 2, "num_classes": 10}


def loader(side: int = 64, count: int = 512, batches: int = 24) -> Iterator[dict[str, Any]]:
    """Yields images a second by source and threads."""
    import numpy as np
    from PIL import Image

    from jaxdiff import data

    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            # Smooth, as photographs are: noise would take longer to decode than they do.
            coarse = rng.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(coarse).resize((side, side)).save(Path(folder) / f"{number:04d}.png")
        sources = {f"folder of {side}x{side} PNG": data.folder(folder), "columns (digits)": data.digits(split="train")}
        for name, source in sources.items():
            for threads in (0, 2, 8):
                stream = data.batches(source, batch=64, threads=threads)(0)
                next(stream)
                begun = time.perf_counter()
                for _ in range(batches):
                    next(stream)
                speed = 64 * batches / (time.perf_counter() - begun)
                yield {"part": "loader", "source": name, "threads": threads, "images_per_second": round(speed)}


def checkpoints(megabytes: int = 600) -> Iterator[dict[str, Any]]:
    """Yields the seconds of saving and reading a state of so many megabytes."""
    import jax
    import jax.numpy as jnp

    from jaxdiff import checkpoint, train

    checkpoint.hush()
    size = megabytes * 2**20 // 16  # parameters, an average and two moments, 4 bytes each
    tree = lambda value: {f"layer{i}": jnp.full((size // 8,), value, jnp.float32) for i in range(8)}
    state = train.State(jnp.int32(1), tree(1.0), {"decay_0.999": tree(2.0)}, {"mu": tree(3.0), "nu": tree(4.0)})
    timed = time.perf_counter
    with tempfile.TemporaryDirectory() as folder:
        store = checkpoint.opened(folder, {"seed": 0})
        jax.block_until_ready(state)
        checkpoint.checksums(state.params)
        begun = timed()
        checkpoint.save(store, state, 1)
        blocked = timed() - begun
        checkpoint.finish(store)
        saved = timed() - begun
        reader = checkpoint.opened(folder, None)
        shapes = checkpoint.items(jax.eval_shape(lambda: state))
        begun = timed()
        checkpoint.restore(reader, shapes)
        read = timed() - begun
        begun = timed()
        checkpoint.restore(reader, {"ema": shapes["ema"]})
        alone = timed() - begun
    yield {"part": "checkpoint", "megabytes": megabytes, "blocked_s": round(blocked, 2), "on_disk_s": round(saved, 2),
           "restored_s": round(read, 2), "average_alone_s": round(alone, 2),
           "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)}


def _train(workdir: Path, *words: str, devices: int = 1, cache: Path | None = None) -> list[dict]:
    command = [sys.executable, "-m", "jaxdiff", "train", f"--config={ROOT / 'configs' / 'digits.py'}:tiny",
               f"--workdir={workdir}", f"--config.network={DIT!r}", "--config.log_every_steps=1", *words]
    told = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "JAX_COMPILATION_CACHE_DIR": str(cache or workdir / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **told}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2_000:])
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def restarts() -> Iterator[dict[str, Any]]:
    """Yields the seconds of a start by part: the first one, and one that goes on with compiled programs at hand."""
    with tempfile.TemporaryDirectory() as folder:
        for number, what in ((1, "cold"), (2, "going on")):
            begun = time.time()
            rows = _train(Path(folder), f"--config.train_images={number * 160}", "--config.save_every_steps=10")
            seconds = [row for row in rows if "event" in row][-1]["seconds"]
            yield {"part": "restart", "what": what, "seconds": seconds, "whole_s": round(time.time() - begun, 1)}


def devices(steps: int = 40) -> Iterator[dict[str, Any]]:
    """Yields the step time over that of one device, and the largest relative difference of the losses."""
    import numpy as np

    first: tuple | None = None
    with tempfile.TemporaryDirectory() as folder:
        for count in (1, 2, 4, 8):
            rows = _train(Path(folder) / str(count), f"--config.train_images={steps * 64}", "--config.batch=64",
                          "--config.save_every_steps=1000", devices=count)
            rows = [row for row in rows if "event" not in row]
            losses = np.array([row["loss"] for row in rows])
            step = float(np.median([row["time/step_p50"] for row in rows[5:]]))
            first = first or (losses, step)
            apart = float(np.abs(losses / first[0] - 1).max())
            yield {"part": "devices", "devices": count, "step_ms": round(step * 1e3, 2),
                   "over_one": round(step / first[1], 2), "losses_apart": float(f"{apart:.1e}")}


PARTS = {"loader": loader, "checkpoint": checkpoints, "restart": restarts, "devices": devices}


def main(argv: list[str] | None = None) -> int:
    """Prints a JSON line a figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=PARTS, help="one part")
    given = parser.parse_args(argv)
    for name, part in PARTS.items():
        if given.only in (None, name):
            for line in part():
                print(json.dumps(line), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
