"""What a run tells, and what stops it."""

import io
import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxdiff import hooks, pace, report, train, workdir

STATE = train.State(jnp.int32(0), {}, {}, ())


def metrics(loss=1.0, skipped=0):
    return {"loss": jnp.float32(loss), "skipped": jnp.int32(skipped)}


def test_every_so_many_steps_and_the_last():
    called = []
    hook = hooks.every(3, lambda step, *_: called.append(step), last=7)
    for step in range(1, 8):
        hook(step, STATE, {})
    assert called == [3, 6, 7]


def test_zero_means_never():
    hook = hooks.every(0, lambda *_: pytest.fail("called"))
    hook(5, STATE, {})


def test_skipped_steps_in_a_row_stop_the_run_and_name_the_last_good_checkpoint():
    hook = hooks.guard(3, saved=lambda: 40)
    pattern = [1, 1, 0, 1, 1, 1, 1, 1]
    reasons = [hook(step, STATE, metrics(skipped=s)) for step, s in enumerate(pattern, 1)]
    first = next(i for i, reason in enumerate(reasons) if reason)
    assert first == 5  # the third in a row, not the third in all
    assert "3 times in a row, up to step 6; the last good checkpoint is of step 40" in reasons[first]


def test_single_skipped_steps_stop_nothing():
    hook = hooks.guard(2, saved=lambda: None)
    assert not any(hook(step, STATE, metrics(skipped=step % 2)) for step in range(1, 50))


def test_the_journal_keeps_full_precision_and_no_nan(tmp_path):
    journal = hooks.Journal(tmp_path / "metrics.jsonl")
    measured = pace.Pace(batch=4, devices=2, macs=100, peak=1e6)
    log = hooks.log([journal], measured)
    loss = np.float32(0.1) + np.float32(1e-7)
    measured.lap()
    log(1, STATE, metrics(loss))
    measured.lap()
    log(2, STATE, metrics(np.nan))
    journal.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert np.float32(lines[0]["loss"]) == loss and lines[0]["step"] == 1
    assert "images_per_second" not in lines[0]  # between one lap and none there is no time
    assert lines[1]["loss"] is None and lines[1]["images_per_second"] > 0
    assert lines[1]["images_per_second_per_device"] == pytest.approx(lines[1]["images_per_second"] / 2)
    assert lines[1]["mfu"] == pytest.approx(6 * 100 * lines[1]["images_per_second"] / 2e6)


def test_of_a_step_written_twice_the_last_line_counts():
    rows = [{"step": 2, "loss": 3.0}, {"step": 1, "loss": 9.0}, {"step": 2, "loss": 4.0}, {"step": 3, "loss": None}]
    assert [row["loss"] for row in report.latest(rows)] == [9.0, 4.0]


def test_a_line_cut_short_by_a_kill_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert list(workdir.rows(path)) == [{"step": 1, "loss": 2.0}]


def test_plain_lines_where_there_is_no_terminal():
    out = io.StringIO()
    hook = hooks.progress(10, 20, batch=8, lines_every=5, out=out)
    for step in range(11, 21):
        hook(step, STATE, metrics(0.5))
    lines = out.getvalue().splitlines()
    assert [line.split("  ")[0] for line in lines] == ["step 15/20", "step 20/20"]
    assert all("loss 0.5000" in line and "img/s" in line and "s left" in line for line in lines)


def test_a_bar_on_a_terminal():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    out = Terminal()
    hook = hooks.progress(0, 20, batch=8, lines_every=5, out=out)
    for step in range(1, 21):
        hook(step, STATE, metrics(0.5))
    assert "20/20" in out.getvalue() and "loss 0.5000" in out.getvalue() and "img/s" in out.getvalue()


def test_a_failed_save_is_noticed_at_every_step():
    def failed():
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        hooks.saving(lambda *_: None, failed, steps=100, last=1000)(1, STATE, {})


def test_saves_fall_on_their_steps_and_the_last():
    saved = []
    hook = hooks.saving(lambda state, step, metrics: saved.append(step), lambda: None, steps=4, last=10)
    for step in range(1, 11):
        assert hook(step, STATE, {}) is None
    assert saved == [4, 8, 10]


