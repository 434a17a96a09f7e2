"""One program in several processes: how they start, wait for one another, and end together.

What is private in jax is used here and nowhere else: the client of the coordinator (barriers and a store of short
texts) and the list of environments that jax knows.  Every wait has an end, and says who is missing.

Exit status: 0 done; 1 a bug; 2 a user's error; 42 start me again (preempted, stalled, a peer is gone).  134, 137 and
143 are what the runtime leaves in a process whose peer died.
"""

import atexit
import collections
import contextlib
import dataclasses
import faulthandler
import itertools
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import jax
from jax._src import distributed
from jax._src.clusters import ClusterEnv
from jax.experimental import multihost_utils

__all__ = [
    "AGAIN", "Limits", "Lost", "agree", "barrier", "exchange", "guard", "here", "leads", "leave", "polls", "preempted",
    "start", "verdict",
]

AGAIN = 42  # the exit status on which launchers start a run again
FAILED = "jaxdiff/failed"  # where a process that ends says so
LOOK_SECONDS = 1.0
# Of errors that a peer's end leaves in this process: gloo's are ValueErrors.
PEERS_WORDS = ("gloo", "closed by peer", "reset by peer", "heartbeat", "coordination service")


class Lost(RuntimeError):
    """A process is gone or stuck; the run is to be started again."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """How long a run waits, in seconds, before it takes something for dead; `attempts` in a row may save nothing."""

    heartbeat: int = 30
    barrier: float = 300.0
    stall: float = 900.0
    first: float = 3600.0  # until the first finished step: restore, data, compile
    attempts: int = 5

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if value <= 0:
                raise ValueError(f"config.limits.{name} must be above 0, got {value}")


def start(heartbeat: int = 30, environment: Mapping[str, str] = os.environ, *, patience: float = 300.0) -> None:
    """Joins the other processes; one process is a coordinator of itself, or it would never hear of a preemption.

    They are told by JAX_COORDINATOR_ADDRESS (host:port), JAX_NUM_PROCESSES and JAX_PROCESS_ID, by SkyPilot's variables,
    or found by jax itself: TPU pods, GKE, SLURM, Open MPI.  Call it before anything touches a device; a second call
    does nothing.

    Args:
      heartbeat: seconds without a sign after which a process is taken for dead.
      environment: where the variables are.
      patience: seconds until all have come; then the runtime ends this one with status 134, to be started again.

    Raises:
      ValueError: some of the variables without the others, or numbers that are none.
    """
    if jax.distributed.is_initialized():
        return
    told = _told(environment)
    if told is None and not any(kind.is_env_present() for kind in ClusterEnv._cluster_types
                                if not kind.opt_in_only_method):
        told = f"127.0.0.1:{_free_port()}", 1, 0
    options: dict[str, Any] = {"heartbeat_timeout_seconds": heartbeat, "shutdown_timeout_seconds": 60,
                               "initialization_timeout": max(1, round(patience))}
    if told is not None:
        address, count, number = told
        # Bound to the address that was given: the default is every interface of the machine.
        options |= {"coordinator_address": address, "num_processes": count, "process_id": number,
                    "coordinator_bind_address": address if number == 0 else None}
    said = f"still waiting for the other processes to join, {patience:g} s at most" + (
        f"; {told[1]} are to meet at {told[0]}, and this is process {told[2]}" if told else "")
    waiting = threading.Timer(10.0, print, (f"jaxdiff: {said}",), {"file": sys.stderr, "flush": True})
    waiting.start()
    try:
        jax.distributed.initialize(**options)
    finally:
        waiting.cancel()


def _told(environment: Mapping[str, str]) -> tuple[str, int, int] | None:
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    given = [name for name in names if environment.get(name)]
    if given and len(given) < len(names):
        missing = [name for name in names if name not in given]
        raise ValueError(f"{' and '.join(given)} without {' and '.join(missing)}: set all three, or none")
    if given:
        try:
            address, count, number = environment[names[0]], int(environment[names[1]]), int(environment[names[2]])
        except ValueError:
            raise ValueError("JAX_NUM_PROCESSES and JAX_PROCESS_ID must be whole numbers, got "
                             f"{environment[names[1]]!r} and {environment[names[2]]!r}") from None
        if not 0 <= number < count:
            raise ValueError(f"JAX_PROCESS_ID={number} must be one of 0 to {count - 1} (JAX_NUM_PROCESSES={count})")
        return address, count, number
    nodes = environment.get("SKYPILOT_NODE_IPS", "").split()
    if len(nodes) > 1 and not environment.get("TPU_WORKER_ID"):  # the hosts of a TPU slice are one node to SkyPilot
        return f"{nodes[0]}:8476", len(nodes), int(environment["SKYPILOT_NODE_RANK"])
    return None


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _client() -> Any:
    return distributed.global_state.client


def here() -> int:
    """Returns this process's number; 0 where there is one."""
    return distributed.global_state.process_id or 0 if _client() is not None else 0


