"""The adaptive sampler keeps its tolerance, counts its calls, and lets no sample see another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import KINDS, PROCESSES, gaussian, gaussian_flow, mixture, mixture_flow

from jaxdiff import denoiser, process, times
from jaxdiff.samplers import adaptive

each_kind = pytest.mark.parametrize("of", KINDS.values(), ids=KINDS)


@pytest.mark.parametrize("key", [*KINDS, "sigmoid", "stable_to_zero"])
def test_the_error_keeps_to_the_tolerance(key, x64):
    of = PROCESSES[key]
    grid = times.karras(of, steps=2, sigma_min=0.01)
    ends = times.given(of, t=(grid.t[0], grid.t[-2]))
    x = process.prior_scale(of, grid.t[0]) * jnp.linspace(-2, 2, 8)
    exact = gaussian_flow(of, np.asarray(x), *ends.t)
    calls = []
    for tolerance in (1e-4, 1e-7):
        made, aux = adaptive(gaussian(of), x, ends, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(made, exact, atol=100 * tolerance)
        calls.append(aux["nfe"])
    assert (calls[0] < calls[1]).all()
    assert calls[1].max() < 200


@pytest.mark.parametrize("method", ["tsit5", "dopri5", "bosh3", "dopri8"])
def test_every_call_is_counted(method):
    calls = []

    def counted(x, t, cond):
        jax.debug.callback(lambda: calls.append(1))
        return 0.1 * x

    of = process.RectifiedFlow()
    grid = times.karras(of, steps=4, sigma_min=0.05)
    run = jax.jit(lambda x: adaptive(denoiser.from_function(counted, of), x, grid, method=method))
    jax.block_until_ready(run(jnp.ones((1, 2))))
    jax.effects_barrier()
    calls.clear()
    _, aux = jax.block_until_ready(run(jnp.ones((1, 2))))
    jax.effects_barrier()
    assert len(calls) == aux["nfe"][0] > 4


def test_the_mixtures_flow_is_followed_and_single_precision_is_enough():
    of, x = process.EDM(), 80 * np.random.default_rng(0).standard_normal((16, 2))
    exact = mixture_flow(x, 80.0, 0.05)
    ends = times.given(of, t=(1.0, 0.05 / 80))
    with jax.enable_x64(True):
        double, _ = adaptive(mixture(of), jnp.asarray(x), ends, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(double, exact, atol=1e-5)
    single, aux = adaptive(mixture(of), jnp.asarray(x, jnp.float32), ends, rtol=1e-5, atol=1e-5)
    assert single.dtype == jnp.float32
    assert np.median(np.linalg.norm(single - exact, axis=1)) < 1e-4
    assert aux["nfe"].max() < 300


@each_kind
def test_it_ends_in_the_data_and_goes_back_to_the_noise(of):
    grid, x = times.karras(of, steps=3), jnp.asarray([[0.2], [0.9]])
    up = times.given(of, t=grid.t[::-1])
    noise, aux = adaptive(gaussian(of), x, up, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(noise, gaussian_flow(of, np.asarray(x), 0.0, grid.t[0]), rtol=0.02, atol=0.01)
    assert aux["nfe"].shape == (2,)
    back, _ = adaptive(gaussian(of), noise, grid, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(back, x, atol=0.01)


@each_kind
def test_one_step_is_the_denoised_estimate(of):
    grid, x = times.karras(of, steps=1), jnp.ones((3, 2))
    made, aux = adaptive(gaussian(of), x, grid)
    np.testing.assert_allclose(made, gaussian(of)(x, jnp.float32(grid.t[0])), rtol=1e-6)
    assert aux["nfe"] == 1


def test_samples_do_not_see_their_neighbours():
    # G03: the error that chooses a sample's steps is its own
    of = process.VP()
    grid, x = times.karras(of, steps=3), jax.random.normal(jax.random.key(0), (5, 2))
    together, aux = adaptive(mixture(of), x, grid)
    for part in (slice(0, 1), slice(1, 5)):
        alone, own = adaptive(mixture(of), x[part], grid)
        np.testing.assert_allclose(alone, together[part], atol=2e-4)  # rounding moves the steps that the error chooses
        assert (abs(own["nfe"] - aux["nfe"][part]) <= 12).all()


def test_conditions_reach_it_and_gradients_pass():
    of = process.RectifiedFlow()
    shifted = denoiser.from_function(lambda x, t, cond: cond["mean"][:, None] + 0 * x, of)
    grid, x = times.karras(of, steps=3, sigma_min=0.05), jnp.ones((3, 2))
    mean = jnp.array([2.0, 0.0, -1.0])
    run = jax.jit(lambda mean: adaptive(shifted, x, grid, cond={"mean": mean})[0])
    np.testing.assert_allclose(run(mean), np.repeat(mean[:, None], 2, 1), atol=1e-5)
    np.testing.assert_allclose(jax.jit(jax.grad(lambda mean: run(mean).sum()))(mean), 2.0, rtol=1e-3)


def test_too_few_steps_give_nan_rather_than_a_wrong_sample():
    of = process.EDM()
    made, _ = adaptive(gaussian(of), jnp.ones((2, 1)), times.karras(of, steps=3), rtol=1e-6, atol=1e-6, max_steps=3)
    assert jnp.isnan(made).all()
