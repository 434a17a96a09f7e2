"""The command: three verbs that work, and one clear line for everything that cannot."""

import json
import os
import shutil
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from PIL import Image

from jaxdiff import workdir
from jaxdiff.main import main

DIGITS = str(Path(__file__).parents[1] / "configs" / "digits.py") + ":tiny"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two steps; tests that damage it take a copy."""
    workdir = tmp_path_factory.mktemp("runs") / "digits"
    assert main(["train", f"--config={DIGITS}", f"--workdir={workdir}", "--config.picture_every_steps=2",
                 "--config.tensorboard=True"]) == 0
    return workdir


@pytest.fixture
def copied(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "digits"))


def snapshot(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def refused(capsys, *words):
    """Runs the command, which must end with status 2 and one line; returns the line."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("jaxdiff: ")]
    assert len(lines) == 1 and "Traceback" not in err + out
    return lines[0]


# What works.


@pytest.mark.smoke
def test_training_leaves_what_the_readme_promises(trained):
    for name in ("config.json", "run.json", "metrics.jsonl", "checkpoints/2/ema", "pictures/00000002.png"):
        assert (trained / name).exists(), name
    assert list((trained / "tensorboard").glob("events.*"))
    about = json.loads((trained / "run.json").read_text())
    assert about["parameters"] > 1000 and about["device"]["platform"] == "cpu" and about["versions"]["jax"]
    assert about["config"]["network"]["num_classes"] == 10 and about["fingerprint"]["batch"] == 16
    lines = [row for row in workdir.rows(trained / "metrics.jsonl") if "event" not in row]
    assert [line["step"] for line in lines] == [1, 2] and all(np.isfinite(line["loss"]) for line in lines)


@pytest.mark.smoke
def test_samples_are_arrays_and_a_picture(copied, capsys):
    assert main(["sample", f"--workdir={copied}", "--num=20", "--label=3"]) == 0
    assert "20 samples of step 2 (decay_0.995, 3 evaluations each)" in capsys.readouterr().out
    with np.load(copied / "samples.npz") as made:
        assert made["samples"].shape == (20, 8, 8, 1) and made["samples"].dtype == np.uint8
        assert (made["labels"] == 3).all()
    assert Image.open(copied / "samples.png").mode == "L"


def test_the_same_command_draws_the_same_samples(copied, tmp_path):
    for name in ("a", "b"):
        assert main(["sample", f"--workdir={copied}", "--num=5", f"--out={tmp_path / name}"]) == 0
    assert main(["sample", f"--workdir={copied}", "--num=5", f"--out={tmp_path / 'c'}", "--seed=1"]) == 0
    a, b, c = (np.load(tmp_path / name / "samples.npz") for name in "abc")
    np.testing.assert_array_equal(a["samples"], b["samples"])
    assert (a["samples"] != c["samples"]).any()
    assert list(a["labels"]) == [0, 1, 2, 3, 4]


def test_sampler_steps_and_guidance_are_the_commands_to_change(copied, capsys):
    assert main(["sample", f"--workdir={copied}", "--num=4", "--sampler=ddim", "--steps=3", "--guidance=2"]) == 0
    assert "3 evaluations each" in capsys.readouterr().out
    assert main(["sample", f"--workdir={copied}", "--num=4", "--config.sampler={'name': 'ddim', 'eta': 1.0}"]) == 0
    assert main(["sample", f"--workdir={copied}", "--num=4", "--sampler=adaptive",
                 "--config.sample.precision=highest"]) == 0  # each sample has its own count: their mean is told


@pytest.mark.smoke
def test_a_result_row_names_its_whole_protocol(copied, capsys):
    assert main(["evaluate", f"--workdir={copied}", "--guidance=2", "--num=20"]) == 0
    out = capsys.readouterr().out
    assert "20 images against 20" in out and "matched noise" in out and "requested class recognised" in out
    (row,) = [json.loads(line) for line in (copied / "eval" / "results.jsonl").read_text().splitlines()]
    assert row["checkpoint"] == 2 and row["ema"] == "decay_0.995" and row["sampler"] == {"name": "heun"}
    assert row["steps"] == 2 and row["nfe"] == 3 and row["network_evaluations"] == 6 and row["guidance"] == 2.0
    assert row["matmul_precision"] == "default"
    for name in ("pixels", "digits"):
        distance, floor, ceiling = (row["metrics"][f"fd_{name}{end}"] for end in ("", "_floor", "_ceiling"))
        assert row["n"] == {"made": 20, "real": 20} and 0 < floor < ceiling and distance > floor
    assert 0 <= row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"] <= 1
    assert main(["evaluate", f"--workdir={copied}", "--num=20"]) == 0
    assert len((copied / "eval" / "results.jsonl").read_text().splitlines()) == 2