def _count() -> int:
    return distributed.global_state.num_processes or 1 if _client() is not None else 1


def leads() -> bool:
    """Returns whether this is process 0, which alone writes what is written once."""
    return here() == 0


_turns: collections.Counter = collections.Counter()  # a barrier's name is good for one use


def exchange(name: str, text: str, *, timeout: float = Limits.barrier) -> list[str]:
    """Returns every process's text, by its number; all of them must come here, in the same order of names.

    Args:
      name: of this meeting.
      text: a short one.
      timeout: seconds.

    Raises:
      Lost: not all came in time; who is missing.
    """
    client = _client()
    if client is None or _count() == 1:
        return [text]
    _turns[name] += 1
    place = f"jaxdiff/{name}/{_turns[name]}"
    client.key_value_set(f"{place}/{here()}", text)
    try:
        client.wait_at_barrier(place, int(timeout * 1000))
    except jax.errors.JaxRuntimeError as error:
        came = _read(place)
        missing = [number for number in range(_count()) if number not in came]
        raise Lost(f"{name}: {_listed(missing)} did not come within {timeout:g} s ({_first_line(error)})") from error
    return [text for _, text in sorted(_read(place).items())]


def barrier(name: str, *, timeout: float = Limits.barrier) -> None:
    """Waits for all processes; raises `Lost`, naming who is missing, after `timeout` seconds."""
    exchange(name, "", timeout=timeout)


def agree(name: str, problem: str | None, *, timeout: float = Limits.barrier) -> dict[int, str]:
    """Returns the problems that processes have, by number: the same on all of them, and empty where none has any."""
    said = exchange(name, problem or "", timeout=timeout)
    return {number: text for number, text in enumerate(said) if text}


def _read(place: str) -> dict[int, str]:
    return {int(key.rpartition("/")[2]): value for key, value in _client().key_value_dir_get(place)}


def _listed(numbers: list[int]) -> str:
    return f"process{'' if len(numbers) == 1 else 'es'} {', '.join(map(str, numbers)) or '?'}"


def preempted(step: int) -> bool:
    """Returns whether all processes are to save and end at this step, since one of them was told to (SIGTERM, a
    maintenance notice).  All must ask at every step; free."""
    return _client() is not None and multihost_utils.reached_preemption_sync_point(step)


def polls() -> Callable[[], bool]:
    """Returns `preempted` of a step that is one more at every call, for work of many loops: steps may never fall."""
    calls = itertools.count(1)
    return lambda: preempted(next(calls))


