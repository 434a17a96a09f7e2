"""The learned uncertainty is the logarithm of a level's error, and divides the network's gradient by it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiff import networks, objective, parameterization, process, train
from jaxdiff.objective import levels, weighting
from jaxdiff.protocols import Context, Objective

CONTEXT = Context(jnp.int32(0), {})
KEY = jax.random.key(0)
OF, KIND = process.EDM(), parameterization.edm()
NETWORK = networks.MLP(width=16, depth=1)
BATCH = {"x0": 0.5 * jax.random.normal(KEY, (256, 2)), "cond": None}
LOSS = objective.balanced(NETWORK, OF, KIND)
PLAIN = objective.denoising(NETWORK, OF, KIND, levels=levels.lognormal, weighting=weighting.edm)


def params_at(u):
    """Parameters with u(λ) = `u` everywhere."""
    params = LOSS.init(BATCH, KEY)
    params["uncertainty"]["params"]["linear"]["bias"] = jnp.full((1,), u)
    return params


def slope_at(u):
    """The slope of the loss along a constant u, there."""
    slopes = jax.grad(LOSS, has_aux=True)(params_at(u), BATCH, KEY, CONTEXT)[0]
    return float(slopes["uncertainty"]["params"]["linear"]["bias"][0])


def test_it_is_an_objective_of_two_parts():
    assert isinstance(LOSS, Objective)
    assert set(LOSS.init(BATCH, KEY)) == {"network", "uncertainty"}


def test_before_training_it_is_the_plain_loss():
    params = LOSS.init(BATCH, KEY)
    value, metrics = LOSS(params, BATCH, KEY, CONTEXT)
    assert float(value) == pytest.approx(float(PLAIN(params["network"], BATCH, KEY, CONTEXT)[0]), rel=1e-6)
    assert float(metrics["error"]) == pytest.approx(float(value), rel=1e-6)
    assert float(metrics["uncertainty"]) == 0


@pytest.mark.parametrize("u", [-2.0, 0.5, 3.0])
def test_the_networks_gradient_is_divided_by_the_uncertainty(u):
    params = params_at(u)
    slopes = jax.grad(LOSS, has_aux=True)(params, BATCH, KEY, CONTEXT)[0]["network"]
    plain = jax.grad(PLAIN, has_aux=True)(params["network"], BATCH, KEY, CONTEXT)[0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b * np.exp(-u), rtol=1e-4, atol=1e-7), slopes, plain)


def test_it_rests_at_the_logarithm_of_the_error():
    # Karras et al. 2024, eq. 21: u = ln E[w |δ|²], where every level's share of the loss is 1
    error = float(LOSS(params_at(0.0), BATCH, KEY, CONTEXT)[1]["error"])
    assert slope_at(np.log(error)) == pytest.approx(0, abs=1e-5)
    assert slope_at(np.log(error) + 0.5) == pytest.approx(1 - np.exp(-0.5), rel=1e-4)
    assert slope_at(np.log(error) - 0.5) == pytest.approx(1 - np.exp(0.5), rel=1e-4)


def test_trained_alone_it_finds_the_error_of_every_level():
    # a network that predicts 0 errs by EDM's F, of variance (σ² S²/σ_d² + σ_d² α²)/(σ² + σ_d² α²): not 1 at every
    # level where the data deviate by another S than was said
    data_std = 2.0
    loss = objective.balanced(_Zero(), OF, KIND, levels=levels.lognormal)
    batch = {"x0": data_std * jax.random.normal(KEY, (4096, 2)), "cond": None}
    params, optimizer = loss.init(batch, KEY), optax.adam(3e-2)

    def update(carry, key):
        params, state = carry
        slopes = jax.grad(loss, has_aux=True)(params, batch, key, CONTEXT)[0]
        updates, state = optimizer.update(slopes, state)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.jit(lambda start: jax.lax.scan(update, start, jax.random.split(KEY, 300)))(
        (params, optimizer.init(params)))
    level = np.exp(np.linspace(-2.5, 1.0, 8))
    wanted = np.log((level**2 * data_std**2 / 0.5**2 + 0.5**2) / (level**2 + 0.5**2))
    found = loss.uncertainty.apply(params["uncertainty"], KIND.c_noise(-2 * jnp.log(jnp.asarray(level))))
    np.testing.assert_allclose(found, wanted, atol=0.15)


class _Zero:
    def init(self, key, x, c_noise, cond):
        return {}

    def apply(self, params, x, c_noise, cond, *, train=False, rngs=None):
        return 0 * x


def test_the_denoiser_is_the_networks():
    params = LOSS.init(BATCH, KEY)
    x = jnp.linspace(-1, 1, 6).reshape(3, 2)
    np.testing.assert_array_equal(LOSS.denoiser(params)(x, np.float32(0.1)),
                                  PLAIN.denoiser(params["network"])(x, np.float32(0.1)))


def test_it_is_trained_whole_or_in_parts():
    optimizer = optax.sgd(1e-2)
    states = []
    for parts in (1, 4):
        state = train.init(LOSS, optimizer, BATCH, KEY)
        state, metrics = train.make_step(LOSS, optimizer, accumulate=parts)(state, BATCH, KEY)
        states.append(state.params)
        assert int(metrics["skipped"]) == 0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *states)


def test_no_features_are_refused():
    with pytest.raises(ValueError, match="channels must be at least 1, got 0"):
        objective.balanced(NETWORK, OF, KIND, channels=0)
