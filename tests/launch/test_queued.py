"""Plain gcloud, against a Google that waits, has nothing, takes away, and loses answers."""

import os
import random
import subprocess
from pathlib import Path

import pytest

from launch import ledger
from launch.engines import queued

HANDBACK = Path(queued.__file__).with_name("handback.sh")


class Killed(Exception):
    """The launcher was."""


class Google:
    """One zone of the Cloud TPU API, as a state machine; every call may go wrong before or after its effect."""

    def __init__(self, chance: random.Random, faults: float = 0.0) -> None:
        self.chance, self.faults = chance, faults
        self.states: dict[str, str] = {}
        self.made = 0

    def live(self) -> set[str]:
        """What costs, or may."""
        return set(self.states)

    def pass_time(self) -> None:
        for name, state in list(self.states.items()):
            after = {"WAITING_FOR_RESOURCES": ("WAITING_FOR_RESOURCES", "ACTIVE", "FAILED"),
                     "ACTIVE": ("ACTIVE", "SUSPENDED", None), "DELETING": ("DELETING", None)}.get(state, (state,))
            chosen = self.chance.choice(after)
            if chosen is None:
                del self.states[name]
            else:
                self.states[name] = chosen

    def __call__(self, words):
        assert words[:4] == ("gcloud", "compute", "tpus", "queued-resources"), words
        verb, name = words[4], words[5]
        assert words[6] == "--zone=z"
        fault = self.chance.random() < self.faults and self.chance.choice(("before", "after", "kill"))
        if fault == "before":
            return 1, "", "ERROR: Connection reset"
        answer = getattr(self, verb)(name)
        if fault == "kill":
            raise Killed
        return (1, "", "ERROR: 503 after it was done") if fault == "after" else answer

    def describe(self, name):
        if name not in self.states:
            return 1, "", f"ERROR: (gcloud) NOT_FOUND: Resource {name} was not found"
        return 0, self.states[name], ""

    def create(self, name):
        if name in self.states:
            return 1, "", "ERROR: ALREADY_EXISTS"
        self.made += 1
        self.states[name] = "WAITING_FOR_RESOURCES"
        return 0, "", ""

    def delete(self, name):
        if name not in self.states:
            return 1, "", "ERROR: NOT_FOUND"
        if self.chance.random() < 0.3:
            self.states[name] = "DELETING"
        else:
            del self.states[name]
        return 0, "", ""


def said():
    lines = []
    return lines, lines.append


def test_submit_is_idempotent_by_name():
    google = Google(random.Random(0))
    lines, say = said()
    assert queued.create("a", "z", (), google, say) == 0
    assert queued.create("a", "z", (), google, say) == 0
    assert google.made == 1
    assert lines == ["a: asked for", "a: WAITING_FOR_RESOURCES already, and left as it is"]


@pytest.mark.parametrize("state", ["FAILED", "SUSPENDED"])
def test_what_failed_or_was_preempted_is_deleted_and_made_anew(state):
    google = Google(random.Random(1))
    google.states["a"] = state
    lines, say = said()
    while queued.create("a", "z", (), google, say):  # until Google has deleted it
        google.pass_time()
    assert google.made == 1
    assert lines[0] == f"a: {state}, deleted and asked for anew"


def test_a_lost_answer_is_resolved_by_asking_and_a_refusal_is_one():
    google, lost = Google(random.Random(0)), []

    def loses(words):
        answer = google(words)
        if words[4] == "create":
            lost.append(words)
            return 1, "", "ERROR: timed out"
        return answer

    lines, say = said()
    assert queued.create("a", "z", (), loses, say) == 0
    assert lines == ["a: WAITING_FOR_RESOURCES, though gcloud said: ERROR: timed out"]
    assert queued.create("b", "z", (), lambda words: google(words) if words[4] != "create" else
                         (1, "", "ERROR: quota"), say) == 1
    assert lines[-1] == "b: not made: ERROR: quota"


def test_what_google_does_not_say_is_not_guessed():
    with pytest.raises(RuntimeError, match="not known: ERROR: PERMISSION_DENIED"):
        queued.create("a", "z", (), lambda words: (1, "", "ERROR: PERMISSION_DENIED"), print)


@pytest.mark.parametrize("seed", range(100))
def test_no_sequence_of_calls_leaves_a_slice_that_nobody_knows_of(seed, tmp_path):
    """After each call every resource at Google has an open row, there are never two of one name, and repeated `stop`
    ends with none; the launcher may be killed after any call."""
    chance = random.Random(seed)
    google, path = Google(chance, faults=0.3), tmp_path / "ledger.jsonl"

    def submit(name):
        ledger.append(path, "submitted", name)
        queued.create(name, "z", (), google, lambda line: None)

    def stop(name):
        if queued.stop(name, "z", google, lambda line: None) == 0:
            ledger.append(path, "closed", name)

    def status(name):
        if queued.describe(name, "z", google) == queued.GONE:
            ledger.append(path, "closed", name)

    def opened():
        return {name for name, row in ledger.submissions(path).items() if "closed" not in row["then"]}

    for _ in range(12):
        name = chance.choice("ab")
        try:
            chance.choice((submit, submit, stop, status))(name)
        except (Killed, RuntimeError):
            pass
        assert google.live() <= opened()
        google.pass_time()
    for name in "ab":
        for _ in range(200):
            google.pass_time()
            try:
                stop(name)
            except (Killed, RuntimeError):
                continue
            if name not in google.live():
                break
    assert not google.live()


@pytest.mark.parametrize("host", ["0", "3"])
@pytest.mark.parametrize(("code", "status", "why", "over"), [
    ("exited", "0", "", {"0"}), ("exited", "1", "", {"0", "3"}), ("exited", "2", "", {"0", "3"}),
    ("exited", "42", "", set()), ("exited", "134", "", set()), ("dumped", "ABRT", "", set()),
    ("killed", "TERM", "", set()), ("killed", "KILL", "", set()), ("", "", "over", {"0", "3"})])
def test_the_hosts_hand_the_slice_back_when_the_job_is_over_and_only_then(host, code, status, why, over, tmp_path):
    gcloud = tmp_path / "gcloud"
    gcloud.write_text(f'#!/bin/bash\necho "$@" > {tmp_path}/called\n')
    gcloud.chmod(0o755)
    subprocess.run(["bash", str(HANDBACK), "dit", "us-west4-a", *([why] if why else [])], check=True, env={
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "TPU_WORKER_ID": host, "EXIT_CODE": code, "EXIT_STATUS": status})
    called = (tmp_path / "called").read_text().split() if (tmp_path / "called").exists() else []
    assert called == ("compute tpus queued-resources delete dit --zone=us-west4-a --force --quiet --async".split()
                      if host in over else [])


def test_the_program_says_what_it_found(tmp_path, monkeypatch, capsys):
    gcloud = tmp_path / "gcloud"
    gcloud.write_text('#!/bin/bash\ncase "$5" in gone) echo "NOT_FOUND" >&2; exit 1;; odd) echo no >&2; exit 1;; '
                      "*) echo SUSPENDED;; esac\n")
    gcloud.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert [queued.main(["status", name, "z"]) for name in ("there", "gone", "odd")] == [0, 3, 1]
    captured = capsys.readouterr()
    assert captured.out == "there: SUSPENDED, nobody makes it anew: submit again\ngone: NOT_FOUND\n"
    assert "what there is of odd in z is not known: no" in captured.err
    assert queued.main(["stop", "gone", "z"]) == 0