@contextlib.contextmanager
def guard(limits: Limits, *, last: Callable[[int, str], None] = lambda status, problem: None,
          end: Callable[[int], Any] = os._exit) -> Iterator[Callable]:
    """Within it, a run that stalls is ended, and so is one whose peer has failed.

    Args:
      limits: `first` seconds until the first call of what is yielded, `stall` between two of them.
      last: is told the status and the problem before the end.
      end: `(status) -> None`, leaves the process.

    Yields:
      `beat(step)`, to be called when a step has finished; `beat()` when something else has, such as a batch of
      samples.
    """
    seen: dict[str, Any] = {"step": 0, "at": time.monotonic(), "limit": limits.first}
    ended = threading.Event()

    def beat(step: int | None = None) -> None:
        seen.update(step=seen["step"] if step is None else step, at=time.monotonic(), limit=limits.stall)

    def look() -> None:
        while not ended.wait(min(LOOK_SECONDS, limits.stall / 4)):
            _publish("jaxdiff/step", str(seen["step"]))
            found = _failure()
            idle = time.monotonic() - seen["at"]
            if found is None and idle > seen["limit"]:
                faulthandler.dump_traceback()
                found = AGAIN, f"nothing has moved for {idle:.0f} s: {_steps(seen['step'])}"
                _publish(FAILED, f"{found[0]} {found[1]}")
            if found is not None:
                last(*found)
                _say(found[1])
                if leads() and _count() > 1:
                    time.sleep(3 * LOOK_SECONDS)  # with the coordinator gone the others could not read why
                end(found[0])
                return

    watcher = threading.Thread(target=look, name="jaxdiff-guard", daemon=True)
    watcher.start()
    try:
        yield beat
    finally:
        ended.set()


def _publish(place: str, text: str) -> None:
    if _count() > 1:
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # the coordinator is gone; the runtime ends us
            _client().key_value_set(f"{place}/{here()}", text, allow_overwrite=True)


def _failure() -> tuple[int, str] | None:
    """Returns the status and the words with which another process ends."""
    if _count() == 1:
        return None
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        for number, text in sorted(_read(FAILED).items()):
            status, _, problem = text.partition(" ")
            if number != here():
                return int(status), f"process {number} ended with status {status}: {problem}"
    return None


def _steps(mine: int) -> str:
    """Returns every process's last finished step, the slowest named."""
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        steps = {number: int(text) for number, text in _read("jaxdiff/step").items()} if _count() > 1 else {}
        if steps:
            steps[here()] = mine
            slowest = [number for number in steps if steps[number] == min(steps.values())]
            silent = [number for number in range(_count()) if number not in steps]
            told = ", ".join(f"process {number} at step {step}" for number, step in sorted(steps.items()))
            return f"{told}; the slowest: {_listed(silent or slowest)}"
    return f"the last finished step is {mine}"


def verdict(error: BaseException) -> int:
    """Returns the exit status for what went wrong: 1 if it is this process's own fault; of what a peer's end leaves
    here, the status that the peer has said, or 42 if it was killed and said nothing."""
    text = str(error).lower()
    echo = isinstance(error, Lost) or (_count() > 1 and any(word in text for word in PEERS_WORDS))
    if not echo:
        return 1
    found = _failure()
    for _ in range(3 if _count() > 1 else 0):  # one that fails says so a moment after it has left us
        if found is None:
            time.sleep(LOOK_SECONDS)
            found = _failure()
    return AGAIN if found is None else found[0]


def leave(status: int, problem: str = "") -> NoReturn:
    """Ends the process, and lets the others know.

    After 0 and 42 all leave together.  Otherwise at once, past the exit handlers, since jax would wait there for the
    others, who wait for this one.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if not jax.distributed.is_initialized() or _client() is None:
        sys.exit(status)
    if status in (0, AGAIN) and not problem:
        jax.distributed.shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # CPython's end aborts with 134 when a thread is just then coming back from the coordinator
    found = _failure()
    if found is not None and status in (AGAIN, found[0]):
        status = found[0]
        _say(found[1])
    _publish(FAILED, f"{status} {problem}")
    if leads() and _count() > 1:
        time.sleep(3 * LOOK_SECONDS)  # with the coordinator gone the others could not read why
    os._exit(status)


def _say(problem: str) -> None:
    print(f"jaxdiff: {problem}", file=sys.stderr, flush=True)
    sys.stdout.flush()


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]
