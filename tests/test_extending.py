"""The five parts of docs/extending.md plug in from a reader's own folder, and are what they say."""

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import laws
from jaxdiff import process as processes
from jaxdiff import times
from jaxdiff import walk as walks

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The reader's folder, with the page's files in it."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "my_lab").mkdir()
    for name, text in re.findall(r"```python\n# (my_lab/\w+\.py)\n(.*?)```", PAGE, re.DOTALL):
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def sampler(lab):
    sys.path.insert(0, str(lab))
    yield importlib.import_module("my_lab.midpoint").midpoint
    sys.path.remove(str(lab))


def test_there_are_five(lab):
    assert {path.stem for path in (lab / "my_lab").glob("*.py")} == {"apart", "bars", "huber", "midpoint", "plain"}


@pytest.mark.parametrize("of", ["vp", "edm", "flow"])
def test_the_sampler_is_of_order_two(sampler, of, x64):
    """On a mixture, whose denoiser is exact, twice the steps leave a quarter of the error."""
    process = laws.PROCESSES[of]
    denoiser = laws.mixture(process)
    sigma = processes.sigma(process, processes.t_of_logsnr(process, np.float64(-2.0)))
    x = sigma * jax.random.normal(jax.random.key(0), (64, 2))

    def end(steps):
        levels = np.linspace(-2.0, 3.0, steps + 1)
        grid = times.given(process, t=tuple(map(float, processes.t_of_logsnr(process, levels))))
        return np.asarray(sampler(denoiser, x, grid, walk=walks.walk)[0])

    exact = end(2048)
    errors = [np.abs(end(steps) - exact).max() for steps in (32, 64)]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.15)


def test_the_commands_of_the_page_train_and_judge(lab):
    (block,) = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    (lab / "configs").symlink_to(ROOT / "configs")
    for line in block.splitlines():
        words = shlex.split(line)
        assert words.pop(0) == "jaxdiff"
        done = subprocess.run([sys.executable, "-m", "jaxdiff", *words], cwd=lab, capture_output=True, text=True,
                              check=False, env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)})
        assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in (lab / "runs" / "mine" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "event" not in row]
    assert np.mean(losses[-40:]) < 0.8 * np.mean(losses[:10])
    (row,) = map(json.loads, (lab / "runs" / "mine" / "eval" / "results.jsonl").read_text().splitlines())
    assert row["sampler"] == {"name": "my_lab.midpoint:midpoint"}
    assert row["nfe"] == 15
    assert row["metrics"]["apart_pixels"] > 0
