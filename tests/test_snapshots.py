"""Snapshots are kept for ever, read only if they are sound, and make power averages of any length."""

import json
import logging
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import checkpoint, experiment, overrides, train
from jaxdiff.checkpoint import snapshots
from jaxdiff.main import main

PRINT = {"examples": 10, "seed": 0, "batch": 4}
NAMES = ("power_0.05", "power_0.1")
STEPS = 64


def iterate(k):
    """Parameters after step k."""
    return {"dense": {"kernel": 3 + np.sin(0.05 * k + np.arange(12.0, dtype=np.float32)).reshape(3, 4),
                      "bias": np.float32(7) * np.ones(4, np.float32)}}


SHAPES = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, np.float32), iterate(1))


@pytest.fixture(scope="module")
def averaged():
    """{step: {name: average}} of every fourth step, and those of length .15, as training makes them."""
    kept = {name: jax.tree.map(jnp.asarray, iterate(0)) for name in (*NAMES, "power_0.15")}
    advance = jax.jit(lambda kept, params, k: {name: train.averages.advance(name, ema, params, k)
                                               for name, ema in kept.items()})
    seen = {}
    for k in range(1, STEPS + 1):
        kept = advance(kept, iterate(k), k)
        seen[k] = kept
    return seen


@pytest.fixture(scope="module")
def kept(averaged, tmp_path_factory):
    """A run's folder with 16 snapshots."""
    checkpoint.hush()
    folder = tmp_path_factory.mktemp("run")
    for step in range(4, STEPS + 1, 4):
        assert snapshots.save(folder, {name: averaged[step][name] for name in NAMES}, step, PRINT)
    return folder


@pytest.fixture
def copied(kept, tmp_path):
    """The same, to be damaged."""
    shutil.copytree(kept / "ema_snapshots", tmp_path / "ema_snapshots")
    return tmp_path


def test_a_length_that_was_not_kept_is_made_of_those_that_were(kept, averaged):
    for step in (STEPS, 40):
        found = snapshots.reconstructed(kept, SHAPES, 0.15, step)
        assert found.step == step and 0 < found.error < 0.03
        true = averaged[step]["power_0.15"]
        print(step, found.error, float(np.abs(found.params["dense"]["kernel"] - true["dense"]["kernel"]).max()))
        np.testing.assert_allclose(found.params["dense"]["kernel"], true["dense"]["kernel"], atol=3e-3)
        np.testing.assert_allclose(found.params["dense"]["bias"], 7, rtol=1e-6)  # what never moved


def test_what_is_stored_comes_back_to_the_bit(kept, averaged):
    found = snapshots.reconstructed(kept, SHAPES, 0.1)
    assert (found.step, found.error) == (STEPS, 0)
    jax.tree.map(np.testing.assert_array_equal, found.params, averaged[STEPS]["power_0.1"])


def test_it_is_said_when_snapshots_are_too_few(copied, caplog):
    for step in snapshots.steps(copied)[:-1]:
        shutil.rmtree(copied / "ema_snapshots" / str(step))
    with caplog.at_level(logging.WARNING):
        found = snapshots.reconstructed(copied, SHAPES, 0.2)
    assert found.error > 0.5
    assert "power_0.2 at step 64: the mix of 2 stored averages is" in caplog.text


def test_saving_a_snapshot_twice_keeps_the_first_and_a_broken_off_one_is_none(tmp_path, averaged):
    assert snapshots.steps(tmp_path) == []
    assert snapshots.save(tmp_path, {"power_0.05": iterate(1)}, 1, PRINT)
    assert not snapshots.save(tmp_path, {"power_0.05": iterate(2)}, 1, PRINT)
    left = tmp_path / "ema_snapshots" / "2.orbax-checkpoint-tmp"  # of a run that was killed
    left.mkdir()
    (left / "ema").mkdir()
    assert snapshots.steps(tmp_path) == [1]
    assert snapshots.save(tmp_path, {"power_0.05": iterate(2)}, 2, PRINT)
    assert snapshots.steps(tmp_path) == [1, 2]


def test_a_run_keeps_its_power_averages_alone(tmp_path):
    params = iterate(1)
    state = train.State(jnp.int32(1), params, {"decay_0.9": params, "power_0.05": params}, ())
    assert snapshots.saver(tmp_path, PRINT)(state, 1)
    assert snapshots.reconstructed(tmp_path, SHAPES, 0.05).error == 0
    with pytest.raises(ValueError, match="decay_0.9/dense/kernel .* is missing"):
        snapshots._read(snapshots._store(tmp_path).folder, 1, "decay_0.9", SHAPES)