def test_the_report_draws_the_loss_and_prints_the_paths(copied, capsys):
    assert main(["report", f"--workdir={copied}"]) == 0
    out = capsys.readouterr().out
    assert str(copied / "loss.png") in out and "loss" in out and Image.open(copied / "loss.png")


def test_the_same_command_goes_on_and_a_finished_run_says_so(copied, capsys):
    train = ["train", f"--config={DIGITS}", f"--workdir={copied}"]
    assert main([*train, "--config.train_images=48", "--config.log_every_steps=1"]) == 0
    assert "going on from step 2 of 3" in capsys.readouterr().out
    assert main([*train, "--config.train_images=48"]) == 0
    assert "has finished its 3 steps" in capsys.readouterr().out


def test_mesh_durations_cadence_and_logging_may_change(copied):
    assert main(["train", f"--config={DIGITS}", f"--workdir={copied}", "--config.train_images=48",
                 "--config.save_every_steps=3", "--config.log_every_steps=2", "--config.keep_checkpoints=1",
                 "--config.mesh.data=1", "--config.picture_every_steps=0", "--config.tensorboard=False"]) == 0


def test_a_loss_that_is_not_finite_stops_the_run_with_status_1(tmp_path, capsys):
    status = main(["train", f"--config={DIGITS}", f"--workdir={tmp_path / 'run'}", "--config.train_images=480",
                   "--config.max_skipped=4", "--config.optimizer={'name': 'sgd', 'learning_rate': 1e30}",
                   "--config.save_every_steps=1"])
    err = capsys.readouterr().err
    assert status == 1
    assert "not finite 4 times in a row" in err and "the last good checkpoint is of step" in err
    lines = [row for row in workdir.rows(tmp_path / "run" / "metrics.jsonl") if "event" not in row]
    assert sum(line["skipped"] for line in lines) >= 4


# What cannot work.


@pytest.mark.parametrize("verb", ["sample", "evaluate", "report"])
def test_a_missing_workdir(capsys, tmp_path, verb):
    assert f"no run in {tmp_path / 'nothing'}" in refused(capsys, verb, f"--workdir={tmp_path / 'nothing'}")
    assert not (tmp_path / "nothing").exists()


def test_a_missing_workdir_beside_others(capsys, copied):
    line = refused(capsys, "sample", f"--workdir={copied.parent / 'digtis'}")
    assert f"there are {copied}" in line


class OutOfReach(PurePosixPath):
    """A folder of a bucket, offline."""

    def exists(self):
        raise RuntimeError("no such host\nand more")


@pytest.mark.parametrize("verb", ["train", "sample", "report"])
def test_a_bucket_that_is_out_of_reach_is_one_line_and_no_local_folder(capsys, tmp_path, monkeypatch, verb):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(workdir, "located", OutOfReach)
    config = [f"--config={DIGITS}"] if verb == "train" else []
    assert "the bucket cannot be reached (no such host)" in refused(capsys, verb, *config, "--workdir=gs://bucket/run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", ["train", "sample", "report"])
def test_a_workdir_below_a_file(capsys, tmp_path, verb):
    (tmp_path / "file").write_text("mine")
    config = [f"--config={DIGITS}"] if verb == "train" else []
    assert "is a file, not a folder" in refused(capsys, verb, *config, f"--workdir={tmp_path / 'file' / 'run'}")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("change", [
    "data.split=all", "network.channels=16", "process.sigma_max=50", "parameterization.sigma_data=0.7",
    "objective.drop=0.2", "optimizer.b2=0.9", "seed=1", "batch=32", "ema=('decay_0.5',)", "clip_norm=1.0",
])
def test_a_workdir_of_another_run(capsys, copied, change):
    before = snapshot(copied)
    key = change.partition("=")[0]
    if key == "process.sigma_max":
        change = "process={'name': 'EDM', 'sigma_max': 50.0}"
    line = refused(capsys, "train", f"--config={DIGITS}", f"--workdir={copied}", f"--config.{change}")
    assert f"holds a run with config.{key}=" in line and "choose another --workdir" in line
    assert snapshot(copied) == before


