"""Processes that start, meet and end together; none waits for ever, and each says who is missing."""

import signal
import subprocess
import sys
import time

import pytest

import together
from jaxdiff import processes

MEET = """
    import jax
    from jaxdiff import processes
    processes.start(heartbeat=10)
    said = processes.exchange("names", f"I am {processes.here()}")
    again = processes.exchange("names", "second")
    problems = processes.agree("files", "cannot read 30" if processes.here() == 1 else None)
    print(jax.process_count(), jax.device_count(), said, again, problems, processes.leads())
    processes.leave(0)
"""


def test_processes_meet_exchange_words_and_agree_on_problems(tmp_path):
    ended = together.run(MEET, tmp_path, count=3)
    for number, one in enumerate(ended):
        assert one.out.strip() == ("3 3 ['I am 0', 'I am 1', 'I am 2'] ['second', 'second', 'second'] "
                                   f"{{1: 'cannot read 30'}} {number == 0}")


def test_one_process_is_its_own_coordinator_and_meets_itself(tmp_path):
    code = """
        import jax
        from jaxdiff import processes
        processes.start()
        processes.start()  # a second call does nothing
        assert jax.distributed.is_initialized() and jax.process_count() == 1
        assert processes.exchange("alone", "a") == ["a"] and processes.agree("alone", None) == {}
        processes.barrier("alone")
        print("port", jax._src.distributed.global_state.coordinator_address)
        processes.leave(0)
    """
    one, = together.run(code, tmp_path, count=1, env={"JAX_COORDINATOR_ADDRESS": "", "JAX_NUM_PROCESSES": "",
                                                      "JAX_PROCESS_ID": ""})
    assert "port 127.0.0.1:" in one.out


def test_who_does_not_come_to_a_barrier_is_named(tmp_path):
    code = """
        import time
        from jaxdiff import processes
        processes.start(heartbeat=10)
        if processes.here() == 2:
            time.sleep(8)
        try:
            processes.barrier("restored", timeout=2)
        except processes.Lost as error:
            print(error)
            processes.leave(processes.verdict(error), str(error))
        processes.leave(0)
    """
    ended = together.Together(code, tmp_path, count=3).wait(60)
    for one in ended[:2]:
        assert one.status == processes.AGAIN, one.err
        assert "restored: process 2 did not come within 2 s" in one.out
    assert ended[2].status in (processes.AGAIN, 134, -signal.SIGABRT)


GUARDED = """
    import signal, sys, time, traceback
    import jax, numpy as np
    from jaxdiff import processes, mesh
    processes.start(heartbeat=10)
    on = mesh.make_mesh()
    sum_ = jax.jit(lambda a: a.sum(), out_shardings=mesh.replicated(on))
    status, problem = 0, ""
    limits = processes.Limits(stall=float(sys.argv[1]) if len(sys.argv) > 1 else 5.0, first=60)
    try:
        with processes.guard(limits, last=lambda status, problem: print("last", status, flush=True)) as beat:
            for step in range(1, 400):
                value = sum_(mesh.put(on, {"a": np.ones(jax.local_device_count())})["a"])
                jax.block_until_ready(value)
                WHAT
                beat(step)
                time.sleep(0.02)
    except BaseException as error:
        traceback.print_exc()
        status, problem = processes.verdict(error), str(error)
    processes.leave(status, problem)
"""


def guarded(what):
    return GUARDED.replace("WHAT", what)


@pytest.mark.parametrize("culprit", [0, 3])
def test_a_process_that_raises_ends_all_with_status_1(tmp_path, culprit):
    code = guarded(f"if step == 12 and processes.here() == {culprit}: raise RuntimeError('a bug of mine')")
    ended = together.Together(code, tmp_path, count=4).wait(90)
    assert [one.status for one in ended] == [1, 1, 1, 1], [one.err[-1500:] for one in ended]
    assert "a bug of mine" in ended[culprit].err
    assert max(one.seconds for one in ended) < 60
    told = [f"process {culprit} ended with status 1" in one.err or "a bug of mine" in one.err for one in ended]
    assert sum(told) >= 2, [one.err[-600:] for one in ended]


