"""The Vendi score is a number of kinds."""

import numpy as np
import pytest
from metrics import inputs

from jaxdiff.metrics import diversity, vendi

REAL, *_ = inputs.clouds()
ORDERS = (0.5, 1, 2, np.inf)


@pytest.mark.parametrize(("q", "value"), [
    (0.5, 7.621573977870939), (1, 3.4261494610485026), (2, 1.789489410633406), (np.inf, 1.3442418067007267),
])
def test_is_that_of_the_package(q, value):
    assert vendi(REAL, q=q) == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("q", [0, *ORDERS])
@pytest.mark.parametrize("times", [1, 2, 7])
def test_counts_kinds_that_share_nothing(q, times):
    """`vendi_three_orthogonal`: 3 kinds are 3, however many there are of each, so long as all are as many."""
    assert vendi(np.repeat(np.eye(3), times, 0), q=q) == pytest.approx(3, rel=1e-12)


def test_of_unequal_kinds_by_hand():
    """λ = 1/4 and 3/4."""
    kinds = np.array([[1.0, 0], [0, 1], [0, 1], [0, 1]])
    assert vendi(kinds) == pytest.approx(4 / 3**0.75)
    assert vendi(kinds, q=2) == pytest.approx(16 / 10)
    assert vendi(kinds, q=np.inf) == pytest.approx(4 / 3)
    assert vendi(kinds, q=0) == pytest.approx(2)


def test_falls_with_the_order_and_lies_between_one_and_n():
    values = [vendi(REAL, q=q) for q in (0, *ORDERS)]
    assert values == sorted(values, reverse=True) and 1 <= values[-1] and values[0] <= 16 + 1e-9
    assert vendi(REAL, q=1 + 1e-6) == pytest.approx(vendi(REAL), rel=1e-5)  # q = 1 is no gap


def test_is_free_of_lengths_order_and_copies():
    plain = vendi(REAL)
    assert vendi(REAL * np.arange(1, 61)[:, None]) == pytest.approx(plain, rel=1e-6)
    assert vendi(REAL[::-1]) == pytest.approx(plain, rel=1e-9)
    assert vendi(np.concatenate([REAL, REAL])) == pytest.approx(plain, rel=1e-9)
    assert vendi(np.repeat(REAL[:1], 9, 0)) == pytest.approx(1, rel=1e-9)


def test_few_rows_and_few_dimensions_are_the_same_sum():
    """With n <= d the eigenvalues are those of XXᵀ, with n > d of XᵀX: columns of zeros bring one to the other."""
    wide = np.concatenate([REAL, np.zeros((60, 60))], 1)
    assert vendi(wide) == pytest.approx(vendi(REAL), rel=1e-9)


def test_errors(monkeypatch):
    with pytest.raises(ValueError, match="order q must be >= 0, got -1"):
        vendi(REAL, q=-1)
    with pytest.raises(ValueError, match="order q must be >= 0, got nan"):
        vendi(REAL, q=np.nan)
    with pytest.raises(ValueError, match="1 of 3 rows have length 0"):
        vendi([[1.0, 0], [0, 0], [0, 1]])
    monkeypatch.setattr(diversity, "MOST", 15)
    with pytest.raises(ValueError, match="matrix of 16 rows: take at most 15 samples"):
        vendi(REAL)
