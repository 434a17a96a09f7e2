"""A Gaussian seen through Gaussian noise has a posterior in closed form, and a classifier's gradient leads to it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from laws import PROCESSES, gaussian, gaussian_flow

from jaxdiff import denoiser, guidance, process, samplers, times

MEAN, STD, NOISE = 0.3, 0.5, 0.4
Y = {"y": np.array([[-1.0], [0.2], [2.0]])}
OPEN = [name for name, of in PROCESSES.items() if not process.ends_in_noise(of)]  # α(1) > 0


def seen(of, noise, x, t, cond):
    """ln p(y | x_t), where y = x0 + noise ε in every coordinate and x0 | x_t is a Gaussian."""
    alpha, sigma = (process.expand(level(of, jnp.asarray(t, x.dtype)), x) for level in (process.alpha, process.sigma))
    left = STD**2 * sigma**2 / (alpha**2 * STD**2 + sigma**2)  # variance of x0 | x_t
    return -0.5 * ((cond["y"] - gaussian(of, MEAN, STD)(x, t)) ** 2 / (left + noise**2)).sum(1)


def guided(of, **options):
    return guidance.classifier(gaussian(of, MEAN, STD), log_prob=Partial(Partial(seen, of), NOISE), **options)


def posterior(of):
    variance = 1 / (1 / STD**2 + 1 / NOISE**2)
    return gaussian(of, variance * (MEAN / STD**2 + Y["y"] / NOISE**2), variance**0.5)


@pytest.mark.parametrize("of", OPEN)
@pytest.mark.parametrize("t", [0.03, 0.4, [0.9, 0.5, 0.1]], ids=str)
def test_the_gradient_makes_the_posteriors_denoiser(of, t, x64):
    of, t = PROCESSES[of], jnp.asarray(t)
    x = jnp.linspace(-2, 2, 12).reshape(3, 4)
    np.testing.assert_allclose(guided(of)(x, t, Y), posterior(of)(x, t), rtol=1e-9, atol=1e-10)


def test_power_is_a_factor_on_the_gradient(x64):
    of, x = PROCESSES["vp"], jnp.linspace(-2, 2, 12).reshape(3, 4)
    plain = gaussian(of, MEAN, STD)(x, 0.4)
    once = guided(of)(x, 0.4, Y) - plain
    np.testing.assert_allclose(guided(of, power=2.5)(x, 0.4, Y), plain + 2.5 * once, rtol=1e-12)
    np.testing.assert_array_equal(guided(of, power=0.0)(x, 0.4, Y), plain)


def test_samples_are_those_of_the_posterior(x64):
    of = PROCESSES["edm"]
    grid = times.karras(of, steps=64)
    x = 80 * jnp.array([[0.0, 1.0, -2.0]]) * jnp.ones((3, 1))
    out, _ = samplers.heun(guided(of), x, grid, cond=Y)
    np.testing.assert_allclose(out, gaussian_flow(of, x, 1.0, 0.0, *posterior(of).args), rtol=2e-3, atol=2e-3)


def test_parameters_of_the_classifier_are_leaves():
    traces = []

    @jax.jit
    def run(d, x):
        traces.append(1)
        return d(x, 0.4, Y)

    outputs = {float(run(guidance.classifier(gaussian(PROCESSES["vp"]), log_prob=Partial(slope_only, slope)),
                         jnp.ones((3, 4)))[0, 0]) for slope in (0.5, 1.0, 2.0)}
    assert len(traces) == 1 and len(outputs) == 3


def slope_only(slope, x, t, cond):
    return slope * x.sum(1)


@pytest.mark.parametrize("cond", [Y, None], ids=["a condition", "none"])
def test_both_models_of_autoguidance_see_the_condition(cond):
    shown = []
    of = process.VP()
    d, weak = (denoiser.from_function(lambda x, t, cond, k: shown.append(cond) or k * x, of, k) for k in (1.0, 0.25))
    out = guidance.autoguidance(d, scale=3.0, weak=weak)(jnp.ones((3, 1)), 0.5, cond)
    np.testing.assert_array_equal(out, 0.25 + 3 * 0.75)
    assert len(shown) == 2 and all(seen is cond for seen in shown)