def test_pictures_are_files_and_go_to_the_writers(tmp_path):
    class Writer:
        def write_images(self, step, images):
            self.seen = step, images["samples"].shape

    writer = Writer()
    hooks.pictures(lambda state: np.zeros((4, 8, 8, 1), np.uint8), tmp_path / "pictures", [writer])(20, STATE, {})
    with Image.open(tmp_path / "pictures" / "00000020.png") as image:
        assert image.mode == "L" and image.width >= 256
        assert writer.seen == (20, (1, image.height, image.width, 1))


def test_a_grid_shows_every_image_once_and_unchanged():
    images = np.random.default_rng(0).integers(65, 255, (7, 5, 6, 3)).astype(np.uint8)
    grid = hooks.tile(images, columns=3, least=1)
    assert grid.shape == (3 * 6 + 1, 3 * 7 + 1, 3)
    for at, image in enumerate(images):
        top, left = at // 3 * 6 + 1, at % 3 * 7 + 1
        np.testing.assert_array_equal(grid[top:top + 5, left:left + 6], image)


def test_tensorboard_files_hold_what_was_written(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    writer = hooks.summaries(tmp_path)
    writer.write_scalars(3, {"loss": 0.25})
    writer.write_images(3, {"samples": np.zeros((1, 8, 8, 1), np.uint8)})
    writer.flush()
    writer.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert set(events.Tags()["tensors"]) >= {"loss", "samples"}
    (event,) = events.Tensors("loss")
    assert event.step == 3 and make_ndarray(event.tensor_proto) == 0.25


def test_the_loss_curve_is_a_picture(tmp_path):
    losses = report.loss_curve(({"step": s, "loss": 1 / s} for s in range(1, 30)), tmp_path / "loss.png")
    assert losses[0] == 1.0 and Image.open(tmp_path / "loss.png").size[0] > 600
    with pytest.raises(ValueError, match="no loss has been logged"):
        report.loss_curve([], tmp_path / "none.png")


def test_the_sparkline_falls_with_the_loss():
    bars = [report.BARS.index(c) for c in report.sparkline([100.0, 10.0, 1.0])]
    assert bars == sorted(bars, reverse=True) and bars[0] > bars[-1]
    assert len(report.sparkline(list(np.arange(1.0, 1000.0)), width=20)) == 20


def test_a_preempted_run_saves_where_it_is_and_stops():
    saved = []
    hook = hooks.saving(lambda state, step, metrics: saved.append(step), lambda: None, steps=4, last=10,
                        preempted=lambda step: step == 6)
    reasons = [hook(step, STATE, {}) for step in range(1, 7)]
    assert saved == [4, 6] and reasons == [None] * 5 + [hooks.PREEMPTED]


def test_a_run_that_is_preempted_at_its_last_step_is_done():
    hook = hooks.saving(lambda *_: None, lambda: None, steps=4, last=6, preempted=lambda step: True)
    assert hook(6, STATE, {}) is None


def test_the_first_step_is_waited_for_and_told_once():
    told = []
    hook = hooks.first(told.append)
    for step in (8, 9, 10):
        hook(step, STATE, metrics())
    assert told == [8]


def test_a_window_of_steps_is_profiled(tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(hooks.jax.profiler, "start_trace", lambda folder: called.append(f"start {folder}"))
    monkeypatch.setattr(hooks.jax.profiler, "stop_trace", lambda: called.append("stop"))
    hook = hooks.profiling(tmp_path, 3, 2)
    for step in range(1, 8):
        before = len(called)
        hook(step, STATE, metrics())
        assert len(called) - before == (step in (3, 5))
    assert called == [f"start {tmp_path}", "stop"]


def test_only_the_process_that_leads_writes_pictures_which_all_draw(tmp_path):
    drawn = []
    draw = lambda state: drawn.append(1) or np.zeros((4, 8, 8, 1), np.uint8)
    hooks.pictures(draw, tmp_path / "pictures", [], writes=False)(20, STATE, {})
    assert drawn and not (tmp_path / "pictures").exists()
