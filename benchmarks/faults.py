"""Kills a run at random moments, starts it again, and compares it at the end with the run that nobody killed.

Every kill is SIGKILL or SIGTERM, at a moment drawn from the whole life of an attempt: while it imports, restores,
compiles, trains, saves.  After each of them the newest checkpoint that was committed must still be there and be what
the next attempt starts from.  At the end losses and checksums of all arrays must be those of the whole run, to the bit.

Command: python -m benchmarks.faults --kills=50 --processes=1   (about 8 minutes on 2 CPU cores)
"""

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EVERY = 50
NETWORK = {"name": "DiT", "width": 16, "depth": 1, "heads": 1, "patch": 4, "num_classes": 10}


def command(workdir: Path, steps: int) -> list[str]:
    """Returns the command of one process."""
    return [sys.executable, "-m", "jaxdiff", "train", f"--config={ROOT / 'configs' / 'digits.py'}:tiny",
            f"--workdir={workdir}", f"--config.network={NETWORK!r}", f"--config.train_images={steps * 16}",
            f"--config.save_every_steps={EVERY}", "--config.log_every_steps=1", "--config.limits.attempts=10000",
            "--config.limits.heartbeat=10", "--config.limits.barrier=30"]


def begin(workdir: Path, steps: int, processes: int) -> list[subprocess.Popen]:
    """Starts one attempt."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for number in range(processes):
        told = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": str(processes),
                "JAX_PROCESS_ID": str(number), "JAX_PLATFORMS": "cpu",
                "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax"),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        started.append(subprocess.Popen(command(workdir, steps), cwd=ROOT, env={**os.environ, **told},
                                        stdout=subprocess.DEVNULL, stderr=(workdir.parent / "stderr").open("a")))
    return started


def ended(attempt: list[subprocess.Popen], limit: float = 300) -> list[int]:
    """Waits for all processes; returns their statuses."""
    deadline = time.monotonic() + limit
    return [process.wait(max(1.0, deadline - time.monotonic())) for process in attempt]


def committed(workdir: Path) -> int:
    """Returns the newest step whose checkpoint is whole."""
    return max((int(path.name) for path in (workdir / "checkpoints").glob("*")
                if path.name.isdigit() and (path / "_CHECKPOINT_METADATA").exists()), default=0)


def rows(path: Path) -> list[dict]:
    """Returns the whole lines."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def losses(workdir: Path) -> dict[int, tuple[float, float]]:
    """Returns the last line of every step."""
    return {row["step"]: (row["loss"], row["grad_norm"]) for row in rows(workdir / "metrics.jsonl")
            if "event" not in row}


def arrays(workdir: Path, steps: int) -> dict:
    """Returns the checksums of the last checkpoint."""
    return json.loads((workdir / "checkpoints" / str(steps) / "meta" / "metadata").read_text())["arrays"]


def through(workdir: Path, steps: int, processes: int) -> None:
    """Lets a run end.

    Raises:
      RuntimeError: it does not.
    """
    statuses = ended(begin(workdir, steps, processes))
    if any(statuses):
        told = (workdir.parent / "stderr").read_text()
        raise RuntimeError(f"ended with {statuses}, after which nothing was to happen:\n{told[-4000:]}")


def torment(folder: Path, steps: int, kills: int, processes: int, seed: int) -> dict:
    """Kills `kills` attempts; a run that ends in spite of it is followed by another.  Returns what came of it."""
    whole = folder / "whole"
    begun = time.monotonic()
    through(whole, steps, processes)
    life = time.monotonic() - begun
    chance, lost, statuses = random.Random(seed), 0, {}
    runs = [folder / "0"]
    for number in range(kills):
        if committed(runs[-1]) == steps:
            runs.append(folder / str(len(runs)))
        broken = runs[-1]
        attempt = begin(broken, steps, processes)
        # Rather early, or it would be through before it has been killed often.
        wait, started = chance.uniform(0, 0.6 * life), time.monotonic()
        while time.monotonic() - started < wait and all(process.poll() is None for process in attempt):
            time.sleep(0.01)
        before = committed(broken)
        what = chance.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM))
        chance.choice(attempt).send_signal(what)
        found = ended(attempt)
        for status in found:
            statuses[status] = statuses.get(status, 0) + 1
        if 1 in found:  # which nobody starts again
            print((folder / "stderr").read_text()[-4000:], flush=True)
        kept = committed(broken)
        lost += kept < before
        print(f"kill {number + 1}/{kills}: {what.name} after {wait:.1f} s, statuses {found}, "
              f"checkpoint {before} -> {kept}", flush=True)
    through(runs[-1], steps, processes)
    starts = [[row["step"] for row in rows(run / "metrics.jsonl") if "event" in row] for run in runs]
    return {
        "kills": kills, "processes": processes, "steps": steps, "seed": seed, "checkpoints_lost": lost,
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
        "runs": len(runs), "first_steps_reached": sum(map(len, starts)),
        "restored_in_order": all(steps == sorted(steps) for steps in starts),
        "losses_equal": all(losses(whole) == losses(run) for run in runs),
        "arrays_equal": all(arrays(whole, steps) == arrays(run, steps) for run in runs),
        "seconds": round(time.monotonic() - begun),
    }


def main(argv: list[str] | None = None) -> int:
    """Prints one JSON line; returns 0 if nothing was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--steps", type=int, default=1_000)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        found = torment(Path(folder), given.steps, given.kills, given.processes, given.seed)
    print(json.dumps(found))
    sound = not found["checkpoints_lost"] and found["restored_in_order"]
    return int(not (sound and found["losses_equal"] and found["arrays_equal"]))


if __name__ == "__main__":
    sys.exit(main())
