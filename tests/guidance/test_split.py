"""Projected guidance splits the difference that a condition makes; its two parts are told apart sample by sample."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import denoiser, guidance, process

NULL = {"label": np.int32(3)}
COND = {"label": jnp.array([0, 1, 2])}
X = jax.random.normal(jax.random.key(3), (3, 4, 4, 2))
TABLE = jax.random.normal(jax.random.key(4), (4, 4, 4, 2))
D = denoiser.from_function(lambda x, t, cond: jnp.tanh(x) + TABLE[cond["label"]], process.VP())


def projected(**options):
    return np.asarray(guidance.projected(D, null=NULL, **options)(X, 0.5, COND), np.float64).reshape(3, -1)


def predictions():
    none = {"label": jnp.full(3, 3)}
    return (np.asarray(D(X, 0.5, cond), np.float64).reshape(3, -1) for cond in (COND, none))


def test_with_both_parts_and_no_radius_it_is_classifier_free_to_the_bit():
    whole = guidance.projected(D, scale=3.0, null=NULL, eta=1.0, radius=1e9)(X, 0.5, COND)
    np.testing.assert_array_equal(whole, guidance.classifier_free(D, scale=3.0, null=NULL)(X, 0.5, COND))


@pytest.mark.parametrize("scale", [0.0, 3.0, 15.0])
def test_without_the_parallel_part_the_component_along_the_prediction_is_unchanged(scale):
    wanted, _ = predictions()
    out = projected(scale=scale)
    np.testing.assert_allclose((out * wanted).sum(1), (wanted**2).sum(1), rtol=1e-5)
    assert (np.linalg.norm(out - wanted, axis=1) > 1).all()


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("radius", [2.5, 1e9])
def test_it_is_the_papers_algorithm(eta, radius):
    wanted, without = predictions()
    push = wanted - without  # Sadat et al. 2024, algorithm 1, without its momentum
    push = push * np.minimum(1, radius / np.linalg.norm(push, axis=1, keepdims=True))
    unit = wanted / np.linalg.norm(wanted, axis=1, keepdims=True)
    parallel = (push * unit).sum(1, keepdims=True) * unit
    expected = wanted + (4.0 - 1) * (push - parallel + eta * parallel)
    np.testing.assert_allclose(projected(scale=4.0, eta=eta, radius=radius), expected, rtol=1e-4, atol=1e-5)


def test_no_push_is_longer_than_the_radius():
    wanted, without = predictions()
    radius = float(np.median(np.linalg.norm(wanted - without, axis=1)))
    lengths = np.linalg.norm(projected(scale=2.0, eta=1.0, radius=radius) - wanted, axis=1)
    np.testing.assert_allclose(lengths, np.minimum(np.linalg.norm(wanted - without, axis=1), radius), rtol=1e-5)
    assert (lengths < 0.999 * radius).any() and np.isclose(lengths, radius, rtol=1e-5).sum() >= 2


def test_nothing_to_split_is_no_nan():
    zero = denoiser.from_function(lambda x, t, cond: 0 * x, process.VP())
    out, slope = jax.value_and_grad(
        lambda w: guidance.projected(zero, scale=w, null=NULL)(X, 0.5, COND).sum())(3.0)
    assert out == slope == 0
