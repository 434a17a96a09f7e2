"""Every command of docs/tpu.md and docs/sweeps.md that can be shown is shown, and does what the page says."""

import re
import shlex
from pathlib import Path

import pytest

from launch import run, sweep, trials

ROOT = Path(__file__).resolve().parents[2]


PAGES = ("tpu.md", "sweeps.md", "runs/dit-b2-imagenet256-v5e16.md", "../README.md")


def commands(page):
    text = (ROOT / "docs" / page).read_text()
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("python launch/")]


@pytest.mark.parametrize("line", [line for page in PAGES for line in commands(page)
                                  if "--dry-run" in line])
def test_a_dry_run_of_the_docs_passes(line, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = shlex.split(line.partition(" # ")[0])
    main = {"launch/run.py": run.main, "launch/sweep.py": sweep.main}[words[1]]
    if "--trials" in line:
        pytest.importorskip("optuna")
    assert main(words[2:]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "exec python -m jaxdiff" in out or "search(trial)" in out


def test_there_are_such_commands_for_every_engine():
    shown = "\n".join(commands("tpu.md"))
    assert all(f"--on={on} " in shown for on in ("sky", "xpk", "gcloud", "slurm", "local"))


def test_the_sweep_of_the_docs_is_eight_trials_with_readable_names():
    found = trials.loaded("configs/sweeps/digits.py", ROOT, "sweep")(trials.Space())
    names = [trial.name for trial in trials.listed("configs/sweeps/digits.py", found, {})]
    assert len(names) == 8
    page = (ROOT / "docs" / "sweeps.md").read_text()
    assert all(name[:-7] in page for name in names)
