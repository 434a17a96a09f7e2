"""This machine as an engine: what is started again, what is not, and whose status counts."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.engines import here

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = """
import os, pathlib, signal, sys, time
number, folder = int(os.environ["JAX_PROCESS_ID"]), pathlib.Path(sys.argv[1])
told = folder / f"told-{number}"
attempt = len(told.read_text()) if told.exists() else 0
told.write_text("x" * (attempt + 1))
plan = sys.argv[2].split("/")[attempt].split(",")[number]
if plan == "wait":  # as jaxdiff does: SIGTERM is 42
    signal.signal(signal.SIGTERM, lambda *_: os._exit(42))
    (folder / "waits").write_text("")
    time.sleep(60)
if plan.startswith("-"):
    os.kill(os.getpid(), -int(plan))
sys.exit(int(plan))
"""


def run(folder, plan, processes=1, restarts=5, look=lambda: False):
    """Runs processes that end as told: attempts by /, processes by comma."""
    lines = []
    argv = (sys.executable, "-c", STAND_IN, str(folder), plan)
    status = here.run(argv, processes, None, restarts, lines.append, look)
    return status, len((folder / "told-0").read_text()), lines


@pytest.mark.parametrize(("plan", "processes", "status", "attempts"), [
    ("0", 1, 0, 1), ("1", 1, 1, 1), ("2", 1, 2, 1), ("42/0", 1, 0, 2), ("-9/-6/42/0", 1, 0, 4), ("134/0", 1, 0, 2),
    ("42,42/0,0", 2, 0, 2), ("134,-9/0,0", 2, 0, 2), ("42,1", 2, 1, 1), ("134,2", 2, 2, 1), ("-6,1,134", 3, 1, 1),
    ("42/42/42/42/42/42/42", 1, 42, 6), ("-11", 1, 139, 1)])
def test_42_and_what_a_killed_peer_leaves_is_started_again_and_a_bug_is_not(plan, processes, status, attempts,
                                                                             tmp_path):
    got, starts, _ = run(tmp_path, plan, processes)
    assert (got, starts) == (status, attempts)


def test_a_1_outranks_its_echoes_wherever_it_stands():
    assert here.verdict([134, 42, 1, 137]) == 1
    assert here.verdict([42, 2, 1]) == 2
    assert here.verdict([0, 42, 0]) == 42
    assert here.verdict([0, 0]) == 0


def test_told_to_stop_it_saves_and_is_not_started_again(tmp_path):
    status, starts, _ = run(tmp_path, "wait,wait/0,0", 2, look=(tmp_path / "waits").exists)
    assert (status, starts) == (42, 1)


def test_processes_that_outlive_a_dead_peer_are_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(here.Processes.ended, "__defaults__", (lambda: None, 0.5))
    begun = time.monotonic()
    status, starts, _ = run(tmp_path, "-9,wait/0,0", 2)
    assert (status, starts) == (0, 2)
    assert time.monotonic() - begun < 30


def test_lines_bear_the_number_of_their_process():
    lines = []
    show = "import os; print(os.environ['JAX_NUM_PROCESSES'], os.environ['XLA_FLAGS'])"
    assert here.run((sys.executable, "-c", show), 2, 4, 0, lines.append, lambda: False) == 0
    assert sorted(lines) == [f"{n}: 2 --xla_force_host_platform_device_count=4" for n in (0, 1)]


def test_a_lock_lives_as_long_as_a_process_that_inherited_it(tmp_path):
    lock = here.Lock(tmp_path / "lock")
    assert lock.taken()
    other = here.Lock(tmp_path / "lock")
    orphan = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE,
                              pass_fds=[int(lock.environment()[here.LOCK])])
    lock.close()
    assert not other.taken()
    assert not other.waited(lambda: True)
    orphan.communicate()
    assert other.waited(lambda: False)
    other.close()


def test_a_number_that_another_process_has_now_is_not_taken_for_the_job(tmp_path):
    note = tmp_path / "pid"
    here.claim(note)
    assert here.alive(note) == os.getpid()
    note.write_text(f"{os.getpid()} 1\n")
    assert here.alive(note) is None
    assert here.main(["stop", str(note)]) == 0
    assert here.main(["status", str(note)]) == 3


def module(folder, *words, processes=1):
    return subprocess.Popen(
        [sys.executable, "-m", "launch.engines.here", "run", f"--processes={processes}", f"--log={folder / 'job.log'}",
         "--", *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(ready, limit=120):
    deadline = time.monotonic() + limit
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("what", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_launcher_ends_all_with_42(what, tmp_path):
    job = module(tmp_path, sys.executable, "-c", STAND_IN, str(tmp_path), "wait,wait", processes=2)
    wait_for((tmp_path / "waits").exists)
    assert here.main(["status", str(tmp_path / "job.log.pid")]) == 0
    job.send_signal(what)
    job.communicate(timeout=60)
    assert job.returncode == 42
    assert not (tmp_path / "job.log.pid").exists()


def losses(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if "event" not in row}


NETWORK = {"name": "DiT", "width": 16, "depth": 1, "heads": 1, "patch": 4, "num_classes": 10}


def training(workdir, *more):
    return ("env", f"PYTHONPATH={ROOT / 'tests'}", "JAX_PLATFORMS=cpu", "python", "-m", "jaxdiff", "train",
            "--config=configs/digits.py:tiny", f"--workdir={workdir}", f"--config.network={NETWORK!r}",
            "--config.train_images=640", "--config.save_every_steps=10", "--config.limits.heartbeat=10", *more)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The losses of a run that nobody touched, in one process."""
    folder = tmp_path_factory.mktemp("whole")
    job = module(folder, *training(folder / "run"))
    out, _ = job.communicate(timeout=600)
    assert job.returncode == 0, out
    return losses(folder / "run")


@pytest.mark.engines
@pytest.mark.parametrize(("what", "processes"), [(signal.SIGTERM, 4), (signal.SIGKILL, 2)])
def test_one_process_is_ended_and_the_run_has_the_losses_of_one_that_was_not(what, processes, whole, tmp_path):
    """Several processes give the losses of one; SIGTERM to one ends all with 42, SIGKILL is recovered from."""
    workdir = tmp_path / "run"
    job = module(tmp_path, *training(workdir), processes=processes)
    wait_for(lambda: (workdir / "metrics.jsonl").exists() and len(losses(workdir)) >= 12)
    pids = subprocess.run(["pgrep", "-P", str(job.pid)], capture_output=True, text=True, check=True).stdout.split()
    os.kill(int(pids[1]), what)
    out, _ = job.communicate(timeout=600)
    assert job.returncode == 0, out
    starts = [row for row in map(json.loads, (workdir / "run.jsonl").read_text().splitlines())
              if row["event"] == "start"]
    assert len(starts) == 2
    assert starts[1]["step"] >= 10
    assert losses(workdir) == pytest.approx(whole, rel=1e-5)
    if what == signal.SIGTERM:
        assert "ended with 42, start 2" in out


@pytest.mark.engines
@pytest.mark.parametrize("number", [0, 1])
def test_a_bug_in_one_process_ends_all_with_1_and_is_not_started_again(number, tmp_path, monkeypatch):
    for name, value in (("FAULTY", "raise"), ("FAULTY_AT", "64"), ("FAULTY_PROCESS", str(number))):
        monkeypatch.setenv(name, value)
    job = module(tmp_path, *training(tmp_path / "run", "--config.data={'name': 'faulty:digits'}"), processes=2)
    out, _ = job.communicate(timeout=600)
    assert job.returncode == 1, out
    assert "cannot decode image" in out
    assert "start 2" not in out
