"""Several processes on this machine, as hosts are: started together, each with its number, its output and its end."""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Of a run that is to be interrupted: it compiles in a moment.
NETWORK = {"name": "DiT", "width": 16, "depth": 1, "heads": 1, "patch": 4, "num_classes": 10}


@dataclasses.dataclass
class Ended:
    """How a process ended: its status, what it printed, and after how many seconds."""

    status: int
    out: str
    err: str
    seconds: float


def environment(number, count, port, devices):
    return {
        **os.environ, "JAX_PLATFORMS": "cpu", "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": str(count), "JAX_PROCESS_ID": str(number),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "PYTHONUNBUFFERED": "1",
    }


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Together:
    """`count` processes of one command, or of one piece of code, that know of one another."""

    def __init__(self, command, folder, *, count=2, devices=1, env=None):
        port = free_port()
        arguments = [sys.executable, "-c", textwrap.dedent(command)] if isinstance(command, str) else command
        folder.mkdir(parents=True, exist_ok=True)
        tag = len(list(folder.glob("*.out")))
        self.begun = time.monotonic()
        self.files = [(folder / f"{tag}-{i}.out", folder / f"{tag}-{i}.err") for i in range(count)]
        self.processes = []
        for i, (out, err) in enumerate(self.files):
            with open(out, "w") as stdout, open(err, "w") as stderr:
                settings = {**environment(i, count, port, devices), **(env or {})}
                self.processes.append(subprocess.Popen(arguments, cwd=ROOT, env=settings, stdin=subprocess.DEVNULL,
                                                       stdout=stdout, stderr=stderr, start_new_session=True))

    def signal(self, number, what):
        self.processes[number].send_signal(what)

    def wait(self, timeout=240):
        """Returns how each ended; one that does not end in time is killed, and its status is -9."""
        ended = {}
        while len(ended) < len(self.processes) and time.monotonic() - self.begun < timeout:
            for i, process in enumerate(self.processes):
                if i not in ended and process.poll() is not None:
                    ended[i] = time.monotonic() - self.begun
            time.sleep(0.05)
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return [Ended(process.returncode, out.read_text(), err.read_text(), ended.get(i, timeout))
                for i, (process, (out, err)) in enumerate(zip(self.processes, self.files, strict=True))]


def run(command, folder, **options):
    """Runs to the end; every process must end well."""
    timeout = options.pop("timeout", 240)
    ended = Together(command, folder, **options).wait(timeout)
    for number, one in enumerate(ended):
        assert one.status == 0, f"process {number} ended with {one.status}\n{one.out[-2000:]}\n{one.err[-6000:]}"
    return ended
