"""The laws of the order of examples."""

import itertools
import json
import os
import subprocess
import sys
import threading
import time

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from jaxdiff import data


def numbers(count):
    return {"id": np.arange(count), "square": np.arange(count, dtype=np.float32)[:, None] ** 2}


class Slow:
    """The same examples, one at a time, as a file source gives them."""

    def __init__(self, count, seconds=0.0):
        self.count, self.seconds = count, seconds

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        time.sleep(self.seconds)
        return {"id": np.int64(index), "square": np.array([index**2], np.float32)}


def ids(stream, steps):
    return np.stack([batch["id"] for batch in itertools.islice(stream, steps)])


def test_a_batch_depends_on_seed_and_step_alone():
    one = data.batches(numbers(100), batch=8, seed=3)
    two = data.batches(numbers(100), batch=8, seed=3)
    np.testing.assert_array_equal(ids(one(0), 40), ids(two(0), 40))
    assert (ids(one(0), 12) != ids(data.batches(numbers(100), batch=8, seed=4)(0), 12)).any()


def test_columns_stay_together():
    batch = next(data.batches(numbers(50), batch=16)(7))
    np.testing.assert_array_equal(batch["square"][:, 0], batch["id"].astype(np.float32) ** 2)
    assert batch["square"].shape == (16, 1) and batch["square"].dtype == np.float32


@pytest.mark.parametrize("source", [numbers(37), Slow(37)], ids=["columns", "objects"])
@pytest.mark.parametrize("split", [
    [range(16)],
    [range(8), range(8, 16)],
    [[0, 1, 6, 15], [2, 3, 4, 5], [14, 7, 9, 8], [10, 11, 12, 13]],
    [[0, 1, 2, 3], [0, 1, 2, 3], range(4, 16)],  # rows that two processes share
], ids=["one", "two", "torus", "shared"])
def test_rows_of_several_processes_are_the_rows_of_one(source, split):
    whole = ids(data.batches(numbers(37), batch=16, seed=1)(5), 6)
    for rows in split:
        part = ids(data.batches(source, batch=16, seed=1, rows=rows)(5), 6)
        np.testing.assert_array_equal(part, whole[:, list(rows)])


@pytest.mark.parametrize("source", [numbers(30), Slow(30)], ids=["columns", "objects"])
def test_resuming_equals_continuing(source):
    make = data.batches(source, batch=7, seed=2)
    np.testing.assert_array_equal(ids(make(0), 20)[11:], ids(make(11), 9))