def test_an_unknown_precision_is_named(capsys, copied):
    line = refused(capsys, "sample", f"--workdir={copied}", "--config.sample.precision=hihgest")
    assert "config.sample.precision='hihgest'; did you mean 'highest'?" in line


def test_what_was_trained_cannot_be_changed_by_sampling(capsys, copied):
    line = refused(capsys, "sample", f"--workdir={copied}", "--config.network.channels=16")
    assert "--config.network.channels: that is what was trained" in line


def test_a_half_written_checkpoint(capsys, copied):
    (copied / "checkpoints" / "7").mkdir()
    before = snapshot(copied)
    line = refused(capsys, "sample", f"--workdir={copied}")
    assert "checkpoint 7 is damaged (half written" in line and "--checkpoint=2" in line
    assert snapshot(copied) == before
    assert main(["sample", f"--workdir={copied}", "--checkpoint=2", "--num=2"]) == 0


def test_corrupt_checkpoints(capsys, copied):
    for path in (copied / "checkpoints").glob("*/ema/d/*"):
        path.write_bytes(b"\0" * path.stat().st_size)
    assert "no sound checkpoint" in refused(capsys, "sample", f"--workdir={copied}")
    line = refused(capsys, "train", f"--config={DIGITS}", f"--workdir={copied}", "--config.train_images=48")
    assert "no sound checkpoint" in line
    assert (copied / "checkpoints" / "2").exists() and (copied / "checkpoints" / "1").exists()


def test_training_goes_on_from_the_newest_sound_checkpoint(capsys, copied):
    for path in (copied / "checkpoints" / "2").glob("params/d/*"):
        path.write_bytes(path.read_bytes()[:10])
    assert main(["train", f"--config={DIGITS}", f"--workdir={copied}"]) == 0
    assert "going on from step 1 of 2" in capsys.readouterr().out


def test_a_checkpoint_that_is_not_there(capsys, copied):
    assert "no checkpoint of step 5" in refused(capsys, "sample", f"--workdir={copied}", "--checkpoint=5")


def test_an_average_that_is_not_there(capsys, copied):
    line = refused(capsys, "sample", f"--workdir={copied}", "--ema=decay_0.9")
    assert "--ema=decay_0.9: the run keeps no such average; did you mean 'decay_0.995'?" in line


@pytest.mark.parametrize("label", ["10", "-1", "3,12"])
def test_a_label_out_of_range(capsys, copied, label):
    line = refused(capsys, "sample", f"--workdir={copied}", f"--label={label}")
    assert "out of range: this model has classes 0 to 9" in line


@pytest.mark.parametrize("verb", ["sample", "evaluate"])
@pytest.mark.parametrize("num", [0, -3])
def test_no_samples_at_all(capsys, copied, verb, num):
    assert "num" in refused(capsys, verb, f"--workdir={copied}", f"--num={num}")


@pytest.mark.parametrize(("words", "message"), [
    (["--steps=0"], "steps must be at least 1, got 0"),
    (["--sampler=huen"], "unknown samplers 'huen'; did you mean 'heun'?"),
    (["--config.sampler={'name': 'heun', 's_chrun': 1}"], "'heun' has no option 's_chrun'; did you mean 's_churn'?"),
    (["--config.sampler={'name': 'ddim', 'eta': 'x'}"], "option 'eta' of 'ddim' must be float, got 'x'"),
    (["--nmu=4"], "sample has no flag '--nmu=4'; did you mean '--num'?"),
    (["--num=four"], "argument --num: invalid int value: 'four'"),
    (["--label=three"], "labels are whole numbers"),
])
def test_flags_that_make_no_sense(capsys, copied, words, message):
    assert message in refused(capsys, "sample", f"--workdir={copied}", *words)


