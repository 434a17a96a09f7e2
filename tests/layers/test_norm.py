"""Norms are exact far from zero, in every dtype, and normalize what they say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import layers

RAMP = np.array([-1.34164, -0.44721, 0.44721, 1.34164])  # (x - mean)/std of four neighbouring integers


def apply(norm, x):
    return norm.apply(norm.init(jax.random.key(0), x), x)


def exact(x, groups, eps=1e-6):
    """Group normalization in float64."""
    x = np.asarray(x, np.float64)
    y = x.reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
    y = (y - y.mean((1, 3), keepdims=True)) / np.sqrt(y.var((1, 3), keepdims=True) + eps)
    return y.reshape(x.shape)


@pytest.mark.parametrize("norm", [layers.GroupNorm(groups=1), layers.LayerNorm(), layers.LayerNorm(affine=False)])
@pytest.mark.parametrize("offset", [0, 3000, 1e6])
def test_four_integers_far_from_zero(norm, offset):
    """G08: elsewhere the variance was E[x²] - mean², whose digits cancel far from zero."""
    y = apply(norm, offset + jnp.arange(4.0)[None])
    np.testing.assert_allclose(y, RAMP[None], atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 6, 6, 16), (2, 32, 32, 4)])
@pytest.mark.parametrize("offset", [0, 10, 100, 1000])
def test_error_does_not_grow_with_the_mean(shape, offset):
    x = offset + jax.random.normal(jax.random.key(0), shape)
    assert np.abs(apply(layers.GroupNorm(), x) - exact(x, shape[-1] // 4)).max() < 2e-6


def test_layer_norm_far_from_zero():
    x = 1000 + jax.random.normal(jax.random.key(0), (5, 64))
    want = np.stack([exact(row[None], 1)[0] for row in np.asarray(x)])
    np.testing.assert_allclose(apply(layers.LayerNorm(), x), want, atol=2e-6)


def test_bfloat16_is_rounded_once_at_the_end():
    x = (30 + jax.random.normal(jax.random.key(0), (4, 8, 8, 8))).astype(jnp.bfloat16)
    y = apply(layers.GroupNorm(), x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, apply(layers.GroupNorm(), x.astype(jnp.float32)).astype(jnp.bfloat16))


def test_the_gradient_is_that_of_the_formula(x64):
    x = jax.random.normal(jax.random.key(0), (2, 3, 3, 8), jnp.float32)

    def plain(x):
        y = x.reshape(2, 9, 2, 4)
        y = (y - y.mean((1, 3), keepdims=True)) / jnp.sqrt(y.var((1, 3), keepdims=True) + 1e-6)
        return (y.reshape(x.shape) ** 3).sum()

    got = jax.grad(lambda x: (apply(layers.GroupNorm(), x) ** 3).sum())(x)
    np.testing.assert_allclose(got, jax.grad(plain)(x.astype(jnp.float64)), atol=2e-5)


def test_groups_are_neighbours_of_at_least_four_channels():
    x = jnp.tile(jnp.array([0.0] * 4 + [5.0] * 4), (1, 2, 2, 1))
    np.testing.assert_allclose(apply(layers.GroupNorm(), x), 0)  # each group is constant
    assert jnp.abs(apply(layers.GroupNorm(groups=1), x)).min() > 0.9
    assert apply(layers.GroupNorm(), jnp.ones((1, 2, 2, 3))).shape == (1, 2, 2, 3)  # fewer than four: one group
    with pytest.raises(ValueError, match="132 channels do not divide into 32 groups"):
        apply(layers.GroupNorm(), jnp.ones((1, 2, 2, 132)))


def test_scale_and_bias_come_last():
    norm, x = layers.GroupNorm(), jax.random.normal(jax.random.key(0), (2, 4, 4, 8))
    params = {"params": {"scale": jnp.arange(8.0), "bias": 10 * jnp.arange(8.0)}}
    np.testing.assert_allclose(norm.apply(params, x), exact(x, 2) * np.arange(8) + 10 * np.arange(8), atol=1e-4)
