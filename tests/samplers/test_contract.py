"""What every sampler owes: the data at the end, an honest count, independence of the batch, every jax transform."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import (
    CALLS, DETERMINISTIC, END_IN_NOISE, PARTS, PROCESSES, SAMPLERS, STOCHASTIC, gaussian, gaussian_flow, mixture,
)

from jaxdiff import denoiser, process, samplers, times, walk

each_sampler = pytest.mark.parametrize("name", PARTS)
each_still = pytest.mark.parametrize("name", [name for name in PARTS if name in DETERMINISTIC])
each_noisy = pytest.mark.parametrize("name", [name for name in PARTS if name in STOCHASTIC])
STEPS = (1, 2, 3, 10)


@functools.partial(jax.jit, static_argnames=("sampler", "steps"))
def sampled(sampler, d, key, steps):
    """1,000 samples on karras's grid for each number of steps, in float32."""
    noise_key, key = jax.random.split(key)
    made = []
    for number in steps:
        grid = times.karras(d.process, steps=number)
        x = process.prior_scale(d.process, np.float64(grid.t[0])) * jax.random.normal(noise_key, (1_000,))
        made.append(sampler(d, x, grid, key)[0])
    return jnp.stack(made)


PLACES = [(name, key) for name in PARTS
          for key in (PROCESSES if name in ("ddim", "heun") else ("stable", "flow", "edm"))]


@pytest.mark.parametrize(("name", "key"), PLACES)
def test_a_point_mass_is_returned_and_few_steps_are_finite(name, key):
    # G01, lllyasviel/ControlNet#587: no sample keeps a trace of noise.  The same program, with another std,
    # then samples N(.3, .25²): grids of 1, 2 and 3 steps have no 0/0 in them (MATHEMATICS 9, T8).
    of = PROCESSES[key]
    points = sampled(SAMPLERS[name], gaussian(of, jnp.float32(0.3), jnp.float32(0)), jax.random.key(0), STEPS)
    assert points.shape == (4, 1_000)
    np.testing.assert_allclose(points, 0.3, atol=1e-5)
    assert float(points.max() - points.min()) < 1e-5
    spread = sampled(SAMPLERS[name], gaussian(of, jnp.float32(0.3), jnp.float32(0.25)), jax.random.key(0), STEPS)
    assert jnp.isfinite(spread).all()
    np.testing.assert_allclose(spread[0], 0.3, atol=2e-2)  # one step from (nearly) pure noise gives the mean
    if not name.startswith("euler_maruyama"):  # which needs more steps than 10
        np.testing.assert_allclose(spread[-1].mean(), 0.3, atol=0.1)


def calls_made(sampler, of, grid):
    """(denoiser calls, nfe): every call is counted, since nothing is compiled."""
    calls = []

    def counted(x, t, cond):
        calls.append(1)
        return 0.1 * x

    with jax.disable_jit():
        _, aux = sampler(denoiser.from_function(counted, of), jnp.ones((2, 1)), grid, jax.random.key(0))
    return len(calls), aux["nfe"]


@each_sampler
@pytest.mark.parametrize("key", ["vp", "flow"])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_nfe_is_the_number_of_calls(name, key, steps):
    calls, nfe = calls_made(SAMPLERS[name], PROCESSES[key], times.karras(PROCESSES[key], steps=steps))
    assert calls == nfe
    if name in ("plms", "pndm", "restart"):  # whose steps differ
        assert nfe >= steps
        return
    # the first step out of pure noise and the last into the data are first-order ones
    edges = 1 if steps == 1 or key not in END_IN_NOISE or name == "heun_angle" else 2
    assert nfe == CALLS[name] * (steps - edges) + edges


@pytest.mark.parametrize(("name", "nfe"), [("plms", 11), ("pndm", 19), ("restart", 19 + 16)])
def test_samplers_whose_steps_differ_count_each(name, nfe):
    of = process.EDM()
    assert calls_made(SAMPLERS[name], of, times.karras(of, steps=10)) == (nfe, nfe)


def test_nfe_counts_the_last_step_only_where_it_leads_to_the_data():
    of = process.EDM()
    assert calls_made(samplers.heun, of, times.given(of, t=(1.0, 0.5, 0.2))) == (4, 4)
    assert calls_made(samplers.ddim, of, times.given(of, t=(1.0, 0.5, 0.2))) == (2, 2)