@pytest.mark.parametrize("count", [10_007, 64, 3], ids=["straddles", "fits", "smaller than a batch"])
def test_an_epoch_holds_every_example_once(count):
    stream = ids(data.batches(numbers(count), batch=4, seed=0)(0), -(-2 * count // 4)).ravel()
    first, second = stream[:count], stream[count:2 * count]
    np.testing.assert_array_equal(np.sort(first), np.arange(count))
    np.testing.assert_array_equal(np.sort(second), np.arange(count))
    assert count < 10 or (first != second).mean() > 0.9


def test_epochs_of_seeds_side_by_side_are_unrelated():
    epoch = {(seed, e): ids(data.batches(numbers(50), batch=50, seed=seed)(e), 1).ravel()
             for seed in (0, 1) for e in (0, 1)}
    assert (epoch[0, 1] != epoch[1, 0]).any()  # seed + epoch would make them equal


def test_every_example_meets_every_place_equally_often():
    count, epochs = 8, 4_000
    places = ids(data.batches(numbers(count), batch=count, seed=9)(0), epochs)
    table = np.stack([(places == i).sum(0) for i in range(count)])
    chi2 = ((table - epochs / count) ** 2 / (epochs / count)).sum()
    assert chi2 < 85  # 49 degrees of freedom: exceeded with probability .001


def test_without_shuffling_the_order_is_the_source_s():
    np.testing.assert_array_equal(ids(data.batches(numbers(5), batch=4, shuffle=False)(0), 3).ravel(),
                                  np.arange(12) % 5)


def test_a_far_step_is_found_at_once():
    start = time.perf_counter()
    next(data.batches(numbers(10_007), batch=256)(10_000_000))
    next(data.batches(Slow(10_007), batch=256)(10_000_000))
    assert time.perf_counter() - start < 1


def test_small_images_cost_less_than_two_milliseconds_a_batch():
    stream = data.batches(data.digits(), batch=128)(0)
    next(stream)
    start = time.process_time()
    for _ in range(200):
        next(stream)
    assert (time.process_time() - start) / 200 < 2e-3


def test_readers_work_in_parallel_and_end_with_their_iterator():
    make = data.batches(Slow(64, seconds=2e-3), batch=16)
    before = threading.active_count()
    stream = make(0)
    start = time.perf_counter()
    ids(stream, 16)
    assert time.perf_counter() - start < 16 * 16 * 2e-3  # one thread would need .51 s
    for start in range(20):
        next(make(start))
    del stream
    deadline = time.perf_counter() + 5
    while threading.active_count() > before and time.perf_counter() < deadline:
        time.sleep(0.02)
    assert threading.active_count() <= before


def test_a_process_ends_while_readers_are_ahead_and_needs_no_parsed_flags():
    code = """
import sys, time
import numpy as np
from absl import flags
from jaxdiff import data
class Slow:
    def __len__(self): return 1000
    def __getitem__(self, index): time.sleep(.005); return {"id": np.int64(index)}
stream = data.batches(Slow(), batch=16)(0)
next(stream)
assert not flags.FLAGS.is_parsed() and "tensorflow" not in sys.modules
print(time.time())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert time.time() - float(done.stdout) < 5


def test_an_error_of_a_reader_arrives():
    class Broken(Slow):
        def __getitem__(self, index):
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        next(data.batches(Broken(4), batch=2)(0))


def test_fingerprint_sees_what_changes_the_batches():
    source = numbers(9)
    base = data.fingerprint(source, seed=1, batch=4)
    assert json.loads(json.dumps(base)) == base == data.fingerprint(Slow(9), seed=1, batch=4)
    assert base["examples"] == 9 and base["seed"] == 1 and base["batch"] == 4 and len(base["sha256"]) == 16
    changed = numbers(9)
    changed["square"][-1] += 1
    others = [changed, {"id": source["id"], "other": source["square"]},
              {**source, "square": source["square"].astype(np.float64)}, {**source, "square": source["square"][:, 0]}]
    digests = {data.fingerprint(other, seed=1, batch=4)["sha256"] for other in others}
    assert len(digests | {base["sha256"]}) == 5


@pytest.mark.parametrize(("options", "message"), [
    ({"batch": 0}, "batch must be at least 1, got 0"),
    ({"batch": 4, "seed": -1}, r"seed must be in 0\.\.2\^32 - 1, got -1"),
    ({"batch": 4, "rows": [0, 4]}, r"rows must be some of 0\.\.3, .* got \(0, 4\)"),
    ({"batch": 4, "rows": []}, r"rows must be some of"),
    ({"batch": 4, "threads": -1}, "threads must be at least 0, got -1"),
    ({"batch": 4, "workers": -1}, "workers must be at least 0, got -1"),
])
def test_numbers_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        data.batches(numbers(8), **options)


def test_sources_that_are_none():
    with pytest.raises(ValueError, match="the source has no examples"):
        data.batches({"id": np.arange(0)}, batch=4)
    with pytest.raises(ValueError, match="the source has no examples"):
        data.batches(Slow(0), batch=4)
    with pytest.raises(ValueError, match="columns of a source must be equally long, got .*'a': 3, 'b': 4"):
        data.batches({"a": np.arange(3), "b": np.arange(4)}, batch=4)
    with pytest.raises(ValueError, match="a source is a dict of columns or has __len__ and __getitem__, got 7"):
        data.batches(7, batch=4)
    with pytest.raises(ValueError, match="batches start at a step >= 0, got -1"):
        data.batches(numbers(8), batch=4)(-1)


def test_examples_of_different_shapes():
    class Ragged(Slow):
        def __getitem__(self, index):
            return {"image": np.zeros((index + 1, 2, 3), np.uint8)}

    with pytest.raises(ValueError, match=r"examples 0 and 1 differ in shape: 'image' is \(1, 2, 3\) and \(2, 2, 3\)"):
        next(data.batches(Ragged(4), batch=2, shuffle=False)(0))


# Split over processes, read by others.


@hypothesis.given(count=strategies.integers(1, 300), batch=strategies.integers(1, 12), seed=strategies.integers(0, 9),
                  epochs=strategies.integers(1, 3), which=strategies.randoms(use_true_random=False))
@hypothesis.settings(max_examples=60)
def test_over_any_change_of_processes_an_epoch_misses_and_repeats_nothing(count, batch, seed, epochs, which):
    """A run goes on by 1, 2 and 4 processes in turn, whose rows are any parts of the batch."""
    steps = -(-count * epochs // batch)
    cuts = sorted(which.randint(0, steps) for _ in range(2))
    seen = np.empty((steps, batch), int)
    for processes, start, end in zip((1, 2, 4), (0, *cuts), (*cuts, steps), strict=True):
        order = list(range(batch))
        which.shuffle(order)
        for rows in filter(None, (order[i::processes] for i in range(processes))):
            stream = data.batches(numbers(count), batch=batch, seed=seed, rows=rows)(start)
            for step in range(start, end):
                seen[step, rows] = next(stream)["id"]
    for epoch in seen.ravel()[:count * epochs].reshape(epochs, count):
        assert sorted(epoch) == list(range(count))


class Failing(Slow):
    """As a folder with one broken file."""

    def __getitem__(self, index):
        if index == 100:
            raise ValueError("cannot decode 'b.png': image file is truncated")
        return super().__getitem__(index)


class Killed(Slow):
    """As a decoder that brings down its process."""

    def __getitem__(self, index):
        if index == 100:
            os.kill(os.getpid(), 9)
        return super().__getitem__(index)


def test_worker_processes_give_the_same_batches_from_any_step():
    options = {"batch": 16, "seed": 1, "rows": [3, 4, 11]}
    plain = ids(data.batches(numbers(37), **options)(0), 12)
    np.testing.assert_array_equal(ids(data.batches(Slow(37), workers=2, **options)(5), 7), plain[5:])
    np.testing.assert_array_equal(ids(data.batches(Slow(37), workers=1, threads=0, **options)(0), 7), plain[:7])


def test_columns_are_read_without_workers():
    made = data.batches(numbers(37), batch=4, workers=4)
    assert made.workers == made.threads == 0


@pytest.mark.parametrize("reading", ["threads=0", "threads=3", "workers=2"])
def test_what_a_reader_raises_comes_in_its_place(reading):
    kind, number = reading.split("=")
    stream = data.batches(Failing(200), batch=16, shuffle=False, **{kind: int(number)})(0)
    assert [int(next(stream)["id"][0]) for _ in range(6)] == [0, 16, 32, 48, 64, 80]
    with pytest.raises(ValueError, match=r"cannot decode 'b\.png'"):
        next(stream)


def test_a_worker_that_is_killed_ends_the_run():
    stream = data.batches(Killed(200), batch=16, shuffle=False, workers=2)(0)
    with pytest.raises(RuntimeError, match="exit code -9"):
        ids(stream, 7)


# Ahead of the device.


class Counted:
    """An iterator that says what was asked of it."""

    def __init__(self, count, fails=None):
        self.at, self.count, self.fails, self.closed = 0, count, fails, False

    def __iter__(self):
        return self

    def __next__(self):
        if self.at == self.fails:
            raise OSError(f"broken at {self.at}")
        if self.at == self.count:
            raise StopIteration
        self.at += 1
        return self.at - 1

    def close(self):
        self.closed = True


@pytest.mark.parametrize("depth", [0, 1, 2, 5])
def test_so_many_batches_are_put_before_they_are_asked_for(depth):
    source, put = Counted(4), []
    stream = data.ahead(source, lambda i: put.append(i) or 10 * i, depth=depth)
    assert not put and next(stream) == 0 and put == list(range(min(1 + depth, 4)))
    assert next(stream) == 10 and put == list(range(min(2 + depth, 4)))
    assert list(stream) == [20, 30] and source.closed


def test_an_error_ahead_waits_for_the_batches_before_it():
    source = Counted(9, fails=4)
    stream = data.ahead(source, lambda i: i, depth=3)
    assert [next(stream) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(OSError, match="broken at 4"):
        next(stream)
    assert source.closed and next(stream, None) is None

    def put(i):
        if i == 1:
            raise ValueError("does not fit")
        return i

    stream = data.ahead(Counted(9), put)
    assert next(stream) == 0
    with pytest.raises(ValueError, match="does not fit"):
        next(stream)


def test_a_dropped_iterator_closes_what_it_reads():
    source = Counted(9)
    stream = data.ahead(source, lambda i: i)
    next(stream)
    del stream
    assert source.closed
    with pytest.raises(ValueError, match="depth must be at least 0, got -1"):
        data.ahead(source, lambda i: i, depth=-1)
