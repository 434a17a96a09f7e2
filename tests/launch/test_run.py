"""The command: what a dry run prints is what a submission does, and mistakes cost a line, not money."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from launch import ledger, run, snapshot

ROOT = Path(run.__file__).resolve().parents[1]
DIT = ("--config=configs/dit.py:b_2", "--workdir=gs://bucket/dit")
TPU = ("--tpu=v5litepod-16", *DIT)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A checkout of its own, for what is written, and programs that note what they are given."""
    root = tmp_path / "checkout"
    root.mkdir()
    subprocess.run(["git", "-C", str(root), "init", "-q"], check=True)
    for name in ("launch", "configs"):
        subprocess.run(["cp", "-r", str(ROOT / name), str(root)], check=True)
    subprocess.run(["git", "-C", str(root), "add", "."], check=True)
    subprocess.run(["git", "-C", str(root), "-c", "user.email=a@b", "-c", "user.name=a", "commit", "-qm", "one"],
                   check=True)
    monkeypatch.setattr(run, "ROOT", root)
    monkeypatch.setattr(run, "LEDGER", root / snapshot.FOLDER / "ledger.jsonl")
    monkeypatch.setattr(run.checks, "plan", lambda job, words, root: None)
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sky", "xpk", "gcloud", "sbatch", "kubectl", "squeue", "scancel"):
        (tools / name).write_text(f"#!{sys.executable}\nimport json, os, sys\n"
                                  f"with open({str(tmp_path / 'calls')!r}, 'a') as file:\n"
                                  "    print(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]), file=file)\n"
                                  f"sys.exit({{'scancel': 5}}.get(os.path.basename(sys.argv[0]), 0))\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    return root


def calls(place):
    path = place.parent / "calls"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_what_a_dry_run_prints_is_what_a_submission_executes(place, capsys):
    words = ("--on=sky", *TPU, "--config.sampler={'name': 'ddim'}", "--", "--cpus=8")
    assert run.main(["--dry-run", *words]) == 0
    shown = capsys.readouterr().out
    assert not (place / snapshot.FOLDER).exists()
    assert calls(place) == []
    assert run.main([*words[:-2], "--yes", *words[-2:]]) == 0
    row = ledger.last(run.LEDGER, "dit")
    made = Path(row["snapshot"])
    assert row["snapshot"] in shown
    for file in ("jobs/dit.sh", "jobs/dit.yaml"):
        assert (made / file).read_text().rstrip("\n") in shown
    assert calls(place) == [["sky", "jobs", "launch", "jobs/dit.yaml", "--name=dit", "--yes", "--detach-run",
                             "--cpus=8"]]
    assert "sky jobs launch jobs/dit.yaml --name=dit --yes --detach-run --cpus=8" in shown
    assert row["code"] == snapshot.code(place).commit
    assert {"launch", "configs", "jobs"} <= {path.name for path in made.iterdir()}


@pytest.mark.parametrize(("words", "said"), [
    ([*TPU], "--on=ENGINE is missing: sky, xpk"),
    (["--on=skye", *TPU], "did you mean sky"),
    (["--on=sky", "--tpu=v5e-16", *DIT], "did you mean v5litepod-16"),
    (["--on=sky", "--tpu=v6e-8", "--gpu=H100:8", *DIT], "one of them"),
    (["--on=sky", "--tpu=v6e-8", "--config=configs/dit.py"], "--workdir=DIR is missing"),
    (["--on=sky", "--tpu=v6e-8", "--workdir=gs://bucket/f"], "--config=FILE is missing"),
    (["--on=sky", "--tpu=v6e-8", "--workdir=gs://bucket/f", "--config=configs/dti.py"], "no such file"),
    (["--on=sky", *TPU, "--config.batch"], "--config.batch=VALUE"),
    (["--on=slurm", "--workdir=/runs/a", "--config=configs/digits.py", "--config.bach=3"], "did you mean 'batch'"),
    (["--on=local", "--workdir=/runs/a", "--config=configs/digits.py:tniy"], "it may be 'tiny'"),
    (["--on=sky", *TPU, "--tpus=3"], "unrecognized arguments: --tpus=3"),
    (["--on=sky", *TPU, "--env=A"], "NAME=VALUE"),
    (["--on=sky", *TPU, "--secret=NOT_SET_HERE"], "no variable of that name is set here"),
    (["--on=xpk", *TPU], "--cluster=... is missing"),
    (["--on=xpk", *TPU, "--", "--cluster=c"], "--base-docker-image=... is missing"),
    (["--on=gcloud", *TPU], "--zone=... is missing"),
    (["--on=sky", *TPU, "--run=evaluate"], "takes no --config"),
    (["--on=sky", *TPU, "--config.a=x\ny"], "control character"),
    (["status", "--on=sky"], "--name=NAME is missing"),
    (["status", "--on=sky", "--name=never"], "nothing of that name was submitted"),
])
def test_a_mistake_is_one_line_and_nothing_is_created(words, said, place, capsys):
    assert run.main(words) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert said in err
    assert calls(place) == []
    assert not run.LEDGER.exists()


@pytest.mark.parametrize(("answer", "status"), [("y", 0), ("n", 130), ("", 130)])
def test_it_asks_before_what_costs_money(answer, status, place, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda text: answer)
    assert run.main(["--on=sky", *TPU, "--spot", "--price=1.5"]) == status
    assert "dit on sky: v5litepod-16, spot; 16 chips; 24.00 $/h (--price" in capsys.readouterr().out
    assert bool(calls(place)) == (status == 0)


def test_the_ledger_is_written_before_the_engine_is_asked(place, monkeypatch):
    def killed(commands, where):
        assert ledger.last(run.LEDGER, "dit")["engine"] == "sky"
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "execute", killed)
    with pytest.raises(KeyboardInterrupt):
        run.main(["--on=sky", *TPU, "--yes"])