@each_still
@pytest.mark.parametrize("key", ["vp", "flow"])
def test_nfe_is_the_number_of_calls_when_encoding(name, key):
    up = times.given(PROCESSES[key], t=(0.0, 0.3, 0.6, 1.0))
    calls, nfe = calls_made(DETERMINISTIC[name], PROCESSES[key], up)
    assert calls == nfe > 0


@each_sampler
def test_samples_do_not_see_their_neighbours(name):
    # G03, yang-song/score_sde_pytorch#41: sample i depends on its own key and nothing else
    of = process.RectifiedFlow()
    grid, keys = times.karras(of, steps=4), jax.random.split(jax.random.key(1), 7)
    x = process.prior_scale(of, grid.t[0]) * jax.random.normal(jax.random.key(2), (7, 2))
    run = lambda part: SAMPLERS[name](mixture(of), x[part], grid, keys[part])[0]
    together = run(slice(7))
    for part in (slice(0, 1), slice(1, 7)):
        np.testing.assert_allclose(run(part), together[part], rtol=5e-5, atol=1e-6)


@each_noisy
def test_keys_decide_the_sample(name):
    of = process.RectifiedFlow()
    grid = times.karras(of, steps=8)
    run = jax.jit(lambda key: STOCHASTIC[name](gaussian(of), jnp.zeros((2, 3)), grid, key)[0])
    np.testing.assert_array_equal(run(jax.random.key(0)), run(jax.random.key(0)))
    assert (run(jax.random.key(0)) != run(jax.random.key(1))).all()


@each_noisy
def test_a_missing_key_is_named(name):
    of = process.VP()
    with pytest.raises(ValueError, match="draws noise: give it a key"):
        STOCHASTIC[name](gaussian(of), jnp.zeros(2), times.karras(of, steps=3))


@each_still
def test_a_deterministic_sampler_ignores_its_key(name):
    of = process.VP()
    run = lambda key: DETERMINISTIC[name](gaussian(of), jnp.ones(2), times.karras(of, steps=3), key)[0]
    np.testing.assert_array_equal(run(None), run(jax.random.key(0)))


@each_sampler
@pytest.mark.parametrize("key", ["edm", "cosine"])
def test_observe_records_the_path(name, key):
    of = PROCESSES[key]
    grid = times.karras(of, steps=5)
    observing = functools.partial(walk.walk, observe=lambda row, x, x0: (row.t, x, x0))
    x, aux = SAMPLERS[name](gaussian(of), jnp.ones((3, 2)), grid, jax.random.key(0), walk=observing)
    t, path, clean = aux["seen"]
    if name != "restart":  # which goes back
        np.testing.assert_allclose(t, grid.t[:-1], rtol=1e-6)
    assert path.shape == clean.shape == (len(t), 3, 2)
    np.testing.assert_array_equal(path[-1], x)
    np.testing.assert_array_equal(clean[-1], x)  # the last step returns the denoised estimate
    assert jnp.isfinite(clean).all()


@each_sampler
def test_the_condition_reaches_every_call(name):
    def labelled(x, t, cond):
        return jnp.broadcast_to(cond["label"].astype(x.dtype)[:, None], x.shape)

    of = process.RectifiedFlow()
    label = jnp.array([2, 0, 1])
    x, _ = SAMPLERS[name](denoiser.from_function(labelled, of), jnp.ones((3, 2)), times.karras(of, steps=4),
                          jax.random.key(0), cond={"label": label})
    np.testing.assert_allclose(x, np.repeat(label[:, None], 2, 1), atol=1e-6)


@pytest.mark.parametrize("name", [name for name in STOCHASTIC if "churn" not in name])
def test_only_a_step_without_noise_encodes(name):
    of = process.VP()
    with pytest.raises(ValueError, match="a rising grid encodes, which only a step without noise can do: use "):
        STOCHASTIC[name](gaussian(of), jnp.ones(2), times.given(of, t=(0.1, 0.4, 0.8)), jax.random.key(0))


def run_on(name, mean):
    """A few steps of float32, as a function of the data's mean: linear in it, since the flow is."""
    of = process.RectifiedFlow()
    grid, x = times.karras(of, steps=4), 0.7 * jnp.ones((2, 2))
    return SAMPLERS[name](gaussian(of, mean, 0.25), x, grid, jax.random.key(5))[0]


