"""The interval of a proportion."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdiff.metrics import wilson


def test_known_interval():
    """Newcombe 1998, table I, method 3: 81 of 263 and 0 of 20, at 95 %."""
    np.testing.assert_allclose(wilson(81, 263), (0.2553, 0.3662), atol=5e-5)
    np.testing.assert_allclose(wilson(0, 20), (0, 0.1611), atol=5e-5)


@given(st.integers(1, 10_000), st.floats(0, 1), st.floats(0.1, 5))
def test_ends_are_z_deviations_away_as_seen_from_themselves(n, share, z):
    successes = round(share * n)
    p = successes / n
    low, high = wilson(successes, n, z=z)
    assert 0 <= low <= p + 1e-12
    assert p - 1e-12 <= high <= 1
    for end in (low, high):
        assert abs(p - end) == pytest.approx(z * math.sqrt(end * (1 - end) / n), rel=1e-6, abs=1e-7)


def test_covers_as_often_as_it_says():
    """Averaged over p, which is where Wilson's coverage is nominal."""
    rng = np.random.default_rng(0)
    p = rng.uniform(0.02, 0.98, 4000)
    ends = np.array([wilson(int(successes), 50) for successes in rng.binomial(50, p)])
    covered = ((ends[:, 0] <= p) & (p <= ends[:, 1])).mean()
    assert covered == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_impossible_counts(successes, n):
    with pytest.raises(ValueError, match=f"got {successes} of {n}"):
        wilson(successes, n)


def test_negative_width():
    with pytest.raises(ValueError, match="z must be >= 0, got -1"):
        wilson(1, 2, z=-1.0)
