"""This machine: processes on the loopback, started again as an engine would.

    python -m launch.engines.here run --processes=2 [--devices=4] [--restarts=20] --log=FILE -- bash jobs/NAME.sh
    python -m launch.engines.here stop FILE.pid
"""

import argparse
import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from launch.job import Job, Rendering, surroundings

__all__ = ["COMMAND", "NAME", "Lock", "Processes", "Told", "alive", "claim", "main", "render", "run", "verdict",
           "virtual"]

NAME = "local"
COMMAND = "bash"
INSTALL = ""
AGAIN = (42, 134, 137, 143)  # of jaxdiff, and what the runtime leaves where a peer died
GRACE = 60.0  # seconds for the others, once one has ended badly
LOCK = "JAXDIFF_LOCK"  # number of a descriptor that every process inherits: while one lives, the file is locked


def render(job: Job, place: str, python: str = "python3") -> Rendering:
    """Returns the command that starts the processes; a TPU's name rehearses its shape on virtual CPU devices.

    Args:
      job: what is to run.
      place: of the snapshot.
      python: the program that runs this module.

    Raises:
      ValueError: this machine cannot do it.
    """
    if job.zones or job.spot:
        raise ValueError(f"{'--spot' if job.spot else '--zone'} makes no sense with --on=local")
    if job.flags:
        raise ValueError(f"--on=local takes no flags of an engine, got {job.flags[0]}")
    if job.accelerator is not None and job.nodes > 1:
        raise ValueError(f"--nodes={job.nodes} is the number of processes, which {job.accelerator.name} already says")
    shape: tuple[str, ...] = (f"--processes={job.processes}",)
    said: tuple[str, ...] = ()
    if job.accelerator is not None and job.accelerator.is_tpu:
        each = virtual(job)
        shape = (*shape, f"--devices={each}")
        said = (f"a rehearsal of {job.accelerator.name}: {job.processes} processes of {each} virtual CPU devices each",)
    module, log = (python, "-m", "launch.engines.here"), f"jobs/{job.name}.log"
    return Rendering(
        files={},
        submit=((*module, "run", *shape, f"--restarts={job.restarts}", f"--log={log}", "--",
                 "bash", f"jobs/{job.name}.sh"),),
        status=(*module, "status", f"{place}/{log}.pid"),
        logs=("tail", "-n", "+1", "-F", f"{place}/{log}"),
        stop=(*module, "stop", f"{place}/{log}.pid"),
        said=said)


def virtual(job: Job) -> int | None:
    """Returns how many virtual CPU devices each process of a rehearsal has; None where it is none."""
    shape = job.accelerator
    return shape.devices // shape.vms if shape is not None and shape.is_tpu else None


def verdict(statuses: Sequence[int]) -> int:
    """Returns one status for those of all processes: 1 and 2 outrank what they leave in the others."""
    for status in statuses:
        if status in (1, 2):
            return status
    return next((status for status in statuses if status), 0)


class Processes:
    """One attempt: all processes, to the end of the last of them."""

    def __init__(self, argv: Sequence[str], processes: int, devices: int | None, environment: Mapping[str, str],
                 out: Callable[[str], Any] | Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        lock = (int(environment[LOCK]),) if LOCK in environment else ()
        self._all: list[subprocess.Popen] = []
        self._pipes: list[threading.Thread] = []
        for number in range(processes):
            told = {**environment, "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
                    "JAX_NUM_PROCESSES": str(processes), "JAX_PROCESS_ID": str(number)}
            if devices is not None:
                told |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{told.get('XLA_FLAGS', '')} "
                         f"--xla_force_host_platform_device_count={devices}".strip()}
            # A session of its own: Ctrl-C reaches this program alone, which says SIGTERM to all.
            with open(out, "ab") if isinstance(out, Path) else contextlib.nullcontext(subprocess.PIPE) as target:
                self._all.append(subprocess.Popen(argv, env=told, stdout=target, stderr=subprocess.STDOUT,
                                                  start_new_session=True, pass_fds=lock))
            if not isinstance(out, Path):
                before = f"{number}: " if processes > 1 else ""
                self._pipes.append(threading.Thread(target=_carry, args=(self._all[-1].stdout, before, out),
                                                    daemon=True))
                self._pipes[-1].start()

    def tell(self, what: int) -> None:
        """Sends a signal to all that live."""
        for each in self._all:
            if each.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    each.send_signal(what)

    def ended(self, look: Callable[[], None] = lambda: None, grace: float = GRACE) -> list[int]:
        """Waits for all; returns their statuses as a shell has them.  Once one has ended badly the others have `grace`
        seconds, which is more than a heartbeat, and then as many again after SIGTERM."""
        deadline, telling = None, [signal.SIGTERM, signal.SIGKILL]
        while any(each.poll() is None for each in self._all):
            look()
            if deadline is None and any(each.poll() for each in self._all):
                deadline = time.monotonic() + grace
            if deadline is not None and time.monotonic() > deadline:
                self.tell(telling.pop(0) if len(telling) > 1 else telling[0])
                deadline += grace
            time.sleep(0.05)
        for pipe in self._pipes:
            pipe.join(5.0)
        return [each.returncode if each.returncode >= 0 else 128 - each.returncode for each in self._all]


