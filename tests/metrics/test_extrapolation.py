"""FID-infinity: a line over 1/N, whose subsets are fixed."""

import numpy as np
import pytest
from metrics import inputs

from jaxdiff.metrics import Moments, extrapolation, frechet, frechet_infinity, moments

REAL, FAKE, _ = inputs.clouds()


def normal(n, d, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d))


def test_is_the_line_of_the_specification():
    assert frechet_infinity(FAKE, moments(REAL), points=8, least=20) == pytest.approx(0.08347284587672703, rel=1e-9)


def test_is_the_intercept_of_distances_of_the_subsets():
    subsets = extrapolation.subsets_of(50, points=4, least=30)
    distances = [frechet(moments(REAL), moments(FAKE[subset])) for subset in subsets]
    slope, intercept = np.polyfit([1 / len(subset) for subset in subsets], distances, 1)
    assert frechet_infinity(FAKE, moments(REAL), points=4, least=30) == pytest.approx(intercept, rel=1e-12)
    assert slope > 0


def test_takes_away_what_the_number_of_samples_adds():
    """Samples of the law itself: the distance falls as 1/N, and at infinity it is 0."""
    law, x = Moments.exact(np.zeros(16), np.eye(16)), normal(6000, 16)
    plain = frechet(law, moments(x))
    assert plain == pytest.approx(16 * 17 / 4 / 6000 + 16 / 6000, rel=0.3)  # E |mean|² = d/N, d(d+1)/4N of the rest
    infinite = [frechet_infinity(normal(6000, 16, seed), law, least=500) for seed in range(8)]
    assert abs(np.mean(infinite)) < plain / 4
    assert np.std(infinite) < plain  # one is as uncertain as what it takes away is large


def test_the_published_sizes_are_the_defaults():
    sizes = [len(subset) for subset in extrapolation.subsets_of(50_000)]
    assert sizes == np.linspace(5000, 50_000, 15).astype("int32").tolist()


def test_subsets_are_fixed_and_drawn_anew_without_replacement():
    subsets = extrapolation.subsets_of(100, points=3, least=10)
    assert [len(subset) for subset in subsets] == [10, 55, 100]
    assert all(len(set(subset.tolist())) == len(subset) for subset in subsets)
    assert set(subsets[0].tolist()) != set(subsets[1][:10].tolist())
    for one, other in zip(subsets, extrapolation.subsets_of(100, points=3, least=10), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(extrapolation.subsets_of(100, points=3, least=10, seed=1)[0], subsets[0])


def test_errors():
    for points, least in ((1, 5000), (15, 1), (15, 50), (15, 5000)):
        with pytest.raises(ValueError, match=f"a line needs .*got {points} points from {least} to n = 50"):
            frechet_infinity(FAKE, moments(REAL), points=points, least=least)
    with pytest.raises(ValueError, match="moments of 16 and of 4 dimensions"):
        frechet_infinity(FAKE[:, :4], moments(REAL), least=20)
