"""`D(x, t, cond) = E[x0 | x]` is an argument of `jit`, whatever made it, and score, ε and velocity are views of it."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import PAIRS, PARAMETERIZATIONS, PROCESSES, gaussian

from jaxdiff import denoiser, parameterization, process
from jaxdiff.denoiser import Denoiser

each_process = pytest.mark.parametrize("of", PROCESSES.values(), ids=PROCESSES)
LABEL = {"label": jnp.array([0, 1, 1])}
X = jnp.array([[0.3, -1.0], [2.0, 0.1], [-0.4, 0.6]])


class Tiny(nn.Module):
    """Every argument of a network moves its output."""

    @nn.compact
    def __call__(self, x, c_noise, cond=None, *, train=False):
        label = 0 if cond is None else cond["label"][:, None]
        return nn.Dense(x.shape[-1])(jnp.tanh(nn.Dense(4)(x)) + jnp.sin(c_noise)[:, None] + label)


TINY = Tiny()
PARAMS = TINY.init(jax.random.key(0), X, jnp.zeros(3))


@each_process
def test_views_are_those_of_a_gaussian(of, x64):
    # x ~ N(α m, v) with v = α² s² + σ²: score (α m - x)/v, ε = -σ score, and dx/dt keeps (x - α m)/√v constant.
    mean, std, t = 0.3, 0.25, 0.4
    d, x = gaussian(of, mean, std), jnp.linspace(-2, 2, 7)
    a, s = process.alpha(of, t), process.sigma(of, t)
    d_a, d_s = process.slopes(of, t)
    v = a**2 * std**2 + s**2
    np.testing.assert_allclose(denoiser.score(d, x, t), (a * mean - x) / v, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(denoiser.eps(d, x, t), s * (x - a * mean) / v, rtol=1e-9, atol=1e-12)
    moves = d_a * mean + (x - a * mean) * (a * d_a * std**2 + s * d_s) / v
    np.testing.assert_allclose(denoiser.velocity(d, x, t), moves, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("view", [denoiser.score, denoiser.eps, denoiser.velocity, lambda d, *rest: d(*rest)])
def test_every_sample_may_have_its_own_time(view):
    d, t = gaussian(process.VP()), jnp.array([0.1, 0.5, 0.9])
    together = view(d, X, t)
    for i in range(3):
        np.testing.assert_allclose(together[i], view(d, X[i:i + 1], t[i])[0], rtol=2e-5, atol=1e-6)


FORMULAS = {  # x0 from the network's output y by hand
    "eps": lambda x, y, a, s, *_: (x - s * y) / a,
    "x0": lambda x, y, *_: y,
    "v": lambda x, y, a, s, *_: (a * x - s * y) / (a**2 + s**2),
    "score": lambda x, y, a, s, *_: (x + s**2 * y) / a,
    "velocity": lambda x, y, a, s, d_a, d_s: (d_s * x - s * y) / (a * d_s - s * d_a),
    "edm": lambda x, y, a, s, *_: (0.25 * a * x + 0.5 * s * jnp.sqrt(s**2 + 0.25 * a**2) * y) / (s**2 + 0.25 * a**2),
}


@pytest.mark.parametrize(("of", "name"), PAIRS)
def test_a_network_makes_the_denoiser_one_would_write_by_hand(of, name):
    of, kind, t = PROCESSES[of], PARAMETERIZATIONS[name], jnp.float32(0.4)
    a, s = process.alpha(of, t), process.sigma(of, t)
    data = 0.5 if name == "edm" else 1.0
    shown = X / jnp.sqrt(s**2 + data**2 * a**2)
    y = TINY.apply(PARAMS, shown, jnp.full(3, jnp.log(s / a) / 4), LABEL)
    made = denoiser.from_network(TINY, of, kind, PARAMS)
    expected = FORMULAS[name](X, y, a, s, *process.slopes(of, t))
    np.testing.assert_allclose(made(X, t, LABEL), expected, rtol=2e-4, atol=2e-5 * float(abs(expected).max()))


def test_a_denoiser_is_differentiable_in_its_parameters():
    def total(params):
        return denoiser.from_network(TINY, process.VP(), parameterization.v(), params)(X, 0.3).sum()

    slopes = jax.grad(total)(PARAMS)
    direction = jax.tree.map(lambda p: jnp.cos(jnp.arange(p.size, dtype=p.dtype)).reshape(p.shape), PARAMS)
    moved = [total(jax.tree.map(lambda p, d, h=h: p + h * d, PARAMS, direction)) for h in (1e-2, -1e-2)]
    along = sum(jnp.vdot(s, d) for s, d in zip(*map(jax.tree.leaves, (slopes, direction)), strict=True))
    assert along == pytest.approx(float(moved[0] - moved[1]) / 2e-2, rel=1e-3)
    assert all((leaf != 0).any() for leaf in jax.tree.leaves(slopes))


@denoiser.transform
def pushed(inner, x, t, cond, *, scale: float, towards=0.0, mode: str = "plain", other=None):
    """A transform with options of every kind."""
    x0 = inner(x, t, cond)
    base = towards if other is None else other(x, t, cond)
    return (jnp.tanh if mode == "squashed" else lambda z: z)(base + scale * (x0 - base))


def test_numbers_are_leaves_and_words_are_static():
    d = gaussian(process.VP(), 0.3, 0.25)
    made = pushed(d, scale=2, mode="squashed", other=gaussian(process.VP(), -1.0, 0.5))
    assert sorted(jax.tree.leaves(made)) == [-1.0, 0.0, 0.25, 0.3, 0.5, 2.0]
    structures = {jax.tree.structure(pushed(d, scale=s, mode=m)) for s in (1, 2.5) for m in ("plain", "squashed")}
    assert len(structures) == 2
    assert made.process == d.process


@pytest.mark.smoke
def test_three_checkpoints_and_three_scales_share_one_trace():
    traces = []

    @jax.jit
    def sample(d, x):
        traces.append(d)
        return d(x, 0.5, LABEL)

    outputs = set()
    for seed in range(3):
        params = Tiny().init(jax.random.key(seed), X, jnp.zeros(3))
        for scale in (1, 2.5, 4.0):
            made = denoiser.from_network(Tiny(), process.VP(), parameterization.v(), params)
            outputs.add(float(sample(pushed(made, scale=scale), X)[0, 0]))
    assert len(traces) == 1
    assert len(outputs) == 9


def test_transforms_go_through_jit_vmap_and_grad():
    made = pushed(gaussian(process.VP(), 0.3, 0.25), scale=3.0)
    np.testing.assert_allclose(jax.jit(lambda d: d(X, 0.5))(made), made(X, 0.5), rtol=1e-6)
    # the mean of the data is a leaf: D is linear in it, and so is three times D
    slope = jax.grad(lambda mean: pushed(gaussian(process.VP(), mean, 0.25), scale=3.0)(X, 0.5)[0, 0])(0.3)
    difference = [pushed(gaussian(process.VP(), mean, 0.25), scale=3.0)(X, 0.5)[0, 0] for mean in (0.0, 1.0)]
    assert slope == pytest.approx(float(difference[1] - difference[0]), rel=1e-4)


def test_checkpoints_are_stacked_and_mapped():
    many = [TINY.init(jax.random.key(seed), X, jnp.zeros(3)) for seed in range(3)]
    make = functools.partial(denoiser.from_network, TINY, process.VP(), parameterization.v())
    stacked = make(jax.tree.map(lambda *leaves: jnp.stack(leaves), *many))
    together = jax.vmap(lambda d: pushed(d, scale=2.0)(X, 0.5))(stacked)
    for i, params in enumerate(many):
        np.testing.assert_allclose(together[i], pushed(make(params), scale=2.0)(X, 0.5), rtol=1e-4, atol=1e-5)


def test_a_function_makes_a_denoiser_with_its_arguments_as_leaves():
    made = denoiser.from_function(lambda x, t, cond, scale: scale * x * t + cond["label"][:, None], process.EDM(), 3.0)
    assert jax.tree.leaves(made) == [3.0]
    np.testing.assert_allclose(made(X, 0.5, LABEL), 1.5 * X + LABEL["label"][:, None])


@pytest.mark.parametrize(("options", "words"), [({"scale": 1.0, "scala": 2.0}, "scala"), ({}, "scale")])
def test_options_that_a_transform_lacks_or_needs_are_named(options, words):
    with pytest.raises(TypeError, match=words):
        pushed(gaussian(process.VP()), **options)


def test_a_denoiser_is_refused_before_anything_compiles():
    with pytest.raises(ValueError, match="'eps' carries no x0"):
        denoiser.from_network(TINY, process.RectifiedFlow(), parameterization.eps(), PARAMS)


def test_equal_denoisers_have_equal_structure():
    make = functools.partial(denoiser.from_network, params=PARAMS)
    one, other = (make(Tiny(), process.VP(), parameterization.v()) for _ in range(2))
    assert jax.tree.structure(one) == jax.tree.structure(other)
    assert jax.tree.structure(one) != jax.tree.structure(make(Tiny(), process.VP(), parameterization.x0()))
    assert jax.tree.structure(one) != jax.tree.structure(make(Tiny(), process.EDM(), parameterization.v()))
    assert isinstance(one, Denoiser)