@each_sampler
def test_every_transform_passes_through(name):
    run = functools.partial(run_on, name)
    zero, one = run(0.0), jax.jit(run)(1.0)
    for wrapped in (run, jax.checkpoint(run)):
        np.testing.assert_allclose(wrapped(1.0), one, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(jax.vmap(run)(jnp.array([0.0, 1.0])), [zero, one], rtol=1e-4, atol=1e-5)
    slope = (one - zero).sum()
    for differentiable in (run, jax.checkpoint(run)):
        found = jax.jit(jax.grad(lambda mean, f=differentiable: f(mean).sum()))(0.4)
        np.testing.assert_allclose(found, slope, rtol=1e-3)


@each_sampler
def test_pmap_gives_the_same_sample(name):
    of = process.VP()
    grid, x = times.karras(of, steps=3), jnp.ones((1, 2, 2))
    run = lambda d, x: SAMPLERS[name](d, x, grid, jax.random.key(5))[0]
    made = jax.pmap(run, in_axes=(None, 0), devices=jax.devices()[:1])(gaussian(of), x)
    np.testing.assert_allclose(made[0], run(gaussian(of), x[0]), rtol=1e-4, atol=1e-5)


@each_still
def test_images_are_sampled_as_vectors_are(name):
    of = process.VP()
    grid, x = times.karras(of, steps=30), jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    made, _ = DETERMINISTIC[name](gaussian(of), x, grid)
    assert made.shape == x.shape
    assert made.dtype == jnp.float32
    np.testing.assert_allclose(made, gaussian_flow(of, np.asarray(x), grid.t[0], 0.0), atol=0.2)


@pytest.mark.parametrize(("sampler", "options", "words"), [
    (samplers.ddim, {"eta": 1.5}, r"eta must lie in \[0, 1\], got 1.5"),
    (samplers.ddim, {"eta": -0.1}, "eta"),
    (samplers.ancestral, {"variance": "learned"}, "'small' or 'large', got 'learned'"),
    (samplers.heun, {"s_churn": -1.0}, "s_churn and s_noise must be >= 0, got -1"),
    (samplers.euler, {"s_noise": -1.0}, "s_noise"),
    (samplers.dpm_solver, {"order": 4}, "orders 1, 2 and 3, got 4"),
    (samplers.dpmpp_2s, {"eta": 2.0}, r"eta must lie in \[0, 1\], got 2.0"),
    (samplers.dpmpp_2m, {"form": "hune"}, "'midpoint' or 'heun', got 'hune'"),
    (samplers.dpmpp_3m, {"eta": -1.0}, "eta must be >= 0, got -1.0"),
    (samplers.unipc, {"order": 0}, "orders 1, 2 and 3, got 0"),
    (samplers.unipc, {"b": "bh3"}, "'bh1' or 'bh2', got 'bh3'"),
    (samplers.deis, {"order": 5}, "orders 1 to 4, got 5"),
    (samplers.deis, {"variable": "sigma"}, "one of log_ratio, ratio, time, got 'sigma'"),
    (samplers.lms, {"order": 0}, "orders 1 to 4, got 0"),
    (samplers.euler_maruyama, {"noise": -0.5}, "noise must be >= 0, got -0.5"),
    (samplers.predictor_corrector, {"predictor": "heun"}, "predictor must be one of reverse_diffusion"),
    (samplers.predictor_corrector, {"norms": "mean"}, "norms must be one of expected, own, batch, got 'mean'"),
    (samplers.predictor_corrector, {"corrections": -1}, "corrections must be >= 0"),
    (samplers.predictor_corrector, {"predictor": "none", "corrections": 0}, ">= 1 without a predictor, got 0"),
    (samplers.predictor_corrector, {"snr": 0.0}, "snr must be > 0, got 0.0"),
    (samplers.restart, {"intervals": ((0.1, 0.2, 3),)}, r"is \(low, high, steps, turns\), got \(0.1, 0.2, 3\)"),
    (samplers.restart, {"intervals": ((0.3, 0.2, 3, 1),)}, "low < high <= 152.167, where the grid starts, got low 0.3"),
    (samplers.restart, {"intervals": ((0.1, 200.0, 3, 1),)}, "high 200"),
    (samplers.restart, {"intervals": ((0.1, 0.2, 0, 1),)}, "steps >= 1 and turns >= 1, got 0 and 1"),
    (samplers.adaptive, {"method": "rk45"}, "one of tsit5, dopri5, bosh3, dopri8, got 'rk45'"),
    (samplers.adaptive, {"rtol": 0.0}, "must be > 0, got 0.0"),
])
def test_impossible_options_are_refused(sampler, options, words):
    of = process.VP()
    with pytest.raises(ValueError, match=words):
        sampler(gaussian(of), jnp.zeros(2), times.karras(of, steps=2), jax.random.key(0), **options)
