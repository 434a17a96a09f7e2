"""Killed at any moment and continued, a run is the run that was not killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np

import together
from jaxdiff import checkpoint
from jaxdiff.main import main

ROOT = Path(__file__).parents[1]
STEPS = 24
WORDS = [f"--config={ROOT / 'configs' / 'digits.py'}:tiny", f"--config.network={together.NETWORK!r}",
         f"--config.train_images={STEPS * 16}", "--config.save_every_steps=3", "--config.log_every_steps=1"]


def command(workdir):
    return [sys.executable, "-m", "jaxdiff", "train", f"--workdir={workdir}", *WORDS]


def losses(workdir):
    """The last line of a step counts; a last line cut short does not."""
    found = {}
    for line in (workdir / "metrics.jsonl").read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if "event" not in row:
            found[row["step"]] = row["loss"], row["grad_norm"]
    return found


def arrays(workdir):
    meta = json.loads((workdir / "checkpoints" / str(STEPS) / "meta" / "metadata").read_text())
    return meta["arrays"]  # with a checksum an array


def killed_at(workdir, step, seed):
    """Starts the run and kills it, without notice, somewhere after it has logged `step`; returns the last logged."""
    process = subprocess.Popen(command(workdir), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    begun = time.monotonic()
    while time.monotonic() - begun < 300 and process.poll() is None:
        path = workdir / "metrics.jsonl"
        if path.exists() and max(losses(workdir), default=0) >= step:
            break
        time.sleep(0.005)
    time.sleep(random.Random(seed).random() * 0.1)
    process.send_signal(signal.SIGKILL)
    _, err = process.communicate()
    assert process.returncode in (-signal.SIGKILL, 0), err.decode()
    return max(losses(workdir))


def test_a_run_killed_twice_at_random_continues_to_the_bit(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main(["train", f"--workdir={whole}", *WORDS]) == 0
    seed = int(os.environ.get("KILL_SEED", time.time_ns() % 100_000))
    print(f"KILL_SEED={seed}")
    for number in range(2):
        killed_at(broken, random.Random(seed + number).randrange(1 + 8 * number, 8 + 8 * number), seed + number)
    assert main(["train", f"--workdir={broken}", *WORDS]) == 0
    assert losses(broken) == losses(whole) and sorted(losses(whole)) == list(range(1, STEPS + 1))
    assert arrays(broken) == arrays(whole)


def test_four_devices_give_the_losses_of_one(tmp_path):
    """Several times in a row, and none hangs."""
    one = tmp_path / "one"
    assert main(["train", f"--workdir={one}", *WORDS]) == 0
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    for number in range(3):
        four = tmp_path / f"four{number}"
        subprocess.run(command(four), cwd=ROOT, env=environment, check=True, timeout=300, capture_output=True)
        assert json.loads((four / "run.json").read_text())["device"]["count"] == 4
        ours, theirs = losses(one), losses(four)
        assert ours.keys() == theirs.keys()
        np.testing.assert_allclose([theirs[k][0] for k in theirs], [ours[k][0] for k in theirs], rtol=1e-4)


def test_a_run_goes_on_over_another_number_of_devices(tmp_path):
    whole, moved = tmp_path / "whole", tmp_path / "moved"
    assert main(["train", f"--workdir={whole}", *WORDS]) == 0
    half = [word.replace(str(STEPS * 16), str(STEPS * 8)) for word in WORDS]
    assert main(["train", f"--workdir={moved}", *half]) == 0
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    subprocess.run(command(moved), cwd=ROOT, env=environment, check=True, timeout=300, capture_output=True)
    ours, theirs = losses(whole), losses(moved)
    np.testing.assert_allclose([theirs[k][0] for k in ours], [ours[k][0] for k in ours], rtol=1e-4)
    assert checkpoint.steps(checkpoint.opened(str(moved), None))[-1] == STEPS
    assert jax.device_count() == 1
