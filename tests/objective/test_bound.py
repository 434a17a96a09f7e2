"""The bound is the exact one at the exact denoiser, whatever lies between its ends."""

import functools
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from laws import KINDS
from scipy.integrate import quad
from scipy.special import logsumexp

from jaxdiff import networks, objective, parameterization, process, train
from jaxdiff.objective import bound, levels
from jaxdiff.protocols import Context, Objective

CONTEXT = Context(jnp.int32(0), {})
KEY = jax.random.key(0)
MEAN, STD = 0.3, 0.5
HIGH, LOW = 8.0, -6.0  # log-SNR
KIND = parameterization.edm(sigma_data=1.0)  # the same (σ x0 - α ε)/√(α² + σ²) in every frame
NETWORK = networks.MLP(width=16, depth=1)


def between(of, high=HIGH, low=LOW):
    """The process with the span that lies between two log-SNRs."""
    return type(of)(span=tuple(float(t) for t in process.t_of_logsnr(of, np.array([high, low]))))


@dataclass(frozen=True)
class Knows:
    """A network whose denoiser is `mean(x / α, σ/α)`; it sees all that it needs in c_noise."""

    mean: object

    def init(self, key, x, c_noise, cond):
        return {}

    def apply(self, params, x, c_noise, cond, *, train=False, rngs=None):
        level = jnp.exp(4 * c_noise).reshape(-1, *(1,) * (x.ndim - 1))  # c_noise is ¼ ln(σ/α)
        alpha = (1 + level**2) ** -0.5  # x arrives times c_in, in the variance-preserving frame
        x0 = self.mean(x / alpha, level)
        eps = (x / alpha - x0) / level
        return alpha * level * x0 - alpha * eps


def gaussians(x, level):
    return MEAN + STD**2 / (STD**2 + level**2) * (x - MEAN)


BINS = 16
VALUES = np.linspace(-1, 1, BINS)


def pixels(x, level):
    """The exact mean of a pixel that is uniform over its values."""
    share = jax.nn.softmax(-0.5 * ((x[..., None] - VALUES) / level[..., None]) ** 2)
    return (share * VALUES).sum(-1)


@functools.partial(jax.jit, static_argnums=(0, 1))
def terms(loss, draw, keys):
    """Mean metrics, and their standard errors, over batches that `draw` makes."""
    def once(key):
        data_key, key = jax.random.split(key)
        return loss({}, {"x0": draw(data_key), "cond": None}, key, CONTEXT)[1]

    found = jax.vmap(once)(keys)
    return jax.tree.map(lambda v: (v.mean(), v.std() / math.sqrt(len(v))), found)


def of_gaussian(key):
    return MEAN + STD * jax.random.normal(key, (1024, 2))


@pytest.mark.parametrize("law", [levels.uniform, levels.logsnr, levels.mode])
@pytest.mark.parametrize("of", [process.VP(), process.Cosine()])
def test_the_diffusion_term_is_the_integral_of_the_least_error(of, law):
    # ½ ∫ S²/(S² + e^-λ) dλ = ½ ln((1 + S² e^λ_0)/(1 + S² e^λ_1)) a dimension, whatever process and levels
    loss = objective.vlb(Knows(gaussians), between(of), KIND, levels=law, bins=None)
    value, error = terms(loss, of_gaussian, jax.random.split(KEY, 128))["nats_diffusion"]
    wanted = np.log((1 + STD**2 * np.exp(HIGH)) / (1 + STD**2 * np.exp(LOW)))  # two dimensions
    assert float(value) == pytest.approx(wanted, abs=4 * float(error) + 1e-3)
    assert float(error) < 0.02 * wanted


def test_the_diffusion_term_is_the_same_in_every_frame():
    # the flow is not variance preserving: its network sees another c_in, and what it denoises is the same
    found = {}
    for name, of in {"flow": process.RectifiedFlow(), "cosine": process.Cosine(), "vp": process.VP()}.items():
        loss = objective.vlb(Knows(gaussians), between(of), KIND, levels=levels.logsnr, bins=None)
        made = loss.draw({"x0": of_gaussian(KEY), "cond": None}, KEY)
        found[name] = float(loss({}, made, KEY, CONTEXT)[1]["nats_diffusion"])
    assert found["flow"] == pytest.approx(found["cosine"], rel=2e-3)  # sample by sample, not in law alone
    assert found["vp"] == pytest.approx(found["cosine"], rel=2e-3)


