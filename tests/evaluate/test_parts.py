"""An interrupted evaluation goes on where it was, to the bit."""

import numpy as np
import pytest

from jaxdiff.evaluate import Parts


def rows(start, end):
    return {"digits/features": np.arange(2 * start, 2 * end, dtype=np.float32).reshape(-1, 2),
            "label": np.arange(start, end)}


def filled(folder, *ends, seconds=0.0):
    parts = Parts(folder, seconds=seconds)
    start = parts.read()
    for end in ends:
        parts.add(rows(start, end))
        start = end
    return parts


def same(found, wanted):
    assert set(found) == set(wanted)
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_what_was_written_is_taken_up(tmp_path):
    filled(tmp_path / "cell", 3, 7)
    parts = filled(tmp_path / "cell")
    assert parts.read() == 7
    same(parts.taken(), rows(0, 7))
    parts.add(rows(7, 9))
    same(parts.taken(), rows(0, 9))


def test_what_was_not_written_is_made_again(tmp_path):
    filled(tmp_path / "cell", 3, 7, seconds=1e9)
    assert Parts(tmp_path / "cell").read() == 0
    parts = filled(tmp_path / "cell", 3, 7, seconds=1e9)
    parts.write()
    assert Parts(tmp_path / "cell").read() == 7


@pytest.mark.parametrize("damage", [lambda data: data[:-20], lambda data: b"", lambda data: b"x" * len(data)])
def test_a_damaged_part_and_what_comes_after_it_are_made_again(tmp_path, damage):
    filled(tmp_path / "cell", 3, 7, 9)
    path = tmp_path / "cell" / "000000003-000000007.npz"
    path.write_bytes(damage(path.read_bytes()))
    parts = Parts(tmp_path / "cell")
    assert parts.read() == 3
    parts.add(rows(3, 9))
    parts.write()
    again = Parts(tmp_path / "cell")
    again.read()
    same({name: array[:9] for name, array in again.taken().items()}, rows(0, 9))


def test_a_broken_off_write_leaves_no_part(tmp_path):
    filled(tmp_path / "cell", 3)
    (tmp_path / "cell" / ".000000003-000000007.npz").write_bytes(b"half")
    assert Parts(tmp_path / "cell").read() == 3


def test_only_one_process_writes(tmp_path):
    parts = Parts(tmp_path / "cell", seconds=0.0, writes=False)
    parts.read()
    parts.add(rows(0, 4))
    same(parts.taken(), rows(0, 4))
    assert not (tmp_path / "cell").exists()


def test_nothing_is_left_behind(tmp_path):
    parts = filled(tmp_path / "cell", 3, 5)
    parts.discard()
    assert not (tmp_path / "cell").exists()
