"""`jaxdiff evaluate` over a grid: every cell one row, whatever interrupts it and wherever it runs."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import together
from jaxdiff import processes, workdir
from jaxdiff.main import main
from jaxdiff.verbs import likely

DIGITS = str(Path(__file__).parents[1] / "configs" / "digits.py") + ":tiny"
JUDGED = ["--num=24", "--config.sample.batch=8"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "digits"
    assert main(["train", f"--config={DIGITS}", f"--workdir={run}", "--config.ema=('decay_0.9', 'decay_0.5')",
                 f"--config.network={together.NETWORK!r}", "--config.save_every_steps=1"]) == 0
    return run


@pytest.fixture
def run(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "digits"))


def evaluate(folder, *words):
    return main(["evaluate", f"--workdir={folder}", *JUDGED, *words])


def rows(folder):
    return list(workdir.rows(folder / "eval" / "results.jsonl"))


def figures(folder):
    return {row["cell"]: row["metrics"] for row in rows(folder)}


def test_every_combination_has_a_row_and_is_made_once(run, capsys):
    grid = ["--checkpoints=1,2", "--ema=decay_0.9,decay_0.5", "--sampler=heun,ddim", "--steps=2", "--guidance=1,2"]
    assert evaluate(run, *grid) == 0
    out = capsys.readouterr().out
    found = rows(run)
    assert len(found) == len({row["cell"] for row in found}) == 16
    told = {(row["checkpoint"], row["ema"], row["sampler"]["name"], row["guidance"]) for row in found}
    assert told == {(step, ema, sampler, scale) for step in (1, 2) for ema in ("decay_0.9", "decay_0.5")
                    for sampler in ("heun", "ddim") for scale in (1.0, 2.0)}
    for row in found:
        calls = {"heun": 3, "ddim": 2}[row["sampler"]["name"]]
        assert (row["nfe"], row["network_evaluations"]) == (calls, calls * (1 + (row["guidance"] != 1)))
    assert "cell 16 of 16" in out and "24 images against 24; mean (minimum) over seeds" in out
    for axis in ("step", "evaluations", "guidance"):
        assert (run / "eval" / f"fd_pixels_against_{axis}.png").stat().st_size > 1000
    assert evaluate(run, *grid) == 0
    assert len(rows(run)) == 16 and "cell 1 of" not in capsys.readouterr().out


def test_as_many_images_are_compared_on_each_side_as_the_smaller_has(run, capsys):
    """The digits config asks for it: a distance falls with n, and so does the floor beside it."""
    assert evaluate(run, "--num=400", "--config.sample.batch=100", "--steps=2") == 0
    row, = rows(run)
    assert row["num"] == 400 and row["n"]["made"] == row["n"]["real"] < 400
    out = capsys.readouterr().out
    assert f"{row['n']['real']} images against {row['n']['real']}" in out and "of 400 (95 %" in out


def test_seeds_are_told_by_mean_and_minimum_and_a_grown_grid_makes_what_is_new(run, capsys):
    assert evaluate(run, "--steps=2") == 0
    assert evaluate(run, "--steps=2,3", "--seeds=2") == 0
    found = rows(run)
    assert [(row["steps"], row["seed"]) for row in found] == [(2, 1), (2, 2), (3, 1), (3, 2)]
    distances = [row["metrics"]["fd_pixels"] for row in found]
    assert len(set(distances)) == 4
    out = capsys.readouterr().out
    for two in (distances[:2], distances[2:]):
        assert f"{np.mean(two):.4g} ({min(two):.4g})" in out


def test_a_row_is_stamped_with_all_that_its_figures_depend_on(run):
    assert evaluate(run, "--metrics=fid,kid,precision_recall,vendi,memorisation") == 0
    row, = rows(run)
    assert row["checkpoint"] == 2 and row["ema"] == "decay_0.9" and row["num"] == 24 and row["seed"] == 1
    assert row["extractors"]["digits"]["protocol"] == "signed" and len(row["extractors"]["digits"]["sha256"]) == 64
    assert row["n"] == {"made": 24, "real": 24} and row["reference"]["data"]["name"] == "digits"
    assert row["matmul_precision"] == "default" and row["generator"] == "threefry2x32"
    assert row["device"] == {"kind": "cpu", "count": 1, "platform": "cpu"} and row["processes"] == 1
    assert {"jax", "jaxlib", "flax", "numpy"} <= set(row["versions"]) and row["time"].endswith("Z")
    assert len(row["config"]) == len(row["weights"]) == 16
    assert row["seconds"] > 0 and row["images_per_second"] > 0
    for name in ("fd_pixels", "kid_digits", "precision_pixels", "recall_digits", "vendi_pixels", "copied_digits"):
        assert np.isfinite(row["metrics"][name]), name
    assert Path(row["closest"]).exists()


def test_an_interrupted_cell_goes_on_and_has_the_same_figures_to_the_bit(run, tmp_path, monkeypatch, capsys):
    """G21: elsewhere evaluation found pictures of an earlier run in the folder and scored those."""
    whole = Path(shutil.copytree(run, tmp_path / "whole"))
    assert evaluate(whole, "--sampler=heun,ancestral") == 0
    for batch in (2, 4):  # a notice within the first cell, and within the second
        monkeypatch.setattr(processes, "preempted", lambda step, batch=batch: step == batch)
        with pytest.raises(SystemExit) as caught:
            evaluate(run, "--sampler=heun,ancestral")
        assert caught.value.code == processes.AGAIN and "preempted" in capsys.readouterr().err
        assert list((run / "eval" / "partial").glob("*/*.npz"))
    assert len(rows(run)) == 1
    monkeypatch.setattr(processes, "preempted", lambda step: False)
    assert evaluate(run, "--sampler=heun,ancestral") == 0
    assert figures(run) == figures(whole) and len(figures(run)) == 2
    assert not list((run / "eval" / "partial").iterdir())


def test_steps_of_preemption_never_fall():
    """jax names a step to end at, which a counter that starts anew in every cell would not reach."""
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "preempted", asked.append)
        leaving = processes.polls()
        for _ in range(5):
            leaving()
    assert asked == [1, 2, 3, 4, 5]


def test_watching_ends_with_the_run(run, capsys):
    """It judges what is there, sees that training is done, and draws the whole table."""
    assert evaluate(run, "--watch") == 0
    assert [row["checkpoint"] for row in rows(run)] == [1, 2]
    assert "training is done, and every checkpoint is judged" in capsys.readouterr().out


def test_watching_a_run_that_failed_or_fell_silent_is_status_1(run, capsys, tmp_path):
    with open(run / "run.jsonl", "a") as file:
        file.write(json.dumps({"event": "start", "attempt": 2}) + "\n")
    assert evaluate(run, "--watch", "--patience=0") == 1
    assert "nothing came for 0 minutes: 2 checkpoints are judged" in capsys.readouterr().out
    with open(run / "run.jsonl", "a") as file:
        file.write(json.dumps({"event": "end", "attempt": 2, "status": 1}) + "\n")
    assert evaluate(run, "--watch") == 1
    assert "training ended with status 1; 2 checkpoints are judged" in capsys.readouterr().out
    assert evaluate(tmp_path / "never", "--watch", "--patience=0") == 1
    assert "no run has begun in" in capsys.readouterr().err and not (tmp_path / "never").exists()


def test_checkpoints_that_come_while_it_watches_are_judged(run, monkeypatch):
    """Step 2 is not there at the first look, and the run goes on."""
    later = run / "checkpoints" / "2"
    hidden = run / "later"
    later.rename(hidden)
    lines = (run / "run.jsonl").read_text().splitlines(keepends=True)
    (run / "run.jsonl").write_text(lines[0])  # its start

    def passes(seconds):
        hidden.rename(later)
        (run / "run.jsonl").write_text("".join(lines))

    from jaxdiff.verbs import judging

    monkeypatch.setattr(judging.time, "sleep", passes)
    assert evaluate(run, "--watch") == 0
    assert [row["checkpoint"] for row in rows(run)] == [1, 2]


def test_two_processes_have_one_figure(run, tmp_path):
    alone = Path(shutil.copytree(run, tmp_path / "alone"))
    assert evaluate(alone) == 0
    command = [sys.executable, "-m", "jaxdiff", "evaluate", f"--workdir={run}", *JUDGED]
    ended = together.run(command, tmp_path / "out", count=2, devices=2)
    assert [one.status for one in ended] == [0, 0], ended[0].err[-2000:]
    (row,), (usual,) = rows(run), rows(alone)
    assert row["cell"] == usual["cell"] and row["processes"] == 2 and row["device"]["count"] == 4
    for name, value in usual["metrics"].items():
        assert row["metrics"][name] == pytest.approx(value, rel=1e-4), name
    assert row["accuracy"] == usual["accuracy"]


@pytest.mark.parametrize("devices", [4, 8])
def test_devices_have_one_figure(run, tmp_path, run_python, devices):
    """G17: elsewhere means of devices were averaged, so that a figure hung on how the batch fell."""
    alone = Path(shutil.copytree(run, tmp_path / "alone"))
    assert evaluate(alone) == 0
    run_python(f"""
        from jaxdiff.main import main
        assert main(["evaluate", "--workdir={run}", *{JUDGED!r}]) == 0
    """, devices=devices)
    (row,), (usual,) = rows(run), rows(alone)
    assert row["device"]["count"] == devices
    for name, value in usual["metrics"].items():
        assert row["metrics"][name] == pytest.approx(value, rel=1e-4), name


def test_bits_of_held_out_images_are_the_same_whatever_the_batch(run):
    assert evaluate(run, "--bits=5", "--steps=2", "--config.sample.batch=5") == 0
    assert evaluate(run, "--bits=5", "--steps=2", "--config.sample.batch=2") == 0
    assert len(rows(run)) == 1  # the batch is no part of what a cell is
    (run / "eval" / "results.jsonl").rename(run / "eval" / "first.jsonl")
    assert evaluate(run, "--bits=5", "--steps=2", "--config.sample.batch=2") == 0
    (first,), (again,) = list(workdir.rows(run / "eval" / "first.jsonl")), rows(run)
    assert first["bits"] == 5 and first["metrics"]["bits_per_dim_nfe"] == 8  # two steps of four calls
    for name in ("bits_per_dim", "bits_per_dim_error"):
        assert again["metrics"][name] == pytest.approx(first["metrics"][name], rel=1e-4)
    assert 0 < first["metrics"]["bits_per_dim"] < 32


def test_bits_of_a_byte_are_those_of_what_the_model_was_shown():
    """k is shown as k/127.5 - 1, and stands in the middle of its bin, of width 2/255."""
    k = np.arange(256.0)
    np.testing.assert_allclose(likely.spread(k + 0.5), k / 127.5 - 1, atol=1e-12)
    np.testing.assert_allclose(likely.spread(k + 1) - likely.spread(k), 2 / 255, rtol=1e-9)


# What cannot be.


@pytest.mark.parametrize(("words", "message"), [
    (["--checkpoints=7"], "no checkpoint 7 in"),
    (["--checkpoints=best"], "config.keep_best.metric names no metric to be best by"),
    (["--checkpoints=lsat"], "checkpoints are all, last, best, or steps such as 1000,2000; got 'lsat'"),
    (["--ema=decay_0.4"], "the run keeps no such average; did you mean 'decay_0.9'?"),
    (["--sampler=heun,hune"], "unknown samplers 'hune'; did you mean 'heun'?"),
    (["--steps=2,x"], "sizes are whole numbers"),
    (["--seeds=0"], "--seeds must be at least 1, got 0"),
    (["--metrics=fdi"], "unknown criteria 'fdi'; did you mean 'fid'?"),
    (["--metrics=sfid"], "--metrics=sfid reads spatial, which none of the features gives: pixels has features"),
    (["--features=pixles"], "unknown features 'pixles'; did you mean 'pixels'?"),
    (["--features=inception"], "these features need weights, and nothing is downloaded"),
    (["--protocol=tf1"], "--protocol=tf1: the features pixels, digits have no choice of protocols"),
    (["--reference=nothing.npz"], "--reference=nothing.npz: no such file"),
    (["--bits=1"], "--bits must be at least 2 images"),
    (["--bits=5000"], "--bits=5000: there are only"),
    (["--bits=5", "--config.held_out=None"], "config.held_out"),
    (["--metrics=memorisation", "--config.held_out=None"], "config.held_out"),
    (["--metrics=ssim"], "--metrics=ssim compares pairs, and a run's samples have no partners"),
])
def test_what_makes_no_sense_is_one_line_before_anything_is_drawn(trained, capsys, monkeypatch, words, message):
    monkeypatch.delenv("JAXDIFF_WEIGHTS", raising=False)
    assert evaluate(trained, *words) == 2
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if line.startswith("jaxdiff: ")]
    assert len(lines) == 1 and message in lines[0], err
    assert not (trained / "eval").exists()
