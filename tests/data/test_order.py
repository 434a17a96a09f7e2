"""The laws of the order of examples."""

import itertools
import json
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

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
