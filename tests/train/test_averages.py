"""Every average is the one its name says, and what does not change is kept to the bit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import beta

from jaxdiff import train
from jaxdiff.train import averages


class Climbing:
    """An objective whose one parameter is k after step k, under `optax.sgd(1.0)`."""

    def init(self, batch, key):
        return {"p": jnp.zeros(())}

    def __call__(self, params, batch, key, context):
        return -params["p"], {}

    def denoiser(self, params, frozen=None):
        raise NotImplementedError


NAMES = ("decay_0.9", "warmup_0.9999", "power_0.05", "power_0.1")
BATCH = {"x0": jnp.zeros((2, 1))}


@pytest.fixture(scope="module")
def climbed():
    """{step: averages} while the parameter goes 1, 2, 3, ... from 0, through the public step."""
    step = jax.jit(train.make_step(Climbing(), optax.sgd(1.0), ema=NAMES))
    state = train.init(Climbing(), optax.sgd(1.0), BATCH, jax.random.key(0), ema=NAMES)
    seen = {}
    for k in range(1, 101):
        state, _ = step(state, BATCH, jax.random.key(1))
        seen[k] = {name: float(ema["p"]) for name, ema in state.ema.items()}
        assert state.params["p"] == k
    return seen


@pytest.mark.parametrize(("name", "k", "value"), [
    # G15, huggingface/diffusers#1864 and #5783: a warm-up that overwrites the decay gives 99.0, no update 0
    ("decay_0.9", 10, 4.138106), ("decay_0.9", 100, 91.000239), ("warmup_0.9999", 100, 89.9000),
])
def test_averages_are_those_of_the_documented_decay(climbed, name, k, value):
    assert climbed[k][name] == pytest.approx(value, rel=1e-6)


def test_the_first_update_uses_k_equal_to_one(climbed):
    assert climbed[1]["decay_0.9"] == pytest.approx(0.1, rel=1e-6)
    assert climbed[1]["warmup_0.9999"] == pytest.approx(1 - 2 / 11, rel=1e-6)  # (1 + 1)/(10 + 1)
    assert climbed[1]["power_0.05"] == 1  # a power function forgets the initial parameters at once


@pytest.mark.parametrize(("name", "length"), [("power_0.05", 0.05), ("power_0.1", 0.1)])
def test_a_power_average_weighs_by_a_power_of_the_step(climbed, name, length):
    # d_k = ((k-1)/k)^(γ+1) telescopes: step j weighs (j^(γ+1) - (j-1)^(γ+1))/k^(γ+1) in the end
    power = averages.power_exponent(length) + 1
    for k in (2, 10, 100):
        j = np.arange(1, k + 1)
        weight = (j**power - (j - 1.0) ** power) / k**power
        assert weight.sum() == pytest.approx(1)
        assert climbed[k][name] == pytest.approx((weight * j).sum(), rel=1e-5)


@pytest.mark.parametrize(("length", "gamma"), [(0.05, 16.9722), (0.10, 6.9372)])
def test_power_exponents_are_those_of_edm2(length, gamma):
    found = averages.power_exponent(length)
    assert found == pytest.approx(gamma, abs=5e-5)  # MATHEMATICS 5; Karras et al. 2024, sec. 3.1: 16.97 and 6.94
    # `length` is the standard deviation of t on [0, 1] under the weight t^γ, a beta distribution
    assert beta(found + 1, 1).std() == pytest.approx(length, rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_constants_are_kept_to_the_bit(name):
    params = {"many": jax.random.normal(jax.random.key(0), (500,)), "far": jnp.array([1e-30, 7e20])}
    update = lambda i, ema: averages.advance(name, ema, params, i + 1)
    after = jax.jit(lambda ema: jax.lax.fori_loop(0, 10_000, update, ema))(params)
    for kept, given in zip(*map(jax.tree.leaves, (after, params)), strict=True):
        np.testing.assert_array_equal(kept, given)


def test_an_average_moves_in_small_steps():
    # in bfloat16 a decay of .999 never moves (MATHEMATICS 8, trap 9); this one is float32 and arrives
    update = lambda i, ema: averages.advance("decay_0.999", ema, jnp.float32(1), i + 1)
    after = jax.lax.fori_loop(0, 5_000, update, jnp.float32(0))
    assert after.dtype == jnp.float32
    assert float(after) == pytest.approx(1 - 0.999**5_000, rel=1e-3)


@pytest.mark.parametrize(("name", "words"), [
    ("decay", "needs a number after decay_"),
    ("decay_fast", "needs a number after decay_"),
    ("decay_1.0", "between 0 and 1"),
    ("decay_-0.5", "between 0 and 1"),
    ("decay_nan", "between 0 and 1"),
    ("warm_0.999", "unknown average 'warm_0.999'; did you mean 'warmup'"),
    ("mean", "unknown average 'mean'; "),
    ("power_0.5", "longer than any power function"),
])
def test_names_that_are_no_average_are_refused(name, words):
    for make in (averages.decay_of, lambda name: train.init(Climbing(), optax.sgd(1.0), BATCH, jax.random.key(0),
                                                            ema=(name,))):
        with pytest.raises(ValueError, match=words):
            make(name)


def test_a_run_keeps_an_average():
    with pytest.raises(ValueError, match="at least one average"):
        train.init(Climbing(), optax.sgd(1.0), BATCH, jax.random.key(0), ema=())
