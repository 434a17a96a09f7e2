"""Positions: the table is MAE's formula, rotations keep lengths and see differences alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import layers


def test_the_table_of_sines():
    table = layers.sincos(np.arange(3), np.arange(5), 16)
    assert table.shape == (15, 16) and table.dtype == np.float64
    frequencies = 10_000.0 ** (-np.arange(4) / 4)
    for row, column in ((0, 0), (2, 1), (1, 4)):
        want = [wave(place * frequencies) for place in (column, row) for wave in (np.sin, np.cos)]
        np.testing.assert_allclose(table[5 * row + column], np.concatenate(want), atol=1e-12)


def test_rotations_keep_lengths_and_see_differences_alone():
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 3, 8))
    turned = {}
    for row, column in ((0, 0), (1, 2), (4, 7), (5, 9)):
        turns = layers.angles(np.array([row]), np.array([column]), 8, max_period=100.0)
        turned[row, column] = [layers.rotate(a, turns) for a in (q, k)]
    np.testing.assert_allclose(turned[0, 0][0], q, atol=1e-6)
    np.testing.assert_allclose((turned[4, 7][0] ** 2).sum(-1), (q**2).sum(-1), rtol=1e-5)
    products = [(turned[a][0] * turned[b][1]).sum(-1)
                for a, b in (((1, 2), (0, 0)), ((5, 9), (4, 7)), ((5, 9), (0, 0)))]
    np.testing.assert_allclose(products[0], products[1], atol=1e-5)
    assert np.abs(products[0] - products[2]).max() > 1e-2


def test_the_first_pairs_turn_by_row_and_the_others_by_column():
    turns = layers.angles(np.arange(2), np.arange(3), 8)
    np.testing.assert_allclose(turns[5], [1, 0.01, 2, 0.02])
    x = jnp.array([1.0, 0, 0, 0, 0, 0, 0, 0]).reshape(1, 1, 1, 8)
    np.testing.assert_allclose(layers.rotate(x, turns[5:])[0, 0, 0, :3], [np.cos(1), np.sin(1), 0], atol=1e-6)


def test_rotations_are_float32_in_bfloat16():
    x = jax.random.normal(jax.random.key(0), (1, 1, 1, 8)).astype(jnp.bfloat16)
    turns = layers.angles(np.array([1_000]), np.array([777]), 8)
    y = layers.rotate(x, turns)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(y, np.float32), layers.rotate(x.astype(jnp.float32), turns), rtol=2**-8)


def test_a_learned_table_is_added():
    x = jnp.ones((2, 3, 4), jnp.bfloat16)
    y, params = layers.LearnedPosition().init_with_output(jax.random.key(0), x)
    assert params["params"]["table"].shape == (3, 4) and y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(y[1], np.float32), 1 + params["params"]["table"], atol=2**-8)


@pytest.mark.parametrize("make", [layers.sincos, layers.angles])
def test_channels_are_a_multiple_of_four(make):
    with pytest.raises(ValueError, match="multiple of 4 channels, got 6"):
        make(np.arange(2), np.arange(2), 6)
