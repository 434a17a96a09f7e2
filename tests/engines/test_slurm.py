"""A real SLURM of one machine: two tasks train, SIGTERM is 42 and a place in the queue, a misspelt line is refused."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.engines, pytest.mark.skipif(
    shutil.which("slurmctld") is None or os.geteuid() != 0,
    reason="needs root and Debian's slurmctld, slurmd and slurm-client; make test-more installs them")]
ROOT = Path(__file__).resolve().parents[2]
CONF = """ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
KillWait=5
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def free():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def wait_for(ready, limit=300, what=lambda: ""):
    deadline = time.monotonic() + limit
    while not ready():
        assert time.monotonic() < deadline, what()
        time.sleep(0.5)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "slurm.conf").write_text(CONF.format(host=socket.gethostname().partition(".")[0], folder=folder,
                                                   ports=(free(), free()), cpus=os.cpu_count()))
    env = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "JAX_PLATFORMS": "cpu"}
    daemons = [subprocess.Popen([name, "-D"], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
               for name in ("slurmctld", "slurmd")]

    def said(*words):
        return subprocess.run(words, env=env, capture_output=True, text=True, check=False).stdout

    wait_for(lambda: "idle" in said("sinfo", "--noheader"), 60, lambda: (folder / "slurmctld.log").read_text()[-2000:])
    yield env, said
    for daemon in daemons:
        daemon.terminate()
        daemon.wait()


def steps(workdir):
    path = workdir / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [row["step"] for row in rows if "event" not in row]


def test_two_tasks_train_are_told_to_end_and_are_put_back(slurm, tmp_path):
    env, said = slurm
    workdir = tmp_path / "run"
    words = [sys.executable, "launch/run.py", "--on=slurm", "--nodes=2", "--config=configs/digits.py:tiny",
             f"--workdir={workdir}", "--config.train_images=160000", "--config.save_every_steps=100", "--yes",
             "--", "--nodes=1", f"--ntasks-per-node={min(2, os.cpu_count())}"]
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    number = done.stdout.split()[-1]
    log = next((ROOT / ".snapshots").glob(f"run-*/jobs/run-{number}.log"), None)
    wait_for(lambda: len(steps(workdir)) > 20, what=lambda: said("squeue") + (log.read_text()[-3000:] if log else ""))
    said("scancel", "--signal=TERM", number)
    ends = workdir / "run.jsonl"
    wait_for(lambda: '"end"' in ends.read_text(), 120)
    assert json.loads(ends.read_text().splitlines()[-1])["status"] == 42
    wait_for(lambda: said("squeue", "--noheader", "--format=%T %r").startswith("PENDING")
             and "idle" in said("sinfo", "--noheader"), 60, lambda: said("squeue"))
    time.sleep(5)  # sooner, the end of the first start would be taken for that of the second

    def again():
        said("scontrol", "update", f"JobId={number}", "StartTime=now")  # SLURM waits two minutes; the test does not
        return sum('"start"' in line for line in ends.read_text().splitlines()) == 2

    wait_for(again, 200, lambda: said("squeue") + said("scontrol", "show", "job", number)
             + (log.read_text()[-3000:] if log else "no log"))
    wait_for(lambda: steps(workdir)[-1] > max(steps(workdir)[:20]) + 20, 200)
    said("scancel", number)
    wait_for(lambda: not said("squeue", "--noheader").strip(), 60, lambda: said("squeue"))  # and it stays away


def test_a_misspelt_line_is_refused(slurm, tmp_path):
    env, _ = slurm
    (tmp_path / "job.sbatch").write_text("#!/bin/bash\n#SBATCH --reqeue\ntrue\n")
    done = subprocess.run(["sbatch", str(tmp_path / "job.sbatch")], env=env, capture_output=True, text=True,
                          check=False)
    assert done.returncode != 0
    assert "reqeue" in done.stderr