def flip(folder):
    path = max((path for path in (folder / "ema").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut_meta(folder):
    path = folder / "meta" / "metadata"
    path.write_text(path.read_text()[:50])


def other_run(folder):
    path = folder / "meta" / "metadata"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1').replace('"seed":0', '"seed":1'))


@pytest.mark.parametrize(("damage", "words"), [
    (flip, "snapshot 60 in .* is damaged: .*; move it elsewhere to do without it"),
    (cut_meta, "snapshot 60 in .* is damaged: "),
    (lambda folder: shutil.rmtree(folder / "meta"), "snapshot 60 in .* is damaged: half written: it has no meta item"),
    (other_run, "snapshot 60 in .* is of another run than the first"),
])
def test_a_damaged_snapshot_is_refused_by_name(copied, damage, words):
    damage(copied / "ema_snapshots" / "60")
    with pytest.raises(ValueError, match=words):
        snapshots.reconstructed(copied, SHAPES, 0.15)
    shutil.move(copied / "ema_snapshots" / "60", copied / "away")
    assert snapshots.reconstructed(copied, SHAPES, 0.15).error < 0.1


def test_a_step_that_has_no_snapshot_is_refused(kept):
    with pytest.raises(ValueError, match=r"no snapshot of step 42 in .*; near it are 40 and 44"):
        snapshots.reconstructed(kept, SHAPES, 0.15, 42)


def test_a_run_without_snapshots_says_how_to_keep_them(tmp_path):
    with pytest.raises(ValueError, match="no snapshots in .*config.ema_snapshot_every_images"):
        snapshots.reconstructed(tmp_path, SHAPES, 0.15)


def test_a_full_disk_is_a_failed_save(tmp_path, monkeypatch):
    def full(*args, **options):
        raise ValueError("RESOURCE_EXHAUSTED: no space left on device\nand much more")

    monkeypatch.setattr(snapshots.ocp.Checkpointer, "save", full)
    with pytest.raises(checkpoint.Failed, match="saving a snapshot to .* failed: RESOURCE_EXHAUSTED: no space .*$"):
        snapshots.save(tmp_path, {"power_0.05": iterate(1)}, 1, PRINT)


DIGITS = str(Path(__file__).parents[1] / "configs" / "digits.py") + ":tiny"
PLANE = [("data", "{'name': 'mixture'}"), ("prepare", "{'name': 'as_is'}"), ("network", "{'name': 'MLP', 'width': 8}"),
         ("objective", "{'name': 'denoising'}"), ("ema", "('decay_0.9', 'power_0.05', 'power_0.1')")]


def test_a_run_is_sampled_with_an_average_that_it_did_not_keep(tmp_path, capsys):
    assert main(["train", f"--config={DIGITS}", f"--workdir={tmp_path}",
                 *(f"--config.{key}={value}" for key, value in PLANE)]) == 0
    sample = lambda ema, *more: main(["sample", f"--workdir={tmp_path}", "--num=2", f"--ema={ema}", *more])
    assert sample("power_0.15") == 2
    assert "no such average; did you mean 'power_0.1" in capsys.readouterr().err
    _snapshots_of(tmp_path)
    assert sample("power_0.15") == 0
    assert "of step 2 (power_0.15, " in capsys.readouterr().out
    assert sample("power_0.15", "--checkpoint=1") == 0
    for ema, words in (("decay_0.99", "did you mean"), ("power_x", "needs a number"), ("power_0.9", "longer")):
        assert sample(ema) == 2
        told = capsys.readouterr().err
        assert words in told and told.count("\n") == 1
        assert ("its snapshots of steps 1 to 2 make every power average" in told) == (ema == "decay_0.99")


def _snapshots_of(folder):
    """Keeps what a run's checkpoints hold, as the run would."""
    config = experiment.from_json(json.loads((folder / "config.json").read_text()))
    made = experiment.model(config, experiment.examples(folder, config))
    save = snapshots.saver(folder, PRINT)
    for step in (1, 2):
        _, trees = checkpoint.restore(checkpoint.opened(str(folder), None), {"ema": made.shapes(None).ema}, step=step)
        assert save(train.State(jnp.int32(step), {}, trees["ema"], ()), step)


@pytest.mark.parametrize(("images", "ema", "steps"), [
    (None, "('decay_0.9',)", None), (16, "('power_0.05',)", 1), (100, "('decay_0.9', 'power_0.1')", 6),
    (15, "('power_0.05',)", "must be at least config.batch=16, got 15"),
    (100, "('decay_0.9',)", r"config.ema has none; EDM2 has config.ema=\('power_0.05', 'power_0.1'\)"),
])
def test_snapshots_are_due_every_so_many_images(images, ema, steps):
    config = overrides.apply(overrides.load(DIGITS), [("ema", ema)])
    with config.unlocked():
        config.ema_snapshot_every_images = images
    if isinstance(steps, str):
        with pytest.raises(ValueError, match=steps):
            experiment.snapshot_steps(config)
    else:
        assert experiment.snapshot_steps(config) == steps
