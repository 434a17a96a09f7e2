"""The perceptron of the examples."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiff import networks


def test_it_starts_small_and_ends_in_float32():
    x, c_noise = jax.random.normal(jax.random.key(0), (64, 2)), jnp.linspace(-2.5, 2.5, 64)
    outputs = []
    for dtype in ("float32", "bfloat16"):
        network = networks.MLP(dtype=dtype)
        params = network.init(jax.random.key(1), x, c_noise, None)
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
        outputs.append(network.apply(params, x, c_noise, None))
        assert outputs[-1].dtype == jnp.float32
        assert outputs[-1].std() < 0.05
    np.testing.assert_allclose(*outputs, atol=0.01 * jnp.abs(outputs[0]).max() + 1e-4)


def test_it_learns_a_function_of_both_inputs():
    network, optimizer = networks.MLP(width=64, depth=2), optax.adam(3e-3)
    target = lambda x, c: jnp.stack([x[:, 0] * jnp.cos(2 * c), jnp.tanh(3 * x[:, 1]) + c], -1)
    params = network.init(jax.random.key(0), jnp.zeros((1, 2)), jnp.zeros(1), None)

    def loss(params, key):
        x_key, c_key = jax.random.split(key)
        x, c = jax.random.normal(x_key, (256, 2)), jax.random.uniform(c_key, (256,), minval=-2, maxval=2)
        return ((network.apply(params, x, c, None, train=True) - target(x, c)) ** 2).mean()

    def step(state, key):
        params, opt_state = state
        value, gradient = jax.value_and_grad(loss)(params, key)
        updates, opt_state = optimizer.update(gradient, opt_state)
        return (optax.apply_updates(params, updates), opt_state), value

    keys = jax.random.split(jax.random.key(1), 600)
    _, losses = jax.jit(lambda state: jax.lax.scan(step, state, keys))((params, optimizer.init(params)))
    assert losses[0] > 1
    assert losses[-50:].mean() < 0.02


def test_errors():
    with pytest.raises(ValueError, match=r"vectors \[b, d\], got \(1, 4, 4, 1\)"):
        networks.MLP().init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)), jnp.zeros(1))
    with pytest.raises(ValueError, match="at least 1, got 128, 0 and 16"):
        networks.MLP(depth=0)
