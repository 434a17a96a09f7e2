"""Moments that are gathered block by block, against those in float64 throughout."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.metrics import Tally, frechet, moments, blocks


def activations(n, d, seed, *, noise=0.1, scale=1.0):
    """Like Inception's: at least 0, mean about .4, a few strong directions (case A of FID.md 5; B has less spread)."""
    rng = np.random.RandomState(seed)
    basis = rng.randn(64, d) * 0.5 ** (np.arange(64) / 8)[:, None] * (0.084 if seed else 0.08)
    basis += 0.05 * np.random.RandomState(98).randn(64, d)
    shift = 0.36 + 0.02 * (seed > 0) + 0.05 * np.random.RandomState(99).randn(d)
    return np.maximum(scale * rng.randn(n, 64) @ basis + noise * rng.randn(n, d) + shift, 0).astype(np.float32)


A, B = {}, {"noise": 0.002, "scale": 0.06}  # B: mean/std 16, least eigenvalue 4e-6


@pytest.mark.parametrize("kind", [A, B], ids="AB")
@pytest.mark.parametrize("rows", [200, 1024])
def test_is_as_good_as_float64_throughout(kind, rows):
    """Measured: mean 3e-9, distance 9e-9 of itself (5e-11 of it by the mean); float32 sums of all rows: 1e-6."""
    x, other = activations(20_000, 128, 0, **kind), moments(activations(5_000, 128, 1, **kind))
    found, right = blocks(x, rows=rows), moments(x)
    assert np.abs(found.mean - right.mean).max() < 1e-8
    assert np.abs(found.cov - right.cov).max() < 3e-7 * right.cov.diagonal().max()
    assert frechet(found, other) == pytest.approx(frechet(right, other), rel=2e-8)
    plain = x.sum(0, dtype=np.float32) / np.float32(len(x))
    assert np.abs(plain - right.mean).max() > 10 * np.abs(found.mean - right.mean).max()


def test_is_the_same_to_the_bit_however_rows_were_batched():
    x = activations(2_500, 24, 0)
    whole = blocks(x)
    for sizes in ([1] * 30 + [2_470], [1_024, 1_024, 452], [1_000, 1_000, 500], [700, 1_800], [2_499, 1]):
        parts = np.split(x, np.cumsum(sizes)[:-1])
        for batches in (parts, map(jnp.asarray, parts)):
            found = blocks(batches)
            assert found.n == 2_500
            np.testing.assert_array_equal(found.mean, whole.mean)
            np.testing.assert_array_equal(found.cov, whole.cov)


@pytest.mark.parametrize("n", [2, 7, 8, 9, 15, 16, 17])
def test_every_row_counts_and_padding_does_not(n):
    """No last batch is dropped, and none is empty: n % 8 = 0, 1 and 7."""
    x = activations(n, 5, 0)
    tally = Tally(5, rows=8)
    for start in range(0, n, 8):
        part = x[start:start + 8]
        padded = np.concatenate([part, np.full((8 - len(part), 5), 1e6, np.float32)])
        tally.add(padded, count=len(part))
    found, right = tally.moments(), moments(x)
    assert found.n == tally.n == n
    np.testing.assert_allclose(found.mean, right.mean, rtol=1e-7)
    np.testing.assert_allclose(found.cov, right.cov, rtol=1e-5, atol=1e-8)


def test_can_be_read_on_the_way():
    x = activations(300, 4, 0)
    tally = Tally(4, rows=128)
    for end in (50, 128, 200, 300):
        tally.add(x[tally.n:end])
        np.testing.assert_array_equal(tally.moments().cov, blocks(x[:end], rows=128).cov)


def test_flattens_what_has_more_axes():
    x = activations(20, 12, 0)
    np.testing.assert_array_equal(blocks(x.reshape(20, 2, 3, 2)).cov, blocks(x).cov)


def test_float32_sums_would_be_wrong_where_the_mean_is_large():
    """99.5 and 100.5, 10,000 numbers: the variance is 0.25002500; float32 sums give 1.3265 (FID.md 6, fault 9)."""
    x = (100 + np.tile([-0.5, 0.5], 5_000)).astype(np.float32)[:, None]
    assert blocks(x).cov[0, 0] == pytest.approx(0.25 * 10_000 / 9_999, rel=1e-12)


def test_sharded_features_have_the_same_moments(run_python):
    run_python("""
        import jax, numpy as np
        from jax.sharding import NamedSharding, PartitionSpec as P
        from jaxdiff.metrics import frechet, moments, blocks
        mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        rng = np.random.default_rng(0)
        x = np.abs(rng.standard_normal((3000, 32)).astype(np.float32) + 1)
        parts = [x[:1024], x[1024:2048], x[2048:2848], x[2848:3000]]
        placed = [jax.device_put(part, NamedSharding(mesh, P("data"))) for part in parts]
        assert len(placed[0].sharding.device_set) == 8
        one, many = blocks(x), blocks(placed)
        np.testing.assert_array_equal(many.mean, one.mean)
        np.testing.assert_array_equal(many.cov, one.cov)
        other, right = moments(np.abs(rng.standard_normal((500, 32)) + 1.1)), moments(x)
        np.testing.assert_allclose(frechet(many, other), frechet(right, other), rtol=1e-7)
    """)


def test_errors():
    with pytest.raises(ValueError, match="a tally of 3 dimensions was given 5 rows of an array \\(5, 4\\)"):
        Tally(3).add(np.zeros((5, 4), np.float32))
    with pytest.raises(ValueError, match="was given 6 rows of an array \\(5, 3\\)"):
        Tally(3).add(np.zeros((5, 3), np.float32), count=6)
    with pytest.raises(ValueError, match="at least two rows, this tally has 1"):
        Tally(3).add(np.zeros((1, 3), np.float32)).moments()
    with pytest.raises(ValueError, match="got no batch"):
        blocks([])
    with pytest.raises(ValueError, match="of 4 rows of features some are not finite"):
        blocks(np.array([[0], [np.nan], [1], [2]], np.float32))
    with pytest.raises(ValueError, match="d >= 1 and rows >= 1, got 0 and 1024"):
        Tally(0)
