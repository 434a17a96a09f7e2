"""The Fréchet distance and its moments, against closed forms, scipy and the samples themselves."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdiff.metrics import Moments, frechet, merge, moments


def samples(seed, n, d, *, decay=20.0, scale=1.0, shift=0.0):
    """Gaussian features [n, d], whose covariance has eigenvalues exp(-2k/decay)."""
    mix = np.exp(-np.arange(d) / decay)[:, None] * rotation(100, d)
    return shift + scale * np.random.default_rng(seed).standard_normal((n, d)) @ mix


def rotation(seed, d):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((d, d)))[0]


def by_sqrtm(a, b):
    gap = a.mean - b.mean
    return gap @ gap + np.trace(a.cov) + np.trace(b.cov) - 2 * np.trace(scipy.linalg.sqrtm(a.cov @ b.cov)).real


def by_samples(x, y):
    """Without a covariance, so that nothing is squared: A = XᵀX makes the overlap the nuclear norm of X Yᵀ."""
    gap = x.mean(0) - y.mean(0)
    x, y = (x - x.mean(0)) / np.sqrt(len(x) - 1), (y - y.mean(0)) / np.sqrt(len(y) - 1)
    return gap @ gap + (x**2).sum() + (y**2).sum() - 2 * np.linalg.svd(x @ y.T, compute_uv=False).sum()


@pytest.mark.parametrize(("n", "d", "decay", "rtol"), [
    (500, 2, 20, 1e-9), (300, 16, 20, 1e-9), (400, 64, 20, 1e-9),
    (400, 32, 3, 1e-6),  # condition 1e9: what sqrtm itself is good for
    (2, 64, 20, 1e-4), (16, 64, 20, 1e-4), (63, 64, 20, 1e-4),
])
def test_equals_sqrtm(n, d, decay, rtol):
    a, b = moments(samples(0, n, d, decay=decay)), moments(samples(1, n, d, decay=decay, scale=1.1, shift=0.1))
    assert frechet(a, b) == pytest.approx(by_sqrtm(a, b), rel=rtol)


@pytest.mark.parametrize(("n", "m", "d", "decay"), [
    (300, 300, 32, 20), (300, 300, 32, 3), (300, 300, 32, 1), (2, 2, 64, 20), (16, 200, 64, 20), (64, 64, 300, 20),
])
def test_equals_the_distance_without_covariances_whatever_the_rank(n, m, d, decay):
    x, y = samples(0, n, d, decay=decay), samples(1, m, d, decay=decay, scale=1.1, shift=0.1)
    assert frechet(moments(x), moments(y)) == pytest.approx(by_samples(x, y), rel=1e-9)


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 24), st.floats(0, 12))
def test_closed_form_where_covariances_commute(seed, d, decades):
    rng, turn = np.random.default_rng(seed), rotation(seed + 1, d)
    u, v = 10 ** rng.uniform(-decades, 0, (2, d))
    gap = rng.standard_normal(d)
    a = Moments.exact(gap, (turn * u) @ turn.T)
    b = Moments.exact(np.zeros(d), (turn * v) @ turn.T)
    assert frechet(a, b) == pytest.approx(gap @ gap + ((np.sqrt(u) - np.sqrt(v)) ** 2).sum(), rel=1e-6)


def test_closed_form_in_the_plane():
    """tr (A^½ B A^½)^½ = √(tr AB + 2 √(det A det B)) for 2x2 matrices, which need not commute."""
    a, b = np.array([[2.0, 0.3], [0.3, 1.0]]), np.array([[1.0, -0.6], [-0.6, 3.0]])
    expected = 25 + np.trace(a + b) - 2 * np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a) * np.linalg.det(b)))
    assert frechet(Moments.exact([3, 4], a), Moments.exact([0, 0], b)) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("n", [2, 20, 300])
def test_is_a_distance(n):
    a, b, c = (moments(samples(i, n, 64, scale=1 + i / 5, shift=i / 10)) for i in range(3))
    assert frechet(a, b) == pytest.approx(frechet(b, a), rel=1e-12)
    assert np.sqrt(frechet(a, c)) <= np.sqrt(frechet(a, b)) + np.sqrt(frechet(b, c))
    assert frechet(a, a) == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("n", [20, 300])
def test_does_not_change_under_rotation_and_shift_and_scales_as_a_square(n):
    x, y, turn = samples(0, n, 40), samples(1, n, 40, scale=1.2), rotation(2, 40)
    plain = frechet(moments(x), moments(y))
    assert frechet(moments(x @ turn + 5), moments(y @ turn + 5)) == pytest.approx(plain, rel=1e-9)
    assert frechet(moments(3 * x), moments(3 * y)) == pytest.approx(9 * plain, rel=1e-12)


def test_bias_falls_with_n():
    """cases.md G19: the distance of standard normal features, d = 64, from their own law; averages of 20 seeds."""
    law = Moments.exact(np.zeros(64), np.eye(64))
    for n, expected, spread in ((128, 9.34, 0.24), (256, 4.51, 0.13), (1024, 1.086, 0.032), (4096, 0.266, 0.008)):
        seeds = range(20 if n < 4096 else 5)
        found = [frechet(moments(np.random.default_rng(seed).standard_normal((n, 64))), law) for seed in seeds]
        rounding = 0.005 if expected > 2 else 0.0005
        assert np.mean(found) == pytest.approx(expected, abs=rounding + 4 * spread * np.sqrt(1 / 20 + 1 / len(found)))
        assert np.std(found) < 2 * spread


def test_zero_covariances():
    still = Moments.exact([1.0, 2.0], np.zeros((2, 2)))
    assert frechet(still, Moments.exact([1.0, 4.0], np.eye(2))) == 6
    assert frechet(still, moments(np.tile([1.0, 2.0], (5, 1)))) == 0


def test_covariances_stored_in_float32():
    a, b = moments(samples(0, 400, 64)), moments(samples(1, 400, 64, scale=1.1))
    low = [Moments.exact(m.mean.astype(np.float32), m.cov.astype(np.float32)) for m in (a, b)]
    assert frechet(*low) == pytest.approx(frechet(a, b), rel=1e-5)


# Moments.


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, jnp.bfloat16, np.uint8, np.int32])
def test_moments_of_every_dtype_are_those_in_float64(dtype):
    x = np.asarray(samples(0, 100, 6, shift=100.0)).clip(0, 255).astype(dtype)
    found, wide = moments(x), x.astype(np.float64)
    assert found.n == 100
    assert found.mean.dtype == found.cov.dtype == np.float64
    np.testing.assert_allclose(found.mean, wide.mean(0), rtol=1e-13)
    np.testing.assert_allclose(found.cov, np.cov(wide.T), rtol=1e-10, atol=1e-12)  # ddof 1, as numpy's


def test_moments_flatten_and_take_jax_arrays():
    x = np.random.default_rng(0).integers(0, 256, (50, 4, 3, 2)).astype(np.uint8)
    for features in (jnp.asarray(x), x.reshape(50, 24)):
        np.testing.assert_array_equal(moments(features).cov, moments(x).cov)
    assert moments(x[:, 0, 0, 0]).cov.shape == (1, 1)


def test_moments_keep_their_digits_far_from_zero():
    x = np.random.default_rng(0).standard_normal((5000, 3))
    np.testing.assert_allclose(moments(x + 1e6).cov, moments(x).cov, rtol=1e-8, atol=1e-9)


@settings(max_examples=20)
@given(st.integers(0, 1000), st.lists(st.integers(2, 400), min_size=2, max_size=6))
def test_merged_parts_equal_the_whole(seed, sizes):
    parts = [samples(seed + i, n, 5, shift=3.0 * i) for i, n in enumerate(sizes)]
    whole, merged = moments(np.concatenate(parts)), moments(parts[0])
    for part in parts[1:]:
        merged = merge(merged, moments(part))
    assert merged.n == whole.n
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-12, atol=1e-12 * np.abs(whole.mean).max())
    np.testing.assert_allclose(merged.cov, whole.cov, rtol=1e-12, atol=1e-12 * np.abs(whole.cov).max())


def test_more_rows_than_a_block():
    x = samples(0, 10_000, 3)
    np.testing.assert_allclose(moments(x).cov, np.cov(x.T), rtol=1e-12)


@pytest.mark.parametrize(("features", "message"), [
    (np.zeros((1, 3)), r"n >= 2, got shape \(1, 3\)"),
    (np.zeros((0, 3)), r"got shape \(0, 3\)"),
    (np.float32(1), r"got shape \(\)"),
    (np.array([[0.0, 1], [np.nan, 1], [np.inf, -np.inf], [1, 1]]), "2 of 4 rows of features are not finite"),
])
def test_features_without_moments(features, message):
    with pytest.raises(ValueError, match=message):
        moments(features)


def test_errors():
    a, b = moments(samples(0, 9, 3)), moments(samples(0, 9, 5))
    for compare in (frechet, merge):
        with pytest.raises(ValueError, match="moments of 3 and of 5 dimensions"):
            compare(a, b)
    law = Moments.exact(np.zeros(3), np.eye(3))
    with pytest.raises(ValueError, match="only moments of samples can be merged"):
        merge(a, law)
    with pytest.raises(ValueError, match=r"a mean \[d\] and a covariance \[d, d\], got \(3,\) and \(3, 2\)"):
        Moments.exact(np.zeros(3), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="finite"):
        Moments.exact(np.full(3, np.nan), np.eye(3))
    with pytest.raises(ValueError, match="symmetric"):
        Moments.exact(np.zeros(2), np.array([[1.0, 1.0], [0.0, 1.0]]))
    with pytest.raises(ValueError, match=r"not a covariance: its eigenvalues go from -0.5 to 1"):
        frechet(law, Moments.exact(np.zeros(3), np.diag([1, 1, -0.5])))
