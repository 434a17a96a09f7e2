"""All pairs, block by block: the same neighbours as one matrix of float64 distances has."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metrics import inputs

from jaxdiff.metrics import nearest, nearest_others, pairwise


def rows(n, d=8, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


def distances(a, b):
    return np.sqrt(((a[:, None].astype(np.float64) - b[None]) ** 2).sum(-1))


@pytest.mark.parametrize("shift", [0, 100])
@pytest.mark.parametrize(("n", "m", "d"), [(1, 1, 1), (30, 1, 4), (3, 200, 8), (150, 90, 32), (20, 4, 2)])
def test_the_nearest_is_that_of_all_distances(n, m, d, shift):
    a, b = rows(n, d) + np.float32(shift), rows(m, d, 1) + np.float32(shift)
    right, found = distances(a, b), nearest(a, b)
    np.testing.assert_array_equal(found.indices, right.argmin(1))
    np.testing.assert_allclose(found.distances, right.min(1), rtol=1e-12)
    assert found.distances.dtype == np.float64


@pytest.mark.parametrize("n", [2, 3, 120])
def test_the_nearest_other_is_never_the_row_itself(n):
    x = rows(n)
    right = distances(x, x)
    np.fill_diagonal(right, np.inf)
    found = nearest_others(x)
    np.testing.assert_array_equal(found.indices, right.argmin(1))
    np.testing.assert_allclose(found.distances, right.min(1), rtol=1e-12)


def test_a_copy_is_at_distance_zero_and_of_equal_ones_the_first_is_taken():
    x = np.concatenate([rows(40), rows(40)])
    found, others = nearest(x[55:60], x), nearest_others(x)
    np.testing.assert_array_equal(found.indices, np.arange(15, 20))
    np.testing.assert_array_equal(found.distances, 0)
    np.testing.assert_array_equal(others.indices, (np.arange(80) + 40) % 80)
    np.testing.assert_array_equal(others.distances, 0)


def test_neighbours_that_float32_cannot_tell_apart_are_measured_again():
    """Distances of 1e-4 between points of length 1,000: float32 squares leave nothing of them."""
    rng = np.random.default_rng(0)
    centre = rng.standard_normal((6, 16)) * 1000
    among = np.concatenate([centre + 2e-4 * rng.standard_normal(centre.shape), centre + 1e-3])
    np.testing.assert_array_equal(nearest(centre, among).indices, np.arange(6))


@settings(max_examples=25)
@given(st.integers(1, 40), st.integers(1, 30), st.integers(1, 500))
def test_tiles_cover_every_row_once_and_are_of_one_size(n, width, cells):
    x, seen, sizes = np.arange(2.0 * n).reshape(n, 2), [], set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairwise, "CELLS", cells)
        for start, count, block in pairwise.tiles(x, width):
            assert len(block) * width <= max(cells, width)
            np.testing.assert_array_equal(block[count:], np.repeat(block[count - 1:count], len(block) - count, 0))
            seen += [*zip(range(start, start + count), block[:count].tolist(), strict=True)]
            sizes.add(len(block))
    assert seen == [*enumerate(x.tolist())] and len(sizes) == 1


def test_the_block_makes_no_difference(monkeypatch):
    whole = nearest(rows(50), rows(70, seed=1)), nearest_others(rows(50))
    for cells in (1, 140, 700):
        monkeypatch.setattr(pairwise, "CELLS", cells)
        for found, right in zip((nearest(rows(50), rows(70, seed=1)), nearest_others(rows(50))), whole, strict=True):
            np.testing.assert_array_equal(found.indices, right.indices)
            np.testing.assert_array_equal(found.distances, right.distances)


def test_squared_distances_are_float32_good_and_not_below_zero():
    real, fake, _ = inputs.clouds()
    a, b = pairwise.centred(real, fake)
    found = np.asarray(pairwise.squared(a, b))
    np.testing.assert_allclose(found, distances(real, fake) ** 2, rtol=1e-5)
    own = np.asarray(pairwise.squared(a, a))
    assert own.min() == 0 and np.all(np.diag(own) == 0)


def test_centring_moves_both_sets_by_the_mean_of_the_first():
    a, b = pairwise.centred(rows(9) + 5, rows(4, seed=1))
    np.testing.assert_allclose(a.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(b, rows(4, seed=1) - (rows(9) + 5).mean(0), atol=1e-6)


def test_rows_are_flattened_and_named_where_they_are_not_finite():
    assert pairwise.rows_of(np.zeros((4, 2, 3)), "made").shape == (4, 6)
    with pytest.raises(ValueError, match=r"made features need at least 3 rows \[n, d\], got shape \(2, 5\)"):
        pairwise.rows_of(np.zeros((2, 5)), "made", least=3)
    with pytest.raises(ValueError, match="2 of 4 rows of real features are not finite"):
        pairwise.rows_of(np.array([[1.0], [np.inf], [np.nan], [2]]), "real")
    with pytest.raises(ValueError, match="features of 5 and of 8 dimensions do not compare"):
        nearest(rows(3), rows(3, 5))
    with pytest.raises(ValueError, match="given features need at least 2 rows"):
        nearest_others(rows(1))