def test_the_whole_bound_of_a_gaussian_is_its_entropy_and_the_priors_share():
    # with a decoder N(z/α, e^-λ_0): ½ ln 2πe(S² + e^-λ_0) + ½ e^λ_1 (S² + m²) - ½ ln(1 + S² e^λ_1) a dimension
    loss = objective.vlb(Knows(gaussians), between(process.Cosine()), KIND, levels=levels.logsnr, bins=None)
    found = terms(loss, of_gaussian, jax.random.split(KEY, 128))
    gap = 0.5 * np.exp(LOW) * (STD**2 + MEAN**2) - 0.5 * np.log1p(STD**2 * np.exp(LOW))
    wanted = 0.5 * np.log(2 * np.pi * np.e * (STD**2 + np.exp(-HIGH))) + gap
    value, error = found["nats"]
    assert float(value) == pytest.approx(2 * wanted, abs=4 * float(error) + 1e-3)
    assert float(error) < 0.04
    assert float(found["bits_per_dim"][0]) == pytest.approx(float(value) / (2 * math.log(2)), rel=1e-5)
    assert float(found["nats_prior"][0]) == pytest.approx(np.exp(LOW) * (STD**2 + MEAN**2), rel=0.02)


@pytest.mark.parametrize("high", [2.0, 6.0, 10.0])
def test_the_bound_of_uniform_pixels_is_the_logarithm_of_their_values(high):
    # where the clean end lies is no matter: what the decoder cannot tell, the diffusion term does not ask for
    of = between(process.Cosine(), high, -12.0)
    loss = objective.vlb(Knows(pixels), of, KIND, levels=levels.logsnr, bins=BINS)
    draw = lambda key: jnp.asarray(VALUES, jnp.float32)[jax.random.randint(key, (1024, 4), 0, BINS)]
    value, error = terms(loss, draw, jax.random.split(KEY, 128))["bits_per_dim"]
    assert float(value) == pytest.approx(math.log2(BINS), abs=4 * float(error) + 2e-3)
    assert float(error) < 0.03


@pytest.mark.parametrize("scale", [0.01, 0.05, 0.3])
def test_the_decoder_is_the_normalised_gaussian_over_the_bins(scale):
    # Kingma et al. 2021, eq. 13: p(x|z) ∝ q(z|x); its mean over ε by quadrature
    own = 5
    def nats(eps):
        logits = -0.5 * ((VALUES[own] + scale * eps - VALUES) / scale) ** 2
        return logsumexp(logits) - logits[own]

    wanted = quad(lambda e: nats(e) * np.exp(-0.5 * e**2) / np.sqrt(2 * np.pi), -8, 8, limit=400)[0]
    eps = jnp.asarray(np.random.default_rng(0).standard_normal((20_000, 1)), jnp.float32)
    found = bound.reconstruction(jnp.full_like(eps, VALUES[own]), eps, jnp.float32(scale), BINS)
    exact = np.array([nats(float(e)) for e in eps[:50, 0]])
    np.testing.assert_allclose(found[:50], exact, rtol=1e-3, atol=1e-5)
    assert float(found.mean()) == pytest.approx(wanted, abs=4 * float(found.std()) / 141 + 1e-5)


def test_bytes_far_apart_cost_nothing_and_bytes_drowned_cost_8_bits():
    x0 = (jnp.arange(256.0) - 127.5)[:, None] / 127.5
    eps = jax.random.normal(KEY, x0.shape)
    assert float(bound.reconstruction(x0, eps, jnp.float32(5e-4), 256).max()) < 1e-6
    drowned = bound.reconstruction(x0, eps, jnp.float32(1e3), 256)
    np.testing.assert_allclose(drowned, 8 * math.log(2), atol=2e-2)


def test_the_two_noises_of_an_example_are_independent():
    loss = objective.vlb(NETWORK, process.VP(), KIND)
    made = loss.draw({"x0": jnp.zeros((4096, 2)), "cond": None}, KEY)
    for a, b in ((made["eps"], made["eps_0"]), (made["eps_0"], made["t"][:, None]), (made["eps"], made["t"][:, None])):
        assert abs(np.corrcoef(np.ravel(a[:, 0]), np.ravel(b[:, 0]))[0, 1]) < 0.06


