"""Forced weight normalization, the last link of an optimizer's chain."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiff import layers, train


class Tower:
    """Two layers and a gain on data that they can learn."""

    first, second = layers.MPDense((3, 2, 8)), layers.MPDense((4,), inputs=2)

    def init(self, key):
        x = jnp.zeros((1, 16))
        return {"attn_qkv": self.first.init(key, x)["params"], "gain": jnp.ones(()),
                "proj": self.second.init(key, jnp.zeros((1, 2, 8)))["params"]}

    def loss(self, params, key):
        x = jax.random.normal(key, (64, 16))
        y = layers.mp_silu(self.first.apply({"params": params["attn_qkv"]}, x)).sum(1)
        y = self.second.apply({"params": params["proj"]}, y, params["gain"])
        return ((y - x[:, :4] * jnp.tanh(x[:, 4:8])) ** 2).mean()


def trained(optimizer, steps=30):
    tower = Tower()
    params = tower.init(jax.random.key(0))

    def step(state, key):
        params, opt_state = state
        updates, opt_state = optimizer.update(jax.grad(tower.loss)(params, key), opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    keys = jax.random.split(jax.random.key(1), steps)
    return jax.jit(lambda params: jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0])(params)


def over_inputs(params):
    return (jnp.sqrt(jnp.square(params["attn_qkv"]["weight"]).mean(0)),
            jnp.sqrt(jnp.square(params["proj"]["weight"]).mean((0, 1))))


def test_after_every_step_weights_have_unit_mean_square_over_their_inputs():
    params = trained(optax.chain(optax.adam(0.3), train.project()))
    for rms in over_inputs(params):
        np.testing.assert_allclose(rms, 1 / (1 + 1e-4), rtol=1e-5)  # .9999: x/(eps + rms(x))
    assert jnp.abs(params["gain"] - 1) > 0.1  # what is no weight moves freely


def test_without_it_they_grow():
    for rms in over_inputs(trained(optax.adam(0.3))):
        assert rms.mean() > 1.3


def test_it_is_the_projection_of_the_step_and_changes_no_output():
    tower, link = Tower(), train.project()
    params = jax.tree.map(lambda leaf: 3 * leaf, tower.init(jax.random.key(0)))
    still, _ = link.update(jax.tree.map(jnp.zeros_like, params), link.init(params), params)
    projected = optax.apply_updates(params, still)
    np.testing.assert_allclose(projected["proj"]["weight"], params["proj"]["weight"] / np.asarray(
        1e-4 + over_inputs(params)[1]), rtol=1e-5, atol=1e-6)
    key = jax.random.key(2)
    np.testing.assert_allclose(tower.loss(projected, key), tower.loss(params, key), rtol=1e-3)
    twice, _ = link.update(still, link.init(params), params)
    np.testing.assert_allclose(optax.apply_updates(params, twice)["proj"]["weight"], projected["proj"]["weight"],
                               atol=5e-4)


def test_another_name_and_another_packed_module():
    params = {"layer": {"kernel": jnp.full((4, 3), 2.0), "weight": jnp.full((4, 3), 2.0)}, "list": [jnp.ones(2)]}
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = train.project("kernel", packed=()).update(zero, optax.EmptyState(), params)
    np.testing.assert_allclose(updates["layer"]["kernel"], -1, rtol=1e-3)
    assert (updates["layer"]["weight"] == 0).all()


def test_it_needs_the_parameters():
    with pytest.raises(ValueError, match="project.. needs the parameters"):
        train.project().update({}, optax.EmptyState())
