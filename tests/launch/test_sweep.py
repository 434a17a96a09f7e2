"""A sweep ends in one table, through whatever happens to it; what is done is not done again."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch import ledger, sweep

ROOT = Path(sweep.__file__).resolve().parents[1]
# A jaxdiff of a few lines: it writes what the real one writes, takes a while, and is 42 on SIGTERM.
STAND_IN = '''
import json, os, pathlib, signal, sys, time
flags = dict(word[2:].split("=", 1) for word in sys.argv[2:] if "=" in word)
folder = pathlib.Path(flags["workdir"])
folder.mkdir(parents=True, exist_ok=True)
def add(name, row):
    with open(folder / name, "a") as file:
        file.write(json.dumps(row) + "\\n")
if sys.argv[1] == "evaluate":
    (folder / "eval").mkdir(exist_ok=True)
    add("eval/results.jsonl", {"metrics": {"fd": float(flags["workdir"][-1:].encode()[0])}})
    sys.exit(0)
rows = (folder / "run.jsonl").read_text().splitlines() if (folder / "run.jsonl").exists() else []
attempt = 1 + sum('"start"' in row for row in rows)
add("run.jsonl", {"event": "start", "attempt": attempt, "pid": os.getpid()})
def ended(status):
    add("run.jsonl", {"event": "end", "attempt": attempt, "status": status})
    os._exit(status)
signal.signal(signal.SIGTERM, lambda *_: ended(42))
value = float(flags.get("config.x", flags.get("config.seed", 0)))
first = len((folder / "metrics.jsonl").read_text().splitlines()) if (folder / "metrics.jsonl").exists() else 0
for step in range(first + 1, 11):
    time.sleep(float(os.environ.get("PACE", "0.01")))
    add("metrics.jsonl", {"step": step, "loss": (value - 3) ** 2 + 1 / step})
ended(1 if value == float(os.environ.get("BAD", "-1")) else 0)
'''
CONFIG = '''
import os
from ml_collections import ConfigDict
def get_config():
    return ConfigDict({"seed": 0, "x": 0.0})
def sweep(s):
    return s.seeds(int(os.environ.get("SEEDS", "8")))
def search(trial):
    return {"x": trial.suggest_float("x", 0.0, 10.0)}
'''


@pytest.fixture
def checkout(tmp_path):
    """A checkout with the launcher, and a stand-in for what it launches."""
    root = tmp_path / "checkout"
    (root / "jaxdiff").mkdir(parents=True)
    (root / "configs").mkdir()
    shutil.copytree(ROOT / "launch", root / "launch", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "jaxdiff" / "__main__.py").write_text(STAND_IN)
    (root / "configs" / "c.py").write_text(CONFIG)
    subprocess.run(["git", "-C", str(root), "init", "-q"], check=True)
    subprocess.run(["git", "-C", str(root), "add", "."], check=True)
    subprocess.run(["git", "-C", str(root), "-c", "user.email=a@b", "-c", "user.name=a", "commit", "-qm", "one"],
                   check=True)
    return root


def command(checkout, *words, on="local"):
    """The words of a sweep whose folder is beside the checkout."""
    new = [] if words[:1] in (("table",), ("stop",)) else [f"--on={on}", "--config=configs/c.py", "--parallel=2"]
    return [sys.executable, "launch/sweep.py", *words, f"--workdir={checkout.parent}/sweep", *new]


def called(checkout, *words, status=0, on="local", **environment):
    done = subprocess.run(command(checkout, *words, on=on), cwd=checkout, capture_output=True, text=True, check=False,
                          env={**os.environ, **environment}, timeout=300)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def attempts(checkout):
    found = {}
    for path in (checkout.parent / "sweep").glob("*/run.jsonl"):
        found[path.parent.name] = [json.loads(line) for line in path.read_text().splitlines()]
    return found


def starts(checkout):
    return sum(row["event"] == "start" for rows in attempts(checkout).values() for row in rows)


def wait_for(ready, limit=60):
    deadline = time.monotonic() + limit
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_eight_trials_two_at_a_time_through_TERM_and_KILL_end_in_one_table(checkout):
    """G23: elsewhere all points of a sweep wrote into the folder that the base config named."""
    for what, status in ((signal.SIGTERM, 42), (signal.SIGKILL, -9)):
        before = starts(checkout)
        run = subprocess.Popen(command(checkout), cwd=checkout, env={**os.environ, "PACE": "0.1"},
                               stdout=subprocess.PIPE, text=True)
        wait_for(lambda before=before: starts(checkout) >= before + 2)
        run.send_signal(what)
        run.communicate()
        assert run.returncode == status
    out = called(checkout)  # while the orphans of the killed sweep still run
    assert "left by an earlier sweep; waited for" in out
    assert "8 done" in out
    assert out.splitlines()[-12].split() == ["name", "state", "step", "loss"]
    assert len(attempts(checkout)) == 8
    for rows in attempts(checkout).values():
        running = 0
        for row in rows:  # never twice at a time
            running += {"start": 1, "end": -1}[row["event"]]
            assert 0 <= running <= 1
        assert rows[-1]["status"] == 0
    assert (checkout.parent / "sweep" / "sweep.png").exists()
    assert len((checkout.parent / "sweep" / "sweep.csv").read_text().splitlines()) == 9


def test_done_is_skipped_and_a_grid_that_grew_runs_what_is_new(checkout):
    called(checkout, SEEDS="2")
    assert starts(checkout) == 2
    assert "2 trials, 2 done or under way" in called(checkout, SEEDS="2")
    assert starts(checkout) == 2
    names = set(attempts(checkout))
    called(checkout, SEEDS="3")
    assert starts(checkout) == 3
    assert names < set(attempts(checkout))


def test_a_failed_trial_is_said_and_tried_again(checkout):
    out = called(checkout, SEEDS="2", BAD="1", status=1)
    assert "1 done, 1 failed" in out
    assert "2 done" in called(checkout, SEEDS="2")
    assert starts(checkout) == 3


def test_trials_are_evaluated_after_their_training(checkout):
    called(checkout, SEEDS="2")
    out = called(checkout, "run", "--evaluate", "--metric=fd", SEEDS="2")
    assert starts(checkout) == 2
    assert out.count("done") >= 2
    assert "fd" in (checkout.parent / "sweep" / "sweep.csv").read_text().splitlines()[0]


def test_stop_ends_the_pool_and_its_trials(checkout):
    run = subprocess.Popen(command(checkout), cwd=checkout, env={**os.environ, "PACE": "1"}, stdout=subprocess.PIPE)
    wait_for(lambda: starts(checkout) >= 2)
    called(checkout, "stop")
    run.communicate(timeout=60)
    assert run.returncode == 42
    out = called(checkout, "table")
    assert "2 stopped" in out


@pytest.mark.parametrize("what", [signal.SIGTERM, signal.SIGHUP])
def test_what_ends_the_launcher_of_one_job_is_handed_on_and_the_job_saves(what, checkout):
    workdir = checkout.parent / "one"
    job = subprocess.Popen([sys.executable, "launch/run.py", "--on=local", "--config=configs/c.py",
                            f"--workdir={workdir}"], cwd=checkout, env={**os.environ, "PACE": "1"},
                           stdout=subprocess.PIPE)
    wait_for((workdir / "metrics.jsonl").exists)
    job.send_signal(what)
    job.communicate(timeout=60)
    assert job.returncode == 42
    assert json.loads((workdir / "run.jsonl").read_text().splitlines()[-1])["status"] == 42
    row = ledger.last(checkout / ".snapshots" / "ledger.jsonl", "one")
    assert row["then"] == ["closed"]


def test_control_c_reaches_all_of_them_and_the_job_saves(checkout):
    """As a terminal sends it: to the launcher and to what it started, at once."""
    workdir = checkout.parent / "one"
    job = subprocess.Popen([sys.executable, "launch/run.py", "--on=local", "--config=configs/c.py",
                            f"--workdir={workdir}"], cwd=checkout, env={**os.environ, "PACE": "1"},
                           stdout=subprocess.PIPE, start_new_session=True)
    wait_for((workdir / "metrics.jsonl").exists)
    os.killpg(job.pid, signal.SIGINT)
    job.communicate(timeout=60)
    assert job.returncode == 42
    assert json.loads((workdir / "run.jsonl").read_text().splitlines()[-1])["status"] == 42


def test_flags_with_a_blank_for_the_equals_sign_do_not_change_the_engine(checkout):
    words = command(checkout, on="slurm")
    spaced = [part for word in words for part in (word.split("=", 1) if word.startswith("--config") else [word])]
    done = subprocess.run([*spaced, "--dry-run"], cwd=checkout, capture_output=True, text=True, check=True)
    assert "#SBATCH --array=0-7%2" in done.stdout


def test_a_search_asks_optuna_and_goes_on(checkout):
    called(checkout, "run", "--trials=3")
    out = called(checkout, "run", "--trials=8", "--prune")
    assert starts(checkout) == 8
    rows = (checkout.parent / "sweep" / "sweep.csv").read_text().splitlines()
    assert len(rows) == 9
    best = float(out.splitlines()[out.splitlines().index(next(
        line for line in out.splitlines() if line.startswith("name"))) + 1].split()[-1])
    assert best < 9  # ten steps of a search that knows nothing would still find it


def test_a_search_that_was_killed_takes_up_what_was_running(checkout):
    run = subprocess.Popen(command(checkout, "run", "--trials=4"), cwd=checkout, env={**os.environ, "PACE": "0.2"},
                           stdout=subprocess.PIPE)
    wait_for(lambda: starts(checkout) >= 2)
    run.kill()
    run.communicate()
    assert "4 done" in called(checkout, "run", "--trials=4")
    assert len(attempts(checkout)) == 4


def test_what_falls_behind_is_pruned(checkout):
    called(checkout, "run", "--trials=4")
    out = called(checkout, "run", "--trials=12", "--prune", PACE="0.5")
    rows = [row for row in ledger.rows(checkout.parent / "sweep" / "ledger.jsonl") if row["event"] == "pruned"]
    assert rows
    assert f"{len(rows)} pruned" in out


def test_slurm_gets_one_array_and_is_not_asked_twice(checkout, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in (("sbatch", f'echo "$@" >> {tmp_path}/calls'),
                       ("scancel", f'echo cancel "$@" >> {tmp_path}/calls'),
                       ("squeue", 'printf "sweep 0 RUNNING\\nsweep 1 PENDING\\n"')):
        (tools / name).write_text(f"#!/bin/bash\n{text}\n")
        (tools / name).chmod(0o755)
    path = {"PATH": f"{tools}:{os.environ['PATH']}", "SEEDS": "3"}
    called(checkout, on="slurm", **path)
    (line,) = (tmp_path / "calls").read_text().splitlines()
    assert line.endswith("jobs/sweep.sbatch")
    text = next((checkout / ".snapshots").glob("sweep-*/jobs/sweep.sbatch")).read_text()
    assert "#SBATCH --array=0-2%2" in text
    assert "3 trials, 3 done or under way" in called(checkout, on="slurm", **path)
    assert "3 queued" in called(checkout, "table", **path)
    called(checkout, "stop", **path)
    assert (tmp_path / "calls").read_text().splitlines()[1:] == ["cancel --name=sweep --me"]


def test_sky_gets_every_trial_and_its_list_is_read(checkout, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "sky").write_text(
        f'#!/bin/bash\necho "$@" >> {tmp_path}/calls\n[ "$2" = queue ] && cat {tmp_path}/queue\nexit 0\n')
    (tools / "sky").chmod(0o755)
    (checkout / "jaxdiff" / "__main__.py").write_text(
        "import json, sys; print(json.dumps({'steps': 1000, 'chip': {'limit': 1}, 'programs': {'train': {'fits': True, "
        "'roofline': {'step_s': .36}, 'predicted': {'mfu': .2}}}}))")
    root = f"gs://bucket/{tmp_path.name.lower().replace('_', '-')}"
    words = [sys.executable, "launch/sweep.py", f"--workdir={root}", "--on=sky", "--tpu=v5litepod-16",
             "--config=configs/c.py", "--price=1"]
    env = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "SEEDS": "2"}
    done = subprocess.run(words, cwd=checkout, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 trials on sky: each 16 chips; 1,000 steps in at least 1.6 chip-hours" in done.stdout
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call.split()[:2] for call in calls] == [["jobs", "launch"]] * 2
    names = [call.split("--name=")[1].split()[0] for call in calls]
    assert len(set(names)) == 2
    known = ledger.submissions(next((checkout / ".snapshots").glob("*.jsonl")))
    assert set(known) == set(names)
    (tmp_path / "queue").write_text(f"1 {names[0]} RUNNING\n2 {names[1]} SUCCEEDED\n")
    told = ("from launch import ledger, sweep; import sys; root = sys.argv[1]; "
            "print(sweep._alive(ledger.submissions(sweep.ledger_of(root)), root))")
    done = subprocess.run([sys.executable, "-c", told, root], cwd=checkout, env=env, capture_output=True, text=True,
                          check=True)
    assert done.stdout.strip() == str({names[0]: True, names[1]: False})


@pytest.mark.parametrize(("words", "said"), [
    (["run", "--on=gcloud", "--config=c.py"], "--on=sky"), (["run", "--on=local"], "--config=FILE is missing"),
    (["run", "--on=sky", "--config=c.py", "--trials=3"], "goes with --on=local"),
    (["run", "--on=local", "--config=c.py", "--parallel=0"], "at least 1"), (["table"], "no sweep was begun there")])
def test_mistakes_are_one_line(words, said, tmp_path, capsys):
    assert sweep.main([*words, f"--workdir={tmp_path}"]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