@pytest.mark.parametrize("of", KINDS.values(), ids=KINDS)
def test_a_fixed_process_trains_the_network_alone(of):
    loss = objective.vlb(NETWORK, of, KIND)
    batch = {"x0": jax.random.normal(KEY, (16, 2)), "cond": None}
    params = loss.init(batch, KEY)
    assert isinstance(loss, Objective)
    assert jax.tree.structure(params) == jax.tree.structure(NETWORK.init(KEY, batch["x0"], jnp.zeros(16), None))
    value, metrics = loss(params, batch, KEY, CONTEXT)
    assert jnp.isfinite(value)
    assert {f"{unit}{term}" for unit in ("nats", "bits_per_dim")
            for term in ("", "_prior", "_diffusion", "_reconstruction")} == set(metrics)
    assert float(metrics["nats"]) == pytest.approx(2 * float(value), rel=1e-5)


LEARNED = process.LearnedGamma(gamma_min=-8.0, gamma_max=6.0, width=8, learn_ends=True)


def test_a_learned_process_is_trained_with_the_network():
    loss, optimizer = objective.vlb(NETWORK, LEARNED, KIND), optax.adam(1e-2)
    batch = {"x0": jnp.clip(0.3 * jax.random.normal(KEY, (32, 2)), -1, 1), "cond": None}
    state = train.init(loss, optimizer, batch, KEY)
    assert set(state.params) == {"network", "gamma"}
    after, metrics = jax.jit(train.make_step(loss, optimizer))(state, batch, KEY)
    assert int(metrics["skipped"]) == 0
    assert (after.params["gamma"]["ends"] != state.params["gamma"]["ends"]).all()
    d = loss.denoiser(after.params)
    np.testing.assert_allclose(process.logsnr(d.process, jnp.array([0.0, 1.0])), -after.params["gamma"]["ends"],
                               rtol=1e-5)
    assert d(batch["x0"], np.float32(0.3)).shape == (32, 2)


def test_the_shape_of_a_learned_process_has_no_gradient_in_the_mean():
    # Kingma et al. 2021, sec. 5.1: at the exact denoiser only the ends of γ matter
    loss = objective.vlb(Knows(gaussians), LEARNED, KIND, bins=None)
    gamma = LEARNED.init(KEY)

    @jax.jit
    def slopes(keys):
        def once(key):
            data_key, key = jax.random.split(key)
            batch = {"x0": of_gaussian(data_key), "cond": None}
            return jax.grad(lambda g: loss({"network": {}, "gamma": g}, batch, key, CONTEXT)[0])(gamma)

        return jax.vmap(once)(keys)

    found = slopes(jax.random.split(KEY, 64))
    for name in ("weight", "slope", "offset"):
        error = found[name].std(0) / 8
        assert (abs(found[name].mean(0)) < 5 * error + 1e-6).all()
    # the ends: d/dγ_0 of ½ ln(S² + e^γ_0), and d/dγ_1 of ½ e^-γ_1 (S² + m²) - ½ ln(1 + S² e^-γ_1), a dimension
    low, high = np.exp(-8.0), np.exp(-6.0)
    wanted = [0.5 * low / (STD**2 + low), -0.5 * high * (STD**2 + MEAN**2) + 0.5 * STD**2 * high / (1 + STD**2 * high)]
    error = found["ends"].std(0) / 8
    assert (abs(found["ends"].mean(0) - jnp.asarray(wanted)) < 5 * error + 1e-5).all()


@pytest.mark.parametrize("of", [process.VP(), LEARNED], ids=["fixed", "learned"])
def test_it_splits_for_accumulation(of):
    loss, optimizer = objective.vlb(NETWORK, of, KIND), optax.sgd(1e-3)
    batch = {"x0": jnp.clip(0.3 * jax.random.normal(KEY, (32, 2)), -1, 1), "cond": None}
    whole, parts = (jax.jit(train.make_step(loss, optimizer, accumulate=n))(train.init(loss, optimizer, batch, KEY),
                                                                            batch, KEY)[1] for n in (1, 4))
    assert float(whole["loss"]) == pytest.approx(float(parts["loss"]), rel=1e-4)
    assert float(whole["bits_per_dim_diffusion"]) == pytest.approx(float(parts["bits_per_dim_diffusion"]), rel=1e-4)


@pytest.mark.parametrize(("of", "options", "words"), [
    (process.VP(), {"bins": 1}, "bins must be at least 2, or None .* got 1"),
    (LEARNED, {"levels": levels.logsnr}, "a learned process is trained at levels that are given by t alone"),
    (LEARNED, {"drop": 0.1}, "needs a condition to drop"),
    (process.VP(), {"drop": 2.0}, "drop must lie"),
])
def test_impossible_bounds_are_refused(of, options, words):
    with pytest.raises(ValueError, match=words):
        objective.vlb(NETWORK, of, KIND, **options)