def test_status_logs_and_stop_are_the_engines_own(place, capsys):
    assert run.main(["--on=slurm", "--config=configs/digits.py", f"--workdir={place}/run", "--yes"]) == 0
    assert run.main(["status", "--on=slurm", "--name=run"]) == 0
    assert run.main(["stop", "--on=slurm", "--name=run"]) == 5  # what scancel said
    assert [call[0] for call in calls(place)] == ["sbatch", "squeue", "scancel"]
    assert ledger.last(run.LEDGER, "run")["then"] == []
    assert run.main(["status", "--on=sky", "--name=run"]) == 2
    assert "was submitted with --on=slurm" in capsys.readouterr().err


def test_an_evaluation_goes_beside_its_training(place, capsys):
    assert run.main(["--on=sky", "--tpu=v6e-4", "--run=evaluate", "--workdir=gs://bucket/dit", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "exec python -m jaxdiff evaluate --workdir=gs://bucket/dit --watch" in out
    assert "--name=dit-eval" in out


def test_a_local_job_runs_here_and_its_snapshot_is_what_runs(place, tmp_path):
    """The job is a stand-in for jaxdiff in the snapshot, which says what it was given."""
    (place / "jaxdiff").mkdir()
    (place / "jaxdiff" / "__main__.py").write_text(
        "import json, os, sys; json.dump([sys.argv[1:], os.environ['JAXDIFF_COMMIT'], os.getcwd()], "
        "open(os.environ['OUT'] + os.environ['JAX_PROCESS_ID'], 'w'))\n")
    subprocess.run(["git", "-C", str(place), "add", "."], check=True)
    assert run.main(["--on=local", "--nodes=2", "--config=configs/digits.py:tiny", f"--workdir={tmp_path}/a run",
                     "--config.network={'name': \"it's\"}", f"--env=OUT={tmp_path}/out"]) == 0
    for number in (0, 1):
        argv, commit, cwd = json.loads((tmp_path / f"out{number}").read_text())
        assert argv == ["train", "--config=configs/digits.py:tiny", f"--workdir={tmp_path}/a run",
                        "--config.network={'name': \"it's\"}"]
        assert commit == snapshot.code(place).stamp
        assert Path(cwd).parent == place / snapshot.FOLDER
    assert ledger.last(run.LEDGER, "a-run")["then"] == ["closed"]


def test_its_help_names_the_engines():
    done = subprocess.run([sys.executable, "launch/run.py", "--help"], cwd=ROOT, capture_output=True, text=True,
                          check=True)
    assert "sky, xpk, gcloud, slurm, local" in done.stdout
