"""Embeddings of noise levels and classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import layers


def test_positional_frequencies_fall_geometrically():
    c = np.array([0.0, 0.7, 999.0])
    for endpoint in (False, True):
        frequencies = 10_000.0 ** (-np.arange(8) / (8 - endpoint))
        angles = c[:, None] * frequencies
        got = layers.positional(c, 16, endpoint=endpoint)
        np.testing.assert_allclose(got, np.concatenate([np.cos(angles), np.sin(angles)], -1), atol=1e-4)


def test_embeddings_are_float32_of_any_input():
    c = jnp.array([1.0, 2.0], jnp.bfloat16)
    assert layers.positional(c, 8).dtype == jnp.float32
    fourier = layers.Fourier(8)
    assert fourier.apply(fourier.init(jax.random.key(0), c), c).dtype == jnp.float32


@pytest.mark.parametrize(("channels", "endpoint", "least"), [(7, False, 2), (2, True, 4), (0, False, 2)])
def test_positional_channels_are_even_and_enough(channels, endpoint, least):
    with pytest.raises(ValueError, match=f"at least {least}, got {channels}"):
        layers.positional(jnp.zeros(1), channels, endpoint=endpoint)


@pytest.mark.parametrize("phases", [False, True])
def test_fourier_features_have_unit_second_moment_and_no_gradient(phases):
    fourier, c = layers.Fourier(512, scale=2.0, phases=phases), jnp.linspace(-1, 1, 64)
    params = fourier.init(jax.random.key(0), c)
    assert set(params["params"]) == ({"freqs", "phases"} if phases else {"freqs"})
    np.testing.assert_allclose(params["params"]["freqs"].std(), 2, rtol=0.1)
    second = (fourier.apply(params, c) ** 2).mean()  # a pair of cos and sin has moment 1 together
    np.testing.assert_allclose(second, 1 if phases else 0.5, rtol=0.05)
    gradient = jax.grad(lambda params: (fourier.apply(params, c) ** 3).sum())(params)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))


def test_fourier_features_are_those_of_the_formula():
    fourier, c = layers.Fourier(4), jnp.array([0.3, -0.2])
    params = {"params": {"freqs": jnp.array([1.0, 0.5])}}
    angles = 2 * np.pi * np.asarray(c)[:, None] * np.array([1.0, 0.5])
    np.testing.assert_allclose(fourier.apply(params, c), np.concatenate([np.cos(angles), np.sin(angles)], -1),
                               atol=1e-6)
    with pytest.raises(ValueError, match="even number of channels, got 5"):
        layers.Fourier(5).init(jax.random.key(0), c)
    assert layers.Fourier(5, phases=True).init_with_output(jax.random.key(0), c)[0].shape == (2, 5)


@pytest.mark.parametrize("use_bias", [False, True])
def test_the_null_class_is_the_zero_vector(use_bias):
    module = layers.LabelEmbedding(num_classes=4, channels=6, use_bias=use_bias)
    label = jnp.array([0, 3, 4])
    params = module.init(jax.random.key(0), label)
    bias = jnp.arange(6.0) if use_bias else jnp.zeros(6)
    if use_bias:
        params["params"]["linear"]["bias"] = bias
    got = module.apply(params, label)
    np.testing.assert_array_equal(got[2], bias)
    np.testing.assert_allclose(got[:2] - bias, 2 * params["params"]["linear"]["kernel"][jnp.array([0, 3])], rtol=1e-5)


def test_without_a_scale_the_classes_are_a_table_of_unit_normals():
    module = layers.LabelEmbedding(num_classes=40, channels=50, scaled=False)
    params = module.init(jax.random.key(0), jnp.zeros(1, int))
    table = params["params"]["linear"]["kernel"]
    assert abs(table.std() - 1) < 0.05
    np.testing.assert_array_equal(module.apply(params, jnp.array([7, 40])), jnp.stack([table[7], jnp.zeros(50)]))
