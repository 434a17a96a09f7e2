"""Every start of a run and its end is on record, and a run that only fails is not started for ever."""

import json

import pytest

from jaxdiff import attempts, flags, pace


def lines(folder):
    return [json.loads(line) for line in (folder / "run.jsonl").read_text().splitlines()]


def test_a_start_and_its_first_end_are_lines(tmp_path):
    attempt = attempts.begin(tmp_path, 40, {"host": "here", "device": {"kind": "cpu"}}, most=5)
    attempt.step = 60
    attempt.end(42, "preempted")
    attempt.end(1, "what came after")
    start, end = lines(tmp_path)
    assert (start["event"], start["attempt"], start["step"], start["host"]) == ("start", 1, 40, "here")
    assert (end["event"], end["attempt"], end["step"]) == ("end", 1, 60)
    assert (end["status"], end["error"]) == (42, "preempted")
    assert end["seconds"] >= 0
    assert attempts.begin(tmp_path, 60, {}, most=5).number == 2


@pytest.mark.parametrize(("error", "status"), [
    (RuntimeError("out of memory\nand a page more"), 1), (ValueError("a bug"), 1),
])
def test_what_is_raised_is_the_end(tmp_path, error, status):
    with pytest.raises(type(error)), attempts.begin(tmp_path, 0, {}, most=5).recorded():
        raise error
    assert lines(tmp_path)[-1]["status"] == status
    assert lines(tmp_path)[-1]["error"] == f"{type(error).__name__}: {error}".partition("\n")[0]


def test_what_the_user_can_mend_is_status_2(tmp_path):
    with pytest.raises(flags.UserError), attempts.begin(tmp_path, 0, {}, most=5).recorded():
        raise flags.UserError("no such file") from OSError("no such file")
    assert lines(tmp_path)[-1]["status"] == 2


def test_attempts_in_vain_are_counted_from_the_last_step_that_was_saved(tmp_path):
    def start(step, status=None):
        attempt = attempts.begin(tmp_path, step, {}, most=3)
        if status is not None:
            attempt.end(status, "" if status == 0 else "RuntimeError: why")

    start(0, 1)
    start(0)  # killed: no end
    start(20)  # something was saved
    start(20, 42)
    start(20, 0)  # it ended well
    start(20)
    start(20)
    start(20, 1)
    with pytest.raises(attempts.InVain, match=r"3 attempts in a row saved no step after 20: the last said RuntimeErr"
                       r"or: why; .*--config\.limits\.attempts=6 or rename .*run\.jsonl"):
        start(20)
    start(40)  # more was saved elsewhere: it goes on


def test_the_summary_counts_ends_and_the_goodput_is_the_share_of_useful_time(tmp_path):
    assert attempts.summary(tmp_path) is None
    attempts.begin(tmp_path, 0, {}, most=5)
    attempts.begin(tmp_path, 100, {}, most=5).end(42)
    attempts.begin(tmp_path, 200, {}, most=5).end(0)
    told = attempts.summary(tmp_path)
    assert told["attempts"] == 3 and told["statuses"] == {None: 1, 42: 1, 0: 1}
    assert attempts.share({"seconds": 100.0}, kept=500, step_seconds=0.1) == pytest.approx(0.5)
    assert attempts.share({"seconds": 0.0}, kept=500, step_seconds=0.1) == 0


def test_only_the_process_that_leads_writes(tmp_path):
    attempts.begin(tmp_path, 0, {}, most=5, writes=False).end(1)
    assert not (tmp_path / "run.jsonl").exists()


def test_the_pace_counts_laps_and_waits_a_step(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(pace.time, "perf_counter", lambda: now[0])
    measured = pace.Pace(batch=10, devices=4, macs=50, peak=1e5)
    measured.lap()
    for seconds in (1.0, 1.0, 1.0, 3.0):
        with measured.clock("data"):
            now[0] += seconds / 4
        now[0] += seconds * 3 / 4
        measured.lap()
    told = measured.take()
    assert told["images_per_second"] == pytest.approx(40 / 6)
    assert told["images_per_second_per_device"] == pytest.approx(10 / 6)
    assert told["time/step_p50"] == 1 and 2.5 < told["time/step_p95"] < 3
    assert told["time/data"] == pytest.approx(6 / 4 / 4)
    assert told["mfu"] == pytest.approx(6 * 50 * (40 / 6) / (4 * 1e5))
    assert measured.take() == {}