def test_a_process_that_stalls_is_named_by_all_and_all_end_with_42(tmp_path):
    code = guarded("if step == 12 and processes.here() == 1: time.sleep(600)")
    ended = together.Together(code, tmp_path, count=2).wait(90)
    assert [one.status for one in ended] == [processes.AGAIN] * 2, [one.err[-1500:] for one in ended]
    for one in ended:
        assert "process 1 at step 11" in one.err and "the slowest: process 1" in one.err


def test_a_killed_process_leaves_a_run_that_is_started_again(tmp_path):
    group = together.Together(guarded("if step == 1: print('going', flush=True)"), tmp_path, count=2)
    while "going" not in group.files[1][0].read_text() and time.monotonic() - group.begun < 60:
        time.sleep(0.05)
    group.signal(1, signal.SIGKILL)
    first, second = group.wait(60)
    assert second.status == -signal.SIGKILL
    assert first.status in (processes.AGAIN, -signal.SIGABRT), first.err[-2000:]


def test_sigterm_to_one_leads_all_to_the_same_step(tmp_path):
    code = guarded("""if step == 1: print('going', flush=True)
                if processes.preempted(step):
                    print('preempted at', step, flush=True)
                    status = processes.AGAIN
                    break""")
    group = together.Together(code, tmp_path, count=2)
    while "going" not in group.files[1][0].read_text() and time.monotonic() - group.begun < 60:
        time.sleep(0.05)
    group.signal(1, signal.SIGTERM)
    ended = group.wait(60)
    assert [one.status for one in ended] == [processes.AGAIN] * 2, [one.err[-1500:] for one in ended]
    steps = {line for one in ended for line in one.out.splitlines() if line.startswith("preempted")}
    assert len(steps) == 1


def test_a_guard_alone_ends_a_run_that_stalls_and_lets_a_moving_one_live():
    said, ended = [], []
    limits = processes.Limits(stall=0.4, first=0.8)
    with processes.guard(limits, last=lambda *what: said.append(what), end=ended.append) as beat:
        for step in range(10):  # a second of steps, each in time
            beat(step)
            time.sleep(0.1)
        assert not ended
        time.sleep(0.8)
    assert ended == [processes.AGAIN] and said[0][0] == processes.AGAIN
    assert "the last finished step is 9" in said[0][1]


def test_before_the_first_step_the_longer_limit_counts():
    ended = []
    with processes.guard(processes.Limits(stall=0.2, first=30), end=ended.append):
        time.sleep(0.6)
    assert not ended


@pytest.mark.parametrize(("variables", "message"), [
    ({"JAX_NUM_PROCESSES": "2"}, "JAX_NUM_PROCESSES without JAX_COORDINATOR_ADDRESS and JAX_PROCESS_ID"),
    ({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "x"}, "whole numbers"),
    ({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"}, "one of 0 to 1"),
])
def test_half_an_address_is_refused(variables, message):
    with pytest.raises(ValueError, match=message):
        processes.start(environment=variables)


def test_the_nodes_of_skypilot_are_processes():
    nodes = {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NODE_RANK": "1"}
    assert processes._told(nodes) == ("10.0.0.1:8476", 2, 1)
    assert processes._told({**nodes, "TPU_WORKER_ID": "0"}) is None
    assert processes._told({"SKYPILOT_NODE_IPS": "10.0.0.1"}) is None


@pytest.mark.parametrize("name", ["heartbeat", "barrier", "stall", "first", "attempts"])
def test_limits_are_positive(name):
    with pytest.raises(ValueError, match=f"config.limits.{name} must be above 0"):
        processes.Limits(**{name: 0})


def test_a_fault_of_this_process_is_a_bug_and_a_lost_peer_is_not():
    assert processes.verdict(processes.Lost("restored: process 1 did not come")) == processes.AGAIN
    assert processes.verdict(ValueError("connection")) == 1


def test_who_waits_for_a_process_that_never_comes_says_so_and_ends():
    ended = subprocess.run([sys.executable, "-c", "from jaxdiff import processes; processes.start(patience=12)"],
                           env=together.environment(0, 2, together.free_port(), 1), capture_output=True, text=True,
                           timeout=120, check=False)
    assert ended.returncode == -signal.SIGABRT  # 134: launchers start it again
    assert "still waiting for the other processes to join, 12 s at most; 2 are to meet at 127.0.0.1:" in ended.stderr
