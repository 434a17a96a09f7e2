"""Rescaling restores the contrast of the unguided prediction, thresholds keep it in range, sample by sample."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import denoiser, guidance, process

NULL = {"label": np.int32(2)}
COND = {"label": jnp.array([0, 1, 0])}
SPREAD = jnp.array([0.5, 0.9, 0.2])
X = jax.random.normal(jax.random.key(1), (3, 6, 6, 2))


def spread(x, t, cond):
    """The condition changes the contrast; no two samples have the same mean."""
    return SPREAD[cond["label"]][:, None, None, None] * x + jnp.arange(x.shape[0])[:, None, None, None]


D = denoiser.from_function(spread, process.VP())
GUIDED = guidance.classifier_free(D, scale=4.0, null=NULL)


def std(x0):
    return np.asarray(x0, np.float64).std((1, 2, 3))


@pytest.mark.parametrize("phi", [0.0, 0.3, 0.7, 1.0])
def test_rescaling_gives_back_a_share_of_the_contrast(phi):
    before, after = std(D(X, 0.5, COND)), std(GUIDED(X, 0.5, COND))
    assert (after > 1.9 * before).all()
    out = guidance.rescale(GUIDED, phi=phi)(X, 0.5, COND)
    np.testing.assert_allclose(std(out), phi * before + (1 - phi) * after, rtol=1e-5)
    factor = phi * before / after + 1 - phi
    np.testing.assert_allclose(out, factor[:, None, None, None] * GUIDED(X, 0.5, COND), rtol=1e-5, atol=1e-5)


def test_a_flat_prediction_stays_as_it_is():
    flat = denoiser.from_function(lambda x, t, cond: jnp.ones_like(x) * cond["label"][:, None, None, None],
                                  process.VP())
    guided = guidance.classifier_free(flat, scale=4.0, null=NULL)
    np.testing.assert_array_equal(guidance.rescale(guided)(X, 0.5, COND), guided(X, 0.5, COND))


def test_contrast_is_measured_in_float32():
    big = denoiser.from_function(lambda x, t, cond: (x + 30).astype(jnp.bfloat16), process.VP())
    out = guidance.rescale(guidance.autoguidance(big, scale=1.0, weak=big))(X.astype(jnp.bfloat16), 0.5)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(out, (X.astype(jnp.bfloat16) + 30).astype(jnp.bfloat16))


@pytest.mark.parametrize("batched", [True, False])
def test_rescaling_asks_the_network_no_more_often_than_guidance(batched):
    weights = jax.random.normal(jax.random.key(2), (72, 2000)) / 50

    def network(x, t, cond, weights):
        hidden = jnp.tanh((x.reshape(x.shape[0], -1) + cond["label"][:, None]) @ weights)
        return spread((hidden @ weights.T).reshape(x.shape), t, cond)

    d = denoiser.from_function(network, process.VP(), weights)
    guided = guidance.classifier_free(d, scale=4.0, null=NULL, batched=batched)
    flops = [jax.jit(lambda d: d(X, 0.5, COND)).lower(d).compile().cost_analysis()["flops"]
             for d in (d, guided, guidance.rescale(guided), guidance.rescale(guidance.interval(guided)))]
    assert flops[1] == pytest.approx(2 * flops[0], rel=0.05)
    assert flops[2] == pytest.approx(flops[1], rel=0.05)
    assert flops[3] == pytest.approx(flops[1], rel=0.05)


THRESHOLDS = {"static": guidance.static_threshold, "dynamic": guidance.dynamic_threshold}
each_threshold = pytest.mark.parametrize("threshold", THRESHOLDS.values(), ids=THRESHOLDS)
identity = denoiser.from_function(lambda x, t, cond: x, process.VP())


@each_threshold
@pytest.mark.parametrize("bound", [0.25, 1.0, 3.0])
def test_thresholds_keep_the_range_and_need_no_second_time(threshold, bound):
    d = threshold(identity, bound=bound)
    once = d(5 * X, 0.5)
    assert float(abs(once).max()) == bound
    np.testing.assert_allclose(d(once, 0.5), once, rtol=1e-6)
    np.testing.assert_allclose(threshold(d, bound=bound)(5 * X, 0.5), once, rtol=1e-6)


@each_threshold
def test_what_is_in_range_stays_to_the_bit(threshold):
    small = X / jnp.abs(X).max()
    np.testing.assert_array_equal(threshold(identity)(small, 0.5), small)


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.995, 1.0])
def test_a_dynamic_threshold_is_each_samples_own(quantile):
    x = X * jnp.array([0.1, 2.0, 9.0])[:, None, None, None]
    s = np.maximum(np.quantile(np.abs(x.reshape(3, -1)), quantile, axis=1), 1.0)[:, None, None, None]
    assert s[0] == 1 < s[1] < s[2]  # the first is in range and is not blown up
    out = guidance.dynamic_threshold(identity, quantile=quantile)(x, 0.5)
    np.testing.assert_allclose(out, np.clip(x, -s, s) / s, rtol=1e-5)
