"""What is not trained stays, whatever the optimizer does to the rest."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdiff import networks, train

PARAMS = {"params": {"map_noise": {"freqs": jnp.ones(3)}, "out": {"kernel": jnp.ones((2, 2))}}}


def test_a_weight_decay_passes_constants_by():
    optimizer = train.held(optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1, weight_decay=0.5)))
    state, params = optimizer.init(PARAMS), PARAMS
    gradients = jax.tree.map(jnp.zeros_like, params)
    for _ in range(3):
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_array_equal(params["params"]["map_noise"]["freqs"], 1)
    np.testing.assert_allclose(params["params"]["out"]["kernel"], 0.95**3, rtol=1e-6)


def test_the_state_is_that_of_the_optimizer_alone():
    """A run that was begun without goes on."""
    inner = optax.adam(1e-3)
    assert jax.tree.structure(train.held(inner).init(PARAMS)) == jax.tree.structure(inner.init(PARAMS))


def test_what_an_optimizer_asks_for_more_reaches_it():
    optimizer = train.held(optax.contrib.reduce_on_plateau(factor=0.5, patience=1))
    updates, _ = optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS, value=1.0)
    np.testing.assert_array_equal(updates["params"]["map_noise"]["freqs"], 0)


def test_constants_are_not_counted():
    """NCSN++ of CIFAR-10 has 56,397,827 parameters and 128 frequencies (EDM, table 7: 56.4 M)."""
    network = networks.SongUNet(noise_embedding="fourier", encoder="residual", taps=(1, 3, 3, 1), mults=(2, 2, 2),
                                blocks=4, channels=128, augment=9)
    like = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)), jnp.zeros(1))
    assert train.count(like) == 56_397_827
    assert sum(leaf.size for leaf in jax.tree.leaves(like)) == 56_397_827 + 128
