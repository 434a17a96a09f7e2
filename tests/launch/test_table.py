"""What became of trials is read from their own folders."""

import json

import pytest

from launch import table

START, DONE = {"event": "start", "attempt": 1}, {"event": "end", "attempt": 1, "status": 0}


def end(status, attempt=1):
    return {"event": "end", "attempt": attempt, "status": status}


@pytest.mark.parametrize(("attempts", "then", "alive", "state"), [
    ([], [], None, "queued"), ([], [], True, "queued"), ([], [], False, "queued"), ([], ["stopped"], False, "stopped"),
    ([], ["failed"], False, "failed"), ([START], [], True, "running"), ([START], [], None, "running"),
    ([START], [], False, "preempted"), ([START, end(42)], [], False, "preempted"),
    ([START, end(42)], [], True, "preempted"), ([START, end(42)], ["stopped"], False, "stopped"),
    ([START, end(42), {"event": "start", "attempt": 2}], [], True, "running"),
    ([START, end(1)], [], False, "failed"), ([START, end(2)], [], None, "failed"),
    ([START, DONE], [], False, "done"), ([START, DONE], ["stopped"], True, "done"),
    ([START, end(42)], ["pruned"], False, "pruned"),
    ([START, end(1), {"event": "start", "attempt": 2}, end(0, 2)], ["failed"], False, "done"),
])
def test_the_state_of_a_trial(attempts, then, alive, state):
    assert state in table.STATES
    assert table.state(attempts, then, alive) == state


@pytest.fixture
def run(tmp_path):
    lines = [{"event": "start"}, {"step": 1, "loss": 3.0, "host": "a"}, {"step": 2, "loss": 2.0},
             {"step": 1, "loss": 2.5}]
    (tmp_path / "eval").mkdir()
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3, "lo')
    (tmp_path / "eval" / "results.jsonl").write_text(json.dumps(
        {"checkpoint": 2, "nfe": 35, "accuracy": 0.9, "metrics": {"fd_pixels": 1.5}, "equal": True}) + "\n")
    return str(tmp_path)


def test_numbers_are_the_last_ones_and_a_cut_line_is_left_out(run):
    assert table.metrics(run) == {"step": 1, "loss": 2.5, "checkpoint": 2, "nfe": 35, "accuracy": 0.9,
                                  "fd_pixels": 1.5}
    assert table.curve(run, "loss") == [(1, 2.5), (2, 2.0)]
    assert table.metrics(run + "/missing") == {}


def test_the_best_come_first_and_those_without_a_number_last():
    rows = [{"name": "a", "loss": 2.0}, {"name": "b"}, {"name": "c", "loss": 1.0}, {"name": "d", "loss": float("nan")}]
    assert [row["name"] for row in table.sort(rows, "loss")] == ["c", "a", "b", "d"]
    rows = [{"name": "a", "accuracy": 0.1}, {"name": "b", "accuracy": 0.9}]
    assert [row["name"] for row in table.sort(rows, "accuracy")] == ["b", "a"]
    with pytest.raises(ValueError, match=r"--metric=los: no trial has told it; there are accuracy"):
        table.sort(rows, "los")


def test_a_table_for_reading_one_for_programs_and_a_picture(run, tmp_path):
    rows = [{"name": "a", "state": "done", "loss": 2.5, "workdir": run}, {"name": "bb", "state": "queued",
                                                                         "workdir": "none"}]
    assert table.as_text(rows, ["name", "state", "loss"]).splitlines() == ["name  state   loss", "a     done    2.5",
                                                                          "bb    queued"]
    assert table.as_csv(rows).splitlines()[0] == "name,state,loss,workdir"
    for metric in ("loss", "fd_pixels"):
        table.draw([rows[0] | {"fd_pixels": 1.5}, rows[1]], metric, tmp_path / f"{metric}.png")
        assert (tmp_path / f"{metric}.png").read_bytes().startswith(b"\x89PNG")
