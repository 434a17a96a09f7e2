"""Precision, recall, density and coverage: exactly the shares that the tools count."""

import numpy as np
import pytest
from metrics import inputs

from jaxdiff.metrics import density_coverage, manifold, pairwise, precision_recall

REAL, FAKE, _ = inputs.clouds()


def cloud(n, d, seed, scale=1.0, shift=0.0):
    mix = np.exp(-np.arange(d) / 10)
    return (shift + scale * np.random.default_rng(seed).standard_normal((n, d)) * mix).astype(np.float32)


def plainly(made, real, k, inside=np.less_equal, squared=None):
    """Shares of made points in real balls and of real ones in made balls, from whole matrices of distances."""
    apart = squared or (lambda a, b: ((a[:, None].astype(np.float64) - b[None]) ** 2).sum(-1))
    radii = lambda x: np.sort(apart(x, x), 1)[:, k]
    found = apart(made, real)
    return inside(found, radii(real)).any(1).mean(), inside(found, radii(made)[:, None]).any(0).mean()


def test_precision_and_recall_are_exactly_torch_fidelitys():
    assert precision_recall(FAKE, REAL, k=3) == {"precision": 0.56, "recall": 58 / 60}


def test_density_and_coverage_are_exactly_those_of_prdc():
    """Its own precision and recall, which are strict, too."""
    assert density_coverage(FAKE, REAL, k=5) == {"density": 106 / 250, "coverage": 51 / 60}
    assert plainly(FAKE, REAL, 5, np.less) == (0.66, 59 / 60)


@pytest.mark.parametrize(("n", "m", "d", "k"), [
    (200, 300, 2, 3), (300, 150, 16, 1), (120, 120, 64, 5), (30, 12, 4, 11),
])
@pytest.mark.parametrize("shift", [0, 30])
def test_counts_are_those_of_double_precision(n, m, d, k, shift):
    made, real = cloud(n, d, 0, 0.9, shift + 0.2), cloud(m, d, 1, shift=shift)
    assert tuple(precision_recall(made, real, k=k).values()) == plainly(made, real, k)


def test_float16_as_adm_has_it_is_no_further_than_half_a_hundredth():
    def squared(a, b):
        size = lambda x: (x * x).sum(1)
        return np.maximum(size(a)[:, None] - 2 * a @ b.T + size(b), 0).astype(np.float16)

    made, real = cloud(600, 256, 0, 0.9, 0.1), cloud(600, 256, 1)
    exact, half = precision_recall(made, real, k=3), plainly(made, real, 3, squared=squared)
    np.testing.assert_allclose(half, tuple(exact.values()), rtol=0, atol=0.005)


def test_one_value_whatever_the_block_and_the_order(monkeypatch):
    order = np.random.default_rng(0).permutation
    both = lambda made, real: {**precision_recall(made, real), **density_coverage(made, real)}
    whole = both(FAKE, REAL)
    assert both(FAKE[order(50)], REAL[order(60)]) == whole
    for cells in (1, 60, 13 * 60):
        monkeypatch.setattr(pairwise, "CELLS", cells)
        assert both(FAKE, REAL) == whole


def test_scale_rotation_and_shift_change_nothing():
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((16, 16)))[0]
    whole = precision_recall(FAKE, REAL), density_coverage(FAKE, REAL)
    moved = [7 * x.astype(np.float64) @ turn + 3 for x in (FAKE, REAL)]
    assert (precision_recall(*moved), density_coverage(*moved)) == whole


def test_made_and_real_change_places():
    one, other = precision_recall(FAKE, REAL), precision_recall(REAL, FAKE)
    assert (one["precision"], one["recall"]) == (other["recall"], other["precision"])


def test_points_on_a_line_by_hand():
    """Real points 0..9 have balls of radius 1 (k = 2) inside and 2 at the ends: -2..11.  A point on the rim is in."""
    real = np.arange(10.0)[:, None]
    np.testing.assert_array_equal(manifold.radii(real, 2), [2, *[1] * 8, 2])
    made = np.array([[-2.5], [-2], [4.5], [11], [11.5]])
    assert precision_recall(made, real, k=2)["precision"] == 3 / 5
    # strictly inside: 4.5 alone, in the balls of 4 and 5; both have it
    assert density_coverage(made, real, k=2) == {"density": 2 / (2 * 5), "coverage": 2 / 10}


def test_equal_sets_are_covered_and_far_ones_are_not():
    assert precision_recall(REAL, REAL) == {"precision": 1, "recall": 1}
    same = density_coverage(REAL, REAL)
    assert same["coverage"] == 1 and same["density"] == pytest.approx(1, abs=0.3)
    assert precision_recall(REAL + 100, REAL) == {"precision": 0, "recall": 0}
    assert density_coverage(REAL + 100, REAL) == {"density": 0, "coverage": 0}


def test_modes_that_are_left_out_cost_recall_and_coverage_alone():
    modes = lambda seed, kinds: np.concatenate([cloud(60, 8, seed + i, 0.1, 10 * i) for i in range(kinds)])
    real, made = modes(0, 4), modes(10, 2)
    found = {**precision_recall(made, real), **density_coverage(made, real)}
    assert found["precision"] > 0.8 and 0.4 < found["recall"] < 0.5
    assert found["density"] > 0.8 and 0.4 < found["coverage"] <= 0.5


def test_a_radius_is_that_of_the_kth_other_point():
    right = np.sort(((REAL[:, None].astype(np.float64) - REAL) ** 2).sum(-1), 1)[:, 4] ** 0.5
    np.testing.assert_allclose(manifold.radii(REAL, 4), right, rtol=1e-6)


def test_errors():
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        precision_recall(FAKE, REAL, k=0)
    with pytest.raises(ValueError, match=r"real features need at least 4 rows .*\(3, 16\)"):
        precision_recall(FAKE, REAL[:3])
    with pytest.raises(ValueError, match=r"made features need at least 4 rows .*\(3, 16\)"):
        precision_recall(FAKE[:3], REAL)
    with pytest.raises(ValueError, match=r"real features need at least 6 rows .*\(5, 16\)"):
        density_coverage(FAKE[:1], REAL[:5])
    with pytest.raises(ValueError, match="features of 16 and of 9 dimensions"):
        density_coverage(FAKE[:, :9], REAL)
