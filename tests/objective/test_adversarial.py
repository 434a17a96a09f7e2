"""Two players in one loss: each has its own gradient, the terms are what they say, and training lowers the error."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiff import data, loop, networks, objective, train
from jaxdiff.data import pixels
from jaxdiff.objective import adversarial
from jaxdiff.protocols import Context, Objective

KEY = jax.random.key(0)
BATCH = {"x0": 0.5 * jax.random.normal(jax.random.key(1), (8, 4, 4, 2)), "cond": None}
X = BATCH["x0"]


class Coder(nn.Module):
    """An autoencoder of one number a side: mean = a x + .1, logvar = b, y = c z."""

    @nn.compact
    def __call__(self, x, keys=None):
        start = {"a": 0.7, "b": -1.0, "c": 1.2}
        a, b, c = (self.param(name, nn.initializers.constant(value), ()) for name, value in start.items())
        mean, logvar = a * x + 0.1, jnp.full_like(x, 1) * b
        return c * networks.autoencoder.sampled(mean, logvar, keys), mean, logvar


class Judge(nn.Module):
    """Logits 3 d x: beyond the hinges at some pixels."""

    @nn.compact
    def __call__(self, x):
        return 3 * self.param("d", nn.initializers.ones, ()) * x.sum(-1)


def made(**options):
    return objective.autoencoding(Coder(), Judge(), **options)


def at(step):
    return Context(jnp.int32(step), {}, {"scale": jnp.float32(2)})


LOSS = made(kl_weight=0.3, weight=0.2, start=5)
PARAMS = LOSS.init(BATCH, KEY)
DRAWN = LOSS.draw(BATCH, KEY)
FAST = {"xla_backend_optimization_level": 0}  # compiles in a fraction of the time


def slopes_of(loss):
    return jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=FAST)


RUN = slopes_of(LOSS)


def test_it_is_an_objective_of_two_players():
    assert isinstance(LOSS, Objective)
    assert set(PARAMS) == {"generator", "discriminator"}
    assert set(objective.autoencoding(Coder()).init(BATCH, KEY)) == {"generator"}
    with pytest.raises(ValueError, match="no denoiser .* latents"):
        LOSS.denoiser(PARAMS)


def test_each_player_has_the_gradient_of_its_own_loss():
    y_now, _, _ = Coder().apply(PARAMS["generator"], X, DRAWN["keys"])

    def generator(params):
        y, mean, logvar = Coder().apply(params, X, DRAWN["keys"])
        kl = 0.5 * (mean**2 + jnp.exp(logvar) - 1 - logvar).mean()  # as many latents as pixels
        return jnp.abs(X - y).mean() + 0.3 * kl - 0.2 * 3 * y.sum(-1).mean()

    def discriminator(params):
        real, fake = (Judge().apply(params, image) for image in (X, y_now))
        return 0.5 * jnp.where(real < 1, 1 - real, 0).mean() + 0.5 * jnp.where(fake > -1, 1 + fake, 0).mean()

    (value, metrics), slopes = RUN(PARAMS, DRAWN, KEY, at(5))
    for name, own in (("generator", generator), ("discriminator", discriminator)):
        want = jax.jit(jax.grad(own), compiler_options=FAST)(PARAMS[name])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), slopes[name], want)
        assert all(np.abs(leaf) > 1e-3 for leaf in jax.tree.leaves(want))
    assert float(value) == pytest.approx(float(generator(PARAMS["generator"]) + discriminator(PARAMS["discriminator"])))
    assert float(metrics["discriminator"]) == pytest.approx(float(discriminator(PARAMS["discriminator"])), rel=1e-6)


def test_before_its_start_there_is_no_adversary():
    alone = objective.autoencoding(Coder(), kl_weight=0.3)
    (value, metrics), slopes = RUN(PARAMS, DRAWN, KEY, at(4))
    (plain, _), wanted = slopes_of(alone)({"generator": PARAMS["generator"]}, DRAWN, KEY, at(4))
    assert float(value) == pytest.approx(float(plain), rel=1e-6)
    assert float(metrics["adversarial"]) == float(metrics["discriminator"]) == 0
    assert float(slopes["discriminator"]["params"]["d"]) == 0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), slopes["generator"], wanted["generator"])
    assert float(RUN(PARAMS, DRAWN, KEY, at(5))[0][1]["discriminator"]) > 0


def test_the_divergence_is_the_closed_form():
    """Against the integral of q ln(q/p) over a grid."""
    mean, logvar = np.array([[0.3, -1.2], [0.0, 2.0]]), np.array([[-1.0, 0.4], [0.0, -3.0]])
    z = np.linspace(-12, 12, 20_001)
    log = lambda m, v: -0.5 * ((z - m) ** 2 / np.exp(v) + v + np.log(2 * np.pi))
    exact = lambda m, v: (np.exp(log(m, v)) * (log(m, v) - log(0.0, 0.0))).sum() * (z[1] - z[0])
    want = np.vectorize(exact)(mean, logvar).sum(1)
    np.testing.assert_allclose(adversarial.divergence(mean, logvar), want, rtol=1e-5, atol=1e-6)
    assert float(adversarial.divergence(jnp.zeros((1, 3)), jnp.zeros((1, 3)))[0]) == 0


def test_terms():
    y, mean, logvar = Coder().apply(PARAMS["generator"], X, DRAWN["keys"])
    loss = made(error="l2", kl_weight=0.5, perceptual=lambda x, y, frozen: frozen["scale"] * (x - y).mean((1, 2, 3)),
                perceptual_weight=0.25, weight=0.0, start=9)
    value, metrics = loss(PARAMS, DRAWN, KEY, at(0))
    assert float(metrics["reconstruction"]) == pytest.approx(float(((X - y) ** 2).mean()), rel=1e-5)
    assert float(metrics["perceptual"]) == pytest.approx(2 * float((X - y).mean()), rel=1e-5)
    assert float(metrics["kl"]) == pytest.approx(float(adversarial.divergence(mean, logvar).mean()) / 32, rel=1e-5)
    total = metrics["reconstruction"] + 0.5 * metrics["kl"] + 0.25 * metrics["perceptual"]
    assert float(value) == pytest.approx(float(total), rel=1e-6)
    assert float(adversarial.hinge(jnp.array([2.0, 0.0]), jnp.array([-2.0, 1.0]))) == 0.5 * (0.5 + 1.0)


def test_players_of_two_rates_are_trained_whole_or_in_parts():
    players = {name: name for name in PARAMS}
    optimizer = optax.multi_transform({"generator": optax.sgd(0.1), "discriminator": optax.sgd(0.0)}, players)
    states = []
    for parts in (1, 4):
        state = train.init(LOSS, optimizer, BATCH, KEY)._replace(step=jnp.int32(7))
        before = state.params
        step = jax.jit(train.make_step(LOSS, optimizer, accumulate=parts), compiler_options=FAST)
        state, metrics = step(state, BATCH, KEY)
        assert int(metrics["skipped"]) == 0
        np.testing.assert_array_equal(state.params["discriminator"]["params"]["d"],
                                      before["discriminator"]["params"]["d"])
        assert float(abs(state.params["generator"]["params"]["c"] - before["generator"]["params"]["c"])) > 1e-3
        states.append(state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *states)


@pytest.fixture
def compiled_in_less_time():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.usefixtures("compiled_in_less_time")
def test_digits_are_learned_and_the_adversary_comes_in():
    """40 steps halve the error of a small autoencoder; the players meet after 20."""
    digits = pixels.to_float(data.digits()["image"])
    batches = lambda start: ({"x0": digits[(32 * i) % 1400:][:32], "cond": None} for i in range(start, 1000))
    coder = networks.Autoencoder(channels=16, mults=(1, 1), blocks=1, image_channels=1)
    loss = objective.autoencoding(coder, networks.PatchDiscriminator(channels=8, layers=1), start=20, weight=0.01)
    optimizer = optax.adam(3e-3)
    state, seen = train.init(loss, optimizer, next(batches(0)), KEY), []
    first = jax.tree.map(np.asarray, state.params)

    def hook(step, state, metrics):
        seen.append({name: float(value) for name, value in metrics.items()})
        if step == 20:
            jax.tree.map(np.testing.assert_array_equal, state.params["discriminator"], first["discriminator"])

    state, _ = loop.fit(train.make_step(loss, optimizer), state, batches, KEY, steps=40, hooks=(hook,))
    error = [metrics["reconstruction"] for metrics in seen]
    assert np.mean(error[-5:]) < 0.5 * error[0]
    assert [metrics["discriminator"] > 0 for metrics in seen] == [False] * 20 + [True] * 20
    assert sum(metrics["skipped"] for metrics in seen) == 0
    for name in networks.autoencoder.CONSTANTS:
        np.testing.assert_array_equal(state.params["generator"]["params"][name], first["generator"]["params"][name])


@pytest.mark.parametrize(("options", "message"), [
    ({"error": "l3"}, "no error 'l3'; it may be l1 or l2"),
    ({"kl_weight": -1.0}, "kl_weight must not be negative, got -1.0"),
    ({"start": -1}, "start must not be negative, got -1"),
])
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        made(**options)
