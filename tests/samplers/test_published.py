"""Every sampler takes the path of its paper's pseudocode, written out again in numpy, noise by noise."""

import functools
from itertools import pairwise

import jax.numpy as jnp
import numpy as np
import pytest
from laws import PROCESSES, ends, gaussian, matched_times

from jaxdiff import process, samplers, times, walk

MEAN, STD = 0.3, 0.25
X = np.array([0.4, -1.1, 0.9])
LEVELS = [30.0, 7.0, 2.0, 0.6, 0.1]
NOISES = np.random.default_rng(0).standard_normal((8, 3))


def denoise(x, alpha, sigma):
    """E[x0 | x] of N(.3, .25²)."""
    return MEAN + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (x - alpha * MEAN)


def ours(sampler, of, grid, x, **options):
    """The sampler's output when its noises are NOISES, one a step."""
    draw = lambda key, index, mean, std: mean + std * jnp.asarray(NOISES)[index[0]]
    noted = functools.partial(walk.walk, draw=draw)
    return sampler(gaussian(of, MEAN, STD), jnp.asarray(x), grid, walk=noted, **options)


def edm_sampler(x, t_steps, s_churn, s_min, s_max, s_noise, second):
    """Karras et al. 2022, algorithm 2 (α = 1); algorithm 1 without churn, Euler's method without lines 8 and 9."""
    n, d = len(t_steps) - 1, lambda x, t: denoise(x, 1.0, t)
    for i in range(n):
        gamma = min(s_churn / n, np.sqrt(2) - 1) if s_min <= t_steps[i] <= s_max else 0
        t_hat = t_steps[i] + gamma * t_steps[i]
        x_hat = x + np.sqrt(t_hat**2 - t_steps[i] ** 2) * s_noise * NOISES[i]
        slope = (x_hat - d(x_hat, t_hat)) / t_hat
        x = x_hat + (t_steps[i + 1] - t_hat) * slope
        if second and t_steps[i + 1] != 0:
            corrected = (x - d(x, t_steps[i + 1])) / t_steps[i + 1]
            x = x_hat + (t_steps[i + 1] - t_hat) * (slope + corrected) / 2
    return x


@pytest.mark.parametrize("second", [False, True], ids=["euler", "heun"])
@pytest.mark.parametrize("of", PROCESSES.values(), ids=PROCESSES)
@pytest.mark.parametrize("options", [
    {}, {"s_churn": 1.0}, {"s_churn": 9.0, "s_noise": 1.007}, {"s_churn": 1.0, "s_min": 0.5, "s_max": 10.0},
], ids=["still", "churn", "most churn", "within levels"])
def test_edms_samplers_are_algorithms_1_and_2(of, second, options, x64):
    grid = matched_times(of, LEVELS)
    first, last = ends(of, grid.t[0])[0], ends(of, grid.t[-1])[0]
    x, _ = ours(samplers.heun if second else samplers.euler, of, grid, first * LEVELS[0] * X, **options)
    published = {"s_churn": 0.0, "s_min": 0.0, "s_max": np.inf, "s_noise": 1.0, **options}
    algorithm = edm_sampler(LEVELS[0] * X, LEVELS, second=second, **published)
    np.testing.assert_allclose(x / last, algorithm, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("second", [False, True], ids=["euler", "heun"])
def test_edms_last_step_into_the_data(second, x64):
    # algorithm 2 adds churn in the last step too; ours has none there (documented), so without churn they are one
    of = process.EDM()
    x, aux = ours(samplers.heun if second else samplers.euler, of, times.karras(of, steps=6), 80 * X)
    t_steps = np.append(80 * np.asarray(times.karras(of, steps=6).t[:-1]), 0)
    np.testing.assert_allclose(x, edm_sampler(80 * X, t_steps, 0.0, 0.0, np.inf, 1.0, second), rtol=1e-11)
    assert aux["nfe"] == (11 if second else 6)


def ddim_path(x, bars, eta):
    """Song, Meng & Ermon 2020, eq. 12 and 16, in their α (our α²)."""
    for i, (a_t, a_s) in enumerate(pairwise(bars)):
        eps = (x - np.sqrt(a_t) * denoise(x, np.sqrt(a_t), np.sqrt(1 - a_t))) / np.sqrt(1 - a_t)
        sigma = eta * np.sqrt((1 - a_s) / (1 - a_t)) * np.sqrt(1 - a_t / a_s)
        x0 = (x - np.sqrt(1 - a_t) * eps) / np.sqrt(a_t)
        x = np.sqrt(a_s) * x0 + np.sqrt(1 - a_s - sigma**2) * eps + sigma * NOISES[i]
    return x


@pytest.mark.parametrize("key", ["vp", "cosine"])
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_is_equation_12(key, eta, x64):
    of = PROCESSES[key]
    grid = matched_times(of, LEVELS, 0.0)
    bars = np.array([ends(of, t)[0] ** 2 for t in grid.t])
    x, _ = ours(samplers.ddim, of, grid, X, eta=eta)
    np.testing.assert_allclose(x, ddim_path(X, bars, eta), rtol=1e-10)


def ddpm_path(x, bars, large):
    """Ho, Jain & Abbeel 2020, algorithm 2 and eq. 7, from the ᾱ of successive steps."""
    for i, (bar, before) in enumerate(pairwise(bars)):
        beta = 1 - bar / before
        eps = (x - np.sqrt(bar) * denoise(x, np.sqrt(bar), np.sqrt(1 - bar))) / np.sqrt(1 - bar)
        variance = beta if large else (1 - before) / (1 - bar) * beta
        noise = NOISES[i] if before < 1 else 0  # z = 0 in the last step
        x = (x - beta / np.sqrt(1 - bar) * eps) / np.sqrt(1 - beta) + np.sqrt(variance) * noise
    return x


@pytest.mark.parametrize("key", ["vp", "cosine"])
@pytest.mark.parametrize("variance", ["small", "large"])
def test_ancestral_sampling_is_ddpms_algorithm_2(key, variance, x64):
    of = PROCESSES[key]
    grid = matched_times(of, LEVELS, 0.0)
    bars = np.array([ends(of, t)[0] ** 2 for t in grid.t])
    x, _ = ours(samplers.ancestral, of, grid, X, variance=variance)
    np.testing.assert_allclose(x, ddpm_path(X, bars, variance == "large"), rtol=1e-9)


def test_euler_on_equal_steps_of_a_flow_is_the_flows_own_euler_method(x64):
    # x_s = x_t - (t - s)(ε̂ - x̂0): for a flow, Euler's method in t and in σ/α are the same map
    of, x = process.RectifiedFlow(), X
    t = times.uniform(of, steps=6).t
    for now, then in pairwise(t):
        x0 = denoise(x, 1 - now, now)
        x = x - (now - then) * ((x - (1 - now) * x0) / now - x0)
    for sampler in (samplers.euler, samplers.ddim):
        np.testing.assert_allclose(ours(sampler, of, times.uniform(of, steps=6), X)[0], x, rtol=1e-11)