@pytest.mark.parametrize(("word", "message"), [
    ("trian_images=5", "config has no 'trian_images'; did you mean 'train_images'?"),
    ("batch=x", "--config.batch must be a whole number, got 'x'"),
    ("batch=0", "config.batch must be at least 1, got 0"),
    ("train_images=0", "config.train_images must be at least 1, got 0"),
    ("accumulate=3", "config.batch=16 does not split into config.accumulate=3 parts"),
    ("network.name=SongNet", "unknown networks 'SongNet'; did you mean 'SongUNet'?"),
    ("network.name=nowhere:Net", "cannot import 'nowhere'"),
    ("network.num_classes=5", "the data have label 9, the network has classes 0 to 4"),
    ("ema=('decay_2',)", "its number must lie between 0 and 1"),
    ("ema=('dekay_0.9',)", "unknown average 'dekay_0.9'; did you mean 'decay'?"),
    ("objective.drop=1.5", "drop must lie in [0, 1], got 1.5"),
    ("parameterization={'name': 'velocty'}", "unknown parameterization 'velocty'; did you mean 'velocity'?"),
    ("optimizer={'name': 'adam'}", "optimizer 'adam' still needs an option"),
    ("data={'name': 'folder', 'path': '/nowhere/at/all'}", "no folder '/nowhere'"),
    ("mesh.data=3", "does not cover"),
    ("guidance.chain=('classifer_free',)", "did you mean 'classifier_free'?"),
    ("times={'name': 'karras'}", "times 'karras' still needs an option, such as 'steps'"),
])
def test_a_config_is_checked_before_anything_compiles(capsys, tmp_path, word, message):
    line = refused(capsys, "train", f"--config={DIGITS}", f"--workdir={tmp_path / 'run'}", f"--config.{word}")
    assert message in line
    assert not (tmp_path / "run" / "config.json").exists()


def test_eps_is_refused_where_there_is_only_noise(capsys, tmp_path):
    line = refused(capsys, "train", f"--config={DIGITS}", f"--workdir={tmp_path / 'run'}",
                   "--config.process={'name': 'RectifiedFlow'}", "--config.parameterization={'name': 'eps'}")
    assert "parameterization 'eps' carries no x0 at t = 1, where RectifiedFlow is pure noise" in line


def test_a_folder_with_a_broken_image(capsys, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        Image.fromarray(np.full((8, 8), number * 80, np.uint8)).save(folder / f"{number}.png")
    broken = folder / "1.png"
    broken.write_bytes(broken.read_bytes()[:40])
    data = f"--config.data={{'name': 'folder', 'path': {str(folder)!r}}}"
    line = refused(capsys, "train", f"--config={DIGITS}", f"--workdir={tmp_path / 'run'}", data)
    assert str(broken) in line
    assert sorted(os.listdir(folder)) == ["0.png", "1.png", "2.png"]


def test_a_batch_that_does_not_divide_over_the_devices(run_python, tmp_path):
    run_python(f"""
        import contextlib, io
        from jaxdiff.main import main
        err = io.StringIO()
        with contextlib.redirect_stderr(err):
            status = main(["train", "--config={DIGITS}", "--workdir={tmp_path}/run", "--config.batch=18"])
        assert status == 2, err.getvalue()
        assert "a batch of 18 does not divide over 4 devices" in err.getvalue()
    """, devices=4)


@pytest.mark.parametrize("words", [[], ["trian"], ["train"], ["train", "--workdir=x"], ["sample"]])
def test_a_command_that_is_incomplete(capsys, words):
    assert "see jaxdiff" in refused(capsys, *words)


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["sample", "--help"], ["--version"]])
def test_help_and_version(capsys, words):
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 0 and "jaxdiff" in capsys.readouterr().out


def test_a_config_file_that_is_not_there(capsys, tmp_path):
    assert "no config file 'nothing.py'" in refused(capsys, "train", "--config=nothing.py", f"--workdir={tmp_path}")


def test_a_config_argument_it_does_not_take(capsys, tmp_path):
    config = DIGITS.replace(":tiny", ":tyni")
    assert "takes no argument 'tyni'" in refused(capsys, "train", f"--config={config}", f"--workdir={tmp_path}")


def test_an_average_that_was_not_kept_is_made_of_snapshots(tmp_path, capsys):
    run = tmp_path / "run"
    words = ["train", f"--config={DIGITS}", f"--workdir={run}", "--config.train_images=96",
             "--config.ema=('power_0.05', 'power_0.1')", "--config.ema_snapshot_every_images=32"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert sorted(path.name for path in (run / "ema_snapshots").iterdir()) == ["2", "4", "6"]
    assert "a device" in out and "optimizer: " in out  # the table of parameters
    assert main(["sample", f"--workdir={run}", "--num=4", "--ema=power_0.15"]) == 0
    assert "power_0.15" in capsys.readouterr().out
    assert "power_0.15" in refused(capsys, "sample", f"--workdir={run}", "--ema=decay_0.9")