def _carry(pipe: IO[bytes] | None, before: str, out: Callable[[str], Any]) -> None:
    assert pipe is not None
    for line in pipe:
        out(before + line.decode(errors="replace").rstrip("\n"))


class Told:
    """Whether this program was told to end: SIGTERM, SIGINT or SIGHUP."""

    def __init__(self) -> None:
        self.stop = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._hear)

    def _hear(self, number: int, frame: Any) -> None:
        self.stop = True

    def __call__(self) -> bool:
        """Returns whether it was."""
        return self.stop


class Lock:
    """A file that is locked as long as this program, or a process that inherited it, lives."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "ab")

    def taken(self) -> bool:
        """Takes it; returns whether it was free."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def waited(self, look: Callable[[], bool]) -> bool:
        """Takes it once it is free; returns false where `look` said to stop."""
        while not self.taken():
            if look():
                return False
            time.sleep(0.2)
        return True

    def environment(self) -> dict[str, str]:
        """Returns what tells `Processes` to hand it on."""
        return {LOCK: str(self._file.fileno())}

    def close(self) -> None:
        """Lets it go, in this program."""
        self._file.close()


def run(argv: Sequence[str], processes: int, devices: int | None, restarts: int, out: Callable[[str], Any] | Path,
        look: Callable[[], bool], environment: Mapping[str, str] = os.environ) -> int:
    """Runs to the end, through what is to be started again.

    Args:
      argv: the command of every process.
      processes: how many.
      devices: virtual ones of each; None for what the machine has.
      restarts: how often at most.
      out: takes their lines; or a file, which they write to themselves and so outlive this program.
      look: asked all the while; once true, the run is told to save and end, and not started again.
      environment: of the processes.

    Returns:
      The exit status.
    """
    for attempt in range(restarts + 1):
        one = Processes(argv, processes, devices, environment, out)
        stopped: list[bool] = []

        def seen(one: Processes = one, stopped: list = stopped) -> None:
            if not stopped and look():
                stopped.append(True)
                one.tell(signal.SIGTERM)

        status = verdict(one.ended(seen))
        if status not in AGAIN or stopped or look() or attempt == restarts:
            return status
        line = f"launch: ended with {status}, start {attempt + 2} of at most {restarts + 1}"
        print(line, flush=True) if isinstance(out, Path) else out(line)
    return status


def _stop(path: Path) -> int:
    pid = alive(path)
    if pid is None:
        print(f"{path}: nothing runs")
        return 0
    os.kill(pid, signal.SIGTERM)
    print(f"process {pid} is told to save and end")
    return 0


def claim(path: Path) -> None:
    """Notes this process in a file, for `alive`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{os.getpid()} {_begun(os.getpid())}\n")


def alive(path: Path) -> int | None:
    """Returns the number of the process that a file notes, if it still runs."""
    with contextlib.suppress(FileNotFoundError, ValueError, ProcessLookupError):
        pid, begun = path.read_text().split()
        if _begun(int(pid)) == begun:  # numbers are given again
            return int(pid)
    return None


def _begun(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        done = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
        return "-".join(done.stdout.split()) or None


def main(argv: Sequence[str]) -> int:
    """Runs, asks after, or stops a job; returns the exit status."""
    if argv and argv[0] in ("stop", "status"):
        if argv[0] == "stop":
            return _stop(Path(argv[1]))
        pid = alive(Path(argv[1]))
        print("nothing runs" if pid is None else f"runs as process {pid}")
        return 3 if pid is None else 0
    parser = argparse.ArgumentParser(prog="launch.engines.here")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--devices", type=int)
    parser.add_argument("--restarts", type=int, default=20)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("command", nargs="+")
    given = parser.parse_args(argv[1:])
    pid = given.log.with_name(given.log.name + ".pid")
    given.log.parent.mkdir(parents=True, exist_ok=True)
    lock = threading.Lock()
    with given.log.open("a", encoding="utf-8") as log:
        def out(line: str) -> None:
            with lock:
                print(line, flush=True)
                log.write(line + "\n")
                log.flush()

        claim(pid)
        try:
            return run(given.command, given.processes, given.devices, given.restarts, out, Told(), surroundings())
        finally:
            pid.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
