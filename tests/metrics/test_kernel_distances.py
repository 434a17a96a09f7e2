"""KID and CMMD: the values of the tools, the double sums they are defined by, and that one of them is unbiased."""

import jax.numpy as jnp
import numpy as np
import pytest
from metrics import inputs

from jaxdiff.metrics import cmmd, kid, pairwise
from jaxdiff.metrics.kernel_distances import polynomial_mmd

REAL, FAKE, _ = inputs.clouds()


def normal(n, d=8, seed=0, shift=0.0):
    return shift + np.random.default_rng(seed).standard_normal((n, d))


def kernels(a, b, kernel):
    return np.array([[kernel(x, y) for y in b.astype(float)] for x in a.astype(float)])


# KID.


def test_kid_is_torch_fidelitys():
    """Its subsets, drawn as it draws them; its own products are float32."""
    found = kid(FAKE, REAL, subsets=10, size=40)
    assert found["kid"] == pytest.approx(0.02528740291029128, rel=1e-12)
    assert found["kid_std"] == pytest.approx(0.006296830266927003, rel=1e-12)
    assert kid(jnp.asarray(FAKE), jnp.asarray(REAL), subsets=10, size=40) == found


def test_kid_of_every_sample_is_clean_fids():
    assert polynomial_mmd(REAL[:50], FAKE) == pytest.approx(0.027163007938475925, rel=1e-12)
    whole = kid(FAKE, REAL[:50], subsets=1, size=50)
    assert whole == {"kid": pytest.approx(0.027163007938475925, rel=1e-12), "kid_std": 0}


def test_kid_is_its_double_sum_without_a_point_and_itself():
    x, y = REAL[:7], FAKE[:5]
    cubes = lambda a, b: kernels(a, b, lambda u, v: (u @ v / 16 + 1) ** 3)
    others = lambda found: found[~np.eye(len(found), dtype=bool)].mean()
    right = others(cubes(x, x)) + others(cubes(y, y)) - 2 * cubes(x, y).mean()
    assert polynomial_mmd(x, y) == pytest.approx(right, rel=1e-12)


def test_kid_of_two_points_each_by_hand():
    """(1·2 + 1)³ + (0·3 + 1)³ - 2·((0 + 1)³ + (3 + 1)³ + (0 + 1)³ + (6 + 1)³)/4 = 27 + 1 - 204.5."""
    assert polynomial_mmd([[1.0], [2.0]], [[0.0], [3.0]]) == pytest.approx(-176.5)


def test_kid_is_unbiased_and_may_be_below_zero():
    values = np.array([polynomial_mmd(normal(10, seed=2 * i), normal(12, seed=2 * i + 1)) for i in range(400)])
    error = values.std() / np.sqrt(len(values))
    assert abs(values.mean()) < 3 * error and (values < 0).mean() > 0.4
    far = np.array([polynomial_mmd(normal(10, seed=2 * i), normal(12, seed=2 * i + 1, shift=0.5)) for i in range(400)])
    more = polynomial_mmd(normal(4000, seed=1), normal(4000, seed=2, shift=0.5))
    assert far.mean() == pytest.approx(more, abs=4 * far.std() / 20)


def test_kid_of_all_samples_is_free_of_their_order():
    shuffled = np.random.default_rng(0).permutation(50)
    plain = kid(FAKE, REAL[:50], subsets=3, size=50)
    assert kid(FAKE[shuffled], REAL[:50][shuffled[::-1]], subsets=3, size=50)["kid"] == pytest.approx(
        plain["kid"], rel=1e-12)
    assert plain["kid_std"] < 1e-12


def test_kid_draws_anew_from_another_seed():
    one, other = (kid(FAKE, REAL, subsets=5, size=20, seed=seed)["kid"] for seed in (1, 2))
    assert one != other


def test_what_kid_refuses():
    with pytest.raises(ValueError, match="subsets of 1000 from 50 made and 60 real features: take a smaller size"):
        kid(FAKE, REAL)
    with pytest.raises(ValueError, match="subsets >= 1 and size >= 2, got 0 and 10"):
        kid(FAKE, REAL, subsets=0, size=10)
    with pytest.raises(ValueError, match="subsets >= 1 and size >= 2, got 1 and 1"):
        kid(FAKE, REAL, subsets=1, size=1)
    with pytest.raises(ValueError, match="features of 16 and of 15 dimensions"):
        kid(FAKE, REAL[:, :15], subsets=1, size=9)
    with pytest.raises(ValueError, match="1 of 50 rows of made features are not finite"):
        kid(np.where(np.arange(50)[:, None] == 3, np.nan, FAKE), REAL, size=9)


# CMMD.


def test_cmmd_is_that_of_torch_in_double_precision():
    assert cmmd(FAKE, REAL) == pytest.approx(0.05547227273772215, rel=1e-5)
    assert cmmd(REAL, FAKE) == pytest.approx(cmmd(FAKE, REAL), rel=1e-6)


def test_cmmd_is_its_double_sum_with_a_point_and_itself():
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    x, y = unit(REAL[:9].astype(float)), unit(FAKE[:7].astype(float))
    mean = lambda a, b: kernels(a, b, lambda u, v: np.exp(-((u - v) ** 2).sum() / (2 * 0.7**2))).mean()
    right = 1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y))
    assert cmmd(REAL[:9], FAKE[:7], sigma=0.7) == pytest.approx(right, rel=1e-5)


def test_cmmd_of_two_directions_by_hand():
    assert cmmd([[1.0, 0]], [[0, 5.0]]) == pytest.approx(2000 * (1 - np.exp(-2 / 200)), rel=1e-6)
    assert cmmd([[1.0, 0]], [[3.0, 0]]) == pytest.approx(0, abs=1e-6)


def test_cmmd_keeps_its_digits_where_sets_are_alike():
    """Means of k itself in float32 would leave 1e-4 of a distance of 1; those of k - 1 leave 1e-6."""
    x, y = normal(700, 64, 0, 1.0), normal(600, 64, 1, 1.1)
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    mean = lambda a, b: np.exp(-(2 - 2 * unit(a) @ unit(b).T) / 200).mean()
    right = 1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y))
    assert 0.01 < right < 1
    assert cmmd(x, y) == pytest.approx(right, rel=1e-5)


def test_cmmd_is_one_value_whatever_the_block_and_order(monkeypatch):
    plain, order = cmmd(FAKE, REAL), np.random.default_rng(0).permutation(50)
    assert cmmd(FAKE[order], REAL[::-1]) == pytest.approx(plain, rel=1e-6)
    monkeypatch.setattr(pairwise, "CELLS", 600)  # 10 rows a block
    assert cmmd(FAKE, REAL) == pytest.approx(plain, rel=1e-6)


def test_what_cmmd_refuses():
    with pytest.raises(ValueError, match="1 of 60 real embeddings have length 0"):
        cmmd(FAKE, REAL * (np.arange(60) != 5)[:, None])
    with pytest.raises(ValueError, match="sigma must be > 0, got 0"):
        cmmd(FAKE, REAL, sigma=0)
    with pytest.raises(ValueError, match="features of 16 and of 4 dimensions"):
        cmmd(FAKE, REAL[:, :4])
