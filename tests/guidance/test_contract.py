"""What all of guidance has in common: a new transform is one line of `EVERY` and meets every law here."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from laws import compilations, gaussian

from jaxdiff import build, denoiser, experiment, guidance, overrides, process, times

VP = process.VP()
NULL = {"label": np.int32(3)}
COND = {"label": jnp.array([0, 1, 2])}
TABLE = jnp.array([[1.3, -0.2, 0.4], [0.7, 0.8, -0.5], [0.9, 0.1, 0.6], [1.1, 0.3, 0.2]])  # the last is none
X = jax.random.normal(jax.random.key(0), (3, 4, 4, 3))
GRID = times.given(VP, t=(1.0, 0.9, 0.6, 0.4, 0.2))
EACH = jnp.array([0.9, 0.2, 0.4])  # levels σ/α of 59, .72 and 2.0
EACH_OF_GRID = jnp.array([0.9, 0.6, 0.4])


def toned(x, t, cond, table):
    """A made-up denoiser of pictures: its condition moves each channel, its time their contrast."""
    tones = table[0 if cond is None else cond["label"]]
    return 1.5 * jnp.tanh(x + tones[..., None, None, :]) / (1 + process.expand(jnp.asarray(t), x))


def likely(slope, x, t, cond):
    """A made-up classifier."""
    return -((slope * x.mean((1, 2, 3)) - cond["label"]) ** 2)


D = denoiser.from_function(toned, VP, TABLE)
WEAK = denoiser.from_function(toned, VP, 0.5 * TABLE)
free = functools.partial(guidance.classifier_free, null=NULL)

SCALED = {  # (denoiser, w) -> denoiser, off at w = 1
    "classifier_free": lambda d, w: free(d, scale=w),
    "negative": lambda d, w: guidance.negative(d, scale=w, away={"label": np.int32(1)}),
    "projected": lambda d, w: guidance.projected(d, scale=w, null=NULL, eta=0.3, radius=4.0),
    "autoguidance": lambda d, w: guidance.autoguidance(d, scale=w, weak=WEAK),
    "classifier": lambda d, w: guidance.classifier(d, log_prob=Partial(likely, 0.8), power=w - 1.0),
    "interval": lambda d, w: guidance.interval(free(d, scale=w), low=0.3, high=10.0),
    "rescale": lambda d, w: guidance.rescale(free(d, scale=w), phi=0.7),
}
EVERY = SCALED | {
    "cfg_plus_plus": lambda d, w: guidance.cfg_plus_plus(d, weight=w, null=NULL, times=GRID),
    "static_threshold": lambda d, w: guidance.static_threshold(free(d, scale=w)),
    "dynamic_threshold": lambda d, w: guidance.dynamic_threshold(free(d, scale=w), quantile=0.9),
}
COMPOSED = {
    "threshold of rescaled": lambda d, w: guidance.dynamic_threshold(guidance.rescale(free(d, scale=w))),
    "rescaled threshold": lambda d, w: guidance.rescale(guidance.dynamic_threshold(free(d, scale=w))),
    "rescaled interval": lambda d, w: guidance.rescale(guidance.interval(free(d, scale=w), high=5.0)),
    "interval of rescaled": lambda d, w: guidance.interval(guidance.rescale(free(d, scale=w)), high=5.0),
    "interval of threshold": lambda d, w: guidance.interval(guidance.static_threshold(free(d, scale=w)), high=5.0),
    "threshold of interval": lambda d, w: guidance.static_threshold(guidance.interval(free(d, scale=w), high=5.0)),
    "two guides": lambda d, w: guidance.autoguidance(free(d, scale=w), scale=1.5, weak=free(WEAK, scale=w)),
    "guided by a guided one": lambda d, w: free(SCALED["projected"](d, w), scale=1.5, batched=False),
}
every = pytest.mark.parametrize("make", (EVERY | COMPOSED).values(), ids=EVERY | COMPOSED)
scaled = pytest.mark.parametrize("make", SCALED.values(), ids=SCALED)


def test_lists_are_complete():
    assert set(EVERY) == set(guidance.__all__)


@scaled
@pytest.mark.parametrize("wrap", [jax.jit, lambda f: f], ids=["jit", "eager"])
@pytest.mark.parametrize("t", [0.4, EACH], ids=["one time", "a time each"])
def test_scale_one_is_off_to_the_bit(make, wrap, t):
    run = wrap(lambda d: d(X, t, COND))
    np.testing.assert_array_equal(run(make(D, 1.0)), run(D))
    assert (run(make(D, 3.0)) != run(D)).any()


@every
def test_every_sample_has_its_own_time_and_is_guided_alone(make):
    d = make(D, 2.5)
    together = d(X, EACH_OF_GRID, COND)
    for i in range(3):
        alone = d(X[i:i + 1], EACH_OF_GRID[i], {"label": COND["label"][i:i + 1]})
        np.testing.assert_allclose(together[i], alone[0], rtol=1e-5, atol=1e-5)


@scaled
def test_every_sample_may_have_its_own_scale(make):
    w = jnp.array([0.0, 1.0, 4.0])
    together = make(D, w)(X, 0.4, COND)
    for i in range(3):
        np.testing.assert_allclose(together[i], make(D, float(w[i]))(X, 0.4, COND)[i], rtol=1e-5, atol=1e-5)


@every
def test_a_new_scale_compiles_nothing(make):
    run = jax.jit(lambda d, x: d(x, 0.4, COND))
    first = run(make(D, 1.5), X)
    with compilations() as count:
        others = [run(make(denoiser.from_function(toned, VP, TABLE), w), X) for w in (2, 2.5, 7.0)]
        assert count() == 0
    assert all((other != first).any() for other in others)


@every
def test_transforms_go_through_jit_vmap_and_grad(make, x64):
    x = jnp.asarray(X, jnp.float64)
    of = lambda table, w: make(denoiser.from_function(toned, VP, table), w)(x, 0.4, COND)
    tables = jnp.stack([jnp.asarray(TABLE, jnp.float64), 1.1 * TABLE])
    run = jax.jit(of)
    np.testing.assert_allclose(run(tables[0], 2.0), of(tables[0], 2.0), rtol=1e-9)
    mapped = jax.jit(jax.vmap(of))(tables, jnp.array([2.0, 3.0]))
    np.testing.assert_allclose(mapped[1], run(tables[1], 3.0), rtol=1e-9, atol=1e-12)
    of_table, of_scale = jax.jit(jax.grad(lambda table, w: of(table, w).sum(), (0, 1)))(tables[0], 2.5)
    difference = run(tables[0], 2.5 + 1e-5).sum() - run(tables[0], 2.5 - 1e-5).sum()
    assert of_scale == pytest.approx(float(difference) / 2e-5, rel=1e-5)
    assert jnp.isfinite(of_table).all() and (of_table != 0).any()


@scaled
def test_an_interval_switches_every_guide(make):
    guided = make(D, 3.0)  # at t = .4 the level is 2.0
    np.testing.assert_array_equal(guidance.interval(guided, low=1.0)(X, 0.4, COND), guided(X, 0.4, COND))
    np.testing.assert_array_equal(guidance.interval(guided, low=3.0)(X, 0.4, COND), D(X, 0.4, COND))


@pytest.mark.parametrize(("one", "other"), [("rescaled interval", "interval of rescaled"),
                                            ("interval of threshold", "threshold of interval")])
def test_an_interval_may_come_before_or_after(one, other):
    np.testing.assert_array_equal(*(COMPOSED[name](D, 3.0)(X, EACH, COND) for name in (one, other)))


def test_a_chain_of_a_config_is_what_one_writes_by_hand():
    digits = overrides.load(str(Path(__file__).parents[2] / "configs" / "digits.py") + ":tiny")
    chain = {
        "classifier_free": {"scale": 3.0}, "interval": {"low": 0.5, "high": 20.0}, "rescale": {"phi": 0.5},
        "dynamic_threshold": {"quantile": 0.9},
    }
    config = overrides.apply(digits, [("guidance", str({"chain": tuple(chain), **chain}))])
    made = experiment.model(config, experiment.loader(config, experiment.meshed(config)).example)
    d = denoiser.from_function(toned, made.process, jnp.linspace(-1, 1, 33).reshape(11, 3))
    by_hand = guidance.classifier_free(d, scale=3.0, null=made.null)
    by_hand = guidance.rescale(guidance.interval(by_hand, low=0.5, high=20.0), phi=0.5)
    by_hand = guidance.dynamic_threshold(by_hand, quantile=0.9)
    built = experiment.generation(config, made).guided(d)
    assert jax.tree.structure(built) == jax.tree.structure(by_hand)
    t = jnp.array([0.001, 0.1, 0.5])  # levels of .08, 8 and 40
    np.testing.assert_array_equal(built(X, t, COND), by_hand(X, t, COND))


plain = gaussian(VP)
BAD = {
    "got 'high'": lambda: build.build({"name": "classifier_free", "scale": "high"}, guidance, null=NULL)(D),
    "the scale of guidance must be a number, got '2'": lambda: free(D, scale="2"),
    "must be a number, got True": lambda: guidance.autoguidance(D, scale=True, weak=WEAK),
    "needs a condition, got cond=None": lambda: guidance.negative(plain, scale=2.0, away=NULL),
    "the guidance before them in a chain, and there is none": lambda: guidance.interval(plain, low=0.1),
    "and there is none; put": lambda: guidance.interval(EVERY["cfg_plus_plus"](D, 0.5), low=0.1),
    "put one such as 'classifier_free' before": lambda: guidance.rescale(guidance.static_threshold(plain)),
    "0 <= low < high, got 3.0 and 2.0": lambda: guidance.interval(EVERY["autoguidance"](D, 2.0), low=3, high=2),
    "phi in [0, 1], got 7.0": lambda: guidance.rescale(plain, phi=7),
    "the bound of a threshold must be > 0, got 0.0": lambda: guidance.static_threshold(plain, bound=0),
    "must be > 0, got -1.0": lambda: guidance.dynamic_threshold(plain, bound=-1.0),
    "a share in (0, 1], got 99.5": lambda: guidance.dynamic_threshold(plain, quantile=99.5),
    "radius of projected guidance must be > 0, got 0.0": lambda: guidance.projected(D, scale=2.0, null=NULL, radius=0),
    "no step of it starts at t = 0.3": lambda: guidance.cfg_plus_plus(D, weight=0.5, null=NULL, times=GRID),
    "compares two denoisers of one process": lambda: guidance.autoguidance(D, scale=2.0, weak=gaussian(process.EDM())),
    "at t = 1 RectifiedFlow is pure noise": lambda: guidance.classifier(gaussian(process.RectifiedFlow()),
                                                                        log_prob=Partial(likely, 1.0)),
    "jax.tree_util.Partial(likely)": lambda: guidance.classifier(plain, log_prob=likely),
    "one number a sample, [3], got []": lambda: guidance.classifier(plain, log_prob=Partial(lambda x, t, c: x.sum())),
}


@pytest.mark.parametrize(("message", "make"), BAD.items(), ids=BAD)
def test_what_cannot_be_guided_is_named(message, make):
    with pytest.raises(ValueError, match=".") as raised:
        make()(X, 0.3, None if "cond=None" in message else COND)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_a_grid_is_known_by_its_times_in_float32_too():
    d = guidance.cfg_plus_plus(D, weight=0.5, null=NULL, times=GRID)
    np.testing.assert_array_equal(d(X, np.float32(0.6), COND), d(X, 0.6, COND))
    with pytest.raises(ValueError, match="no step of it starts at"):
        d(X, jnp.array([0.9, 0.6, 0.2]), COND)  # the last time starts no step
