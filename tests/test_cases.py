"""Other people's bugs: each of 25 public reports is a test of its kind, which names it by its number in its docstring.

Those that need a part which is there already stand with that part; here are the rest, and the list of all.
"""

import itertools
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jobs import of

from jaxdiff import data, layers
from jaxdiff.metrics.features import inception_v3
from jaxdiff.networks import autoencoder
from launch import trials
from launch.engines import MODULES, engine, here
from launch.job import script

ROOT = Path(__file__).resolve().parent
# Known pixels pasted in sampling (G02) and pictures turned with their boxes (G12) come with those conditions.
LATER = {"G02", "G12"}
TORCH, SAME = [[10, 24], [51, 90]], [[45, 39], [66, 50]]


def test_every_report_has_a_test():
    texts = (path.read_text() for path in ROOT.rglob("test_*.py"))
    named = {number for text in texts for number in re.findall(r"\bG[0-2][0-9]\b", text)}
    assert {f"G{number:02}" for number in range(1, 26)} - LATER <= named


class Halving(nn.Module):
    """A convolution of stride two, as a network has it."""

    conv: Callable

    @nn.compact
    def __call__(self, x):
        return self.conv(x)


@pytest.mark.parametrize(("conv", "want"), [
    (lambda x: layers.uniform_conv(x, 1, 3, "conv", stride=2), TORCH),  # of ADM and of Stable Diffusion's UNet
    (lambda x: autoencoder._halved(x, "conv", "float32"), SAME),  # of LDM's autoencoder
], ids=["torch", "autoencoder"])
def test_an_imported_network_pads_as_its_source_did(conv, want):
    """G10: elsewhere "SAME" padded one side of a stride of two, where PyTorch pads both, or the other way round."""
    module, x = Halving(conv), jnp.arange(16.0).reshape(1, 4, 4, 1)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.full(leaf.shape, float(path[-1].key == "kernel")), shapes)
    np.testing.assert_array_equal(module.apply(params, x)[0, ..., 0], want)


def test_inception_pads_nothing_where_it_halves():
    """G10: and the features of FID are of a network that does not pad there at all."""
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    made = inception_v3._product(x, jnp.ones((3, 3, 1, 1)), stride=2, pad=((0, 0), (0, 0)))
    np.testing.assert_array_equal(made[0, ..., 0], [[45]])


@pytest.mark.parametrize(("count", "processes", "sizes"), [
    (50_000, 8, [6250] * 8), (10_007, 4, [2502, 2502, 2502, 2501])])
def test_an_epoch_gives_every_record_to_one_process_and_as_many_to_each(count, processes, sizes):
    """G11: elsewhere an "even" split gave 6,000 records to some of 8 workers and 6,500 to others."""
    ids = {"id": np.arange(count)}
    steps = -(-count // processes)
    read = [np.concatenate([batch["id"] for batch in itertools.islice(
        data.batches(ids, batch=processes, rows=[number])(0), steps)]) for number in range(processes)]
    order = np.stack(read, 1).ravel()
    assert sorted(order[:count]) == list(range(count))  # what comes after is of the next epoch
    assert sorted((len(order[number:count:processes]) for number in range(processes)), reverse=True) == sizes


@pytest.mark.parametrize("on", MODULES)
@pytest.mark.parametrize(("ending", "status"), [("exit 1", 1), ("exit 42", 42), ("kill -TERM $$", 143), ("exit 0", 0)])
def test_the_status_of_a_job_is_the_trainers(on, ending, status, tmp_path):
    """G22: elsewhere a trainer died with 1 and its job was a success."""
    job = of(on, argv=("bash", "-c", ending))
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "dit.sh").write_text(script(job, "commit"))
    made = engine(on).render(job, str(tmp_path))
    seen = {"sky": lambda: json.loads(made.files["jobs/dit.yaml"])["run"],
            "xpk": lambda: made.submit[0][[word.startswith("--command=") for word in made.submit[0]].index(True)][10:],
            "slurm": lambda: 'srun() { shift 3; "$@"; }; scontrol() { :; }\n'
                             + made.files["jobs/dit.sbatch"].replace("bash launch/setup.sh tpu", "true"),
            "gcloud": lambda: "exec /bin/bash jobs/dit.sh", "local": lambda: "exec " + " ".join(made.submit[0][-2:])}
    done = subprocess.run(["bash", "-c", seen[on]()], cwd=tmp_path, check=False)
    assert done.returncode in (status, 128 - 143 if status == 143 else status)


def test_a_failure_on_any_host_is_a_failure_of_the_whole():
    """G22: of two hosts, whichever fails."""
    assert here.verdict([0, 1]) == here.verdict([1, 0]) == 1
    text = engine("slurm").render(of("slurm"), "/s").files["jobs/dit.sbatch"]
    assert "--kill-on-bad-exit=1" in text


def test_every_point_of_a_sweep_has_a_name_and_a_folder_of_its_own():
    """G23: elsewhere the base config's folder was everyone's; and long values, or ones with a slash, made no name."""
    space = trials.Space()
    made = trials.listed("c.py", space.grid({"lr": (1e-4, 3e-4), "seed": (0, 1), "workdir": ("/one",)}), {})
    assert len({trial.name for trial in made}) == len(made) == 4
    (point,) = trials.listed("c.py", [{"lr": 0.0001, "seed": 0, "workdir": "/one"}], {})
    assert point.key == made[0].key
    for trial in (*made, *trials.listed("c.py", [{"a": "x/y/" * 50}, {"a": "x/z/" * 50}], {})):
        assert re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", trial.name)
        assert len(trial.name) <= 40
