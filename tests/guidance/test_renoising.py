"""CFG++ adds back the unconditional noise: a first-order sampler on its grid becomes the paper's loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import KINDS, ends

from jaxdiff import guidance, process, samplers, times
from jaxdiff.denoiser import Denoiser

NULL = {"label": np.int32(2)}
COND = {"label": jnp.array([0, 1, 0])}
MEANS, STDS = np.array([0.8, -0.5, 0.1]), np.array([0.2, 0.3, 0.9])  # of labels 0, 1 and none


def by_label(d, x, t, cond):
    alpha, sigma = (process.expand(level(d.process, jnp.asarray(t, x.dtype)), x)
                    for level in (process.alpha, process.sigma))
    return predicted(x, alpha, sigma, jnp.asarray(MEANS)[cond["label"]][:, None],
                     jnp.asarray(STDS)[cond["label"]][:, None])


def predicted(x, alpha, sigma, mean, std):
    return mean + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (x - alpha * mean)


def paper(of, x, grid, weight):
    """Chung et al. 2024, algorithm 2, in numpy."""
    label = np.asarray(COND["label"])
    for t, s in zip(grid.t, grid.t[1:], strict=False):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = ends(of, t), ends(of, s)
        without = predicted(x, alpha_t, sigma_t, MEANS[2], STDS[2])
        wanted = predicted(x, alpha_t, sigma_t, MEANS[label][:, None], STDS[label][:, None])
        eps_without = (x - alpha_t * without) / sigma_t
        x = alpha_s * (without + weight * (wanted - without)) + sigma_s * eps_without
    return x


each_kind = pytest.mark.parametrize("of", KINDS.values(), ids=KINDS)
FIRST_ORDER = {"ddim": samplers.ddim, "euler": samplers.euler}


def start(of, grid):
    return ends(of, grid.t[0])[1] * jax.random.normal(jax.random.key(5), (3, 4))


@each_kind
@pytest.mark.parametrize("sampler", FIRST_ORDER.values(), ids=FIRST_ORDER)
@pytest.mark.parametrize("weight", [0.0, 0.6, 1.0])
def test_it_is_the_papers_loop(of, sampler, weight, x64):
    grid = times.karras(of, steps=8)
    guided = guidance.cfg_plus_plus(Denoiser(by_label, of), weight=weight, null=NULL, times=grid)
    x, aux = jax.jit(functools.partial(sampler, cond=COND))(guided, start(of, grid), grid)
    np.testing.assert_allclose(x, paper(of, np.asarray(start(of, grid)), grid, weight), rtol=1e-9)
    assert aux["nfe"] == 8


@each_kind
def test_in_float32_a_grid_is_found_again(of):
    grid = times.karras(of, steps=40)
    guided = guidance.cfg_plus_plus(Denoiser(by_label, of), weight=0.6, null=NULL, times=grid)
    x, _ = jax.jit(functools.partial(samplers.ddim, cond=COND))(guided, start(of, grid), grid)
    np.testing.assert_allclose(x, paper(of, np.asarray(start(of, grid), np.float64), grid, 0.6), rtol=2e-4, atol=2e-5)


@each_kind
def test_at_weight_zero_it_samples_without_condition(of, x64):
    grid = times.karras(of, steps=8)
    d = Denoiser(by_label, of)
    x, _ = samplers.ddim(guidance.cfg_plus_plus(d, weight=0.0, null=NULL, times=grid), start(of, grid), grid, cond=COND)
    bare, _ = samplers.ddim(d, start(of, grid), grid, cond={"label": jnp.full(3, 2)})
    np.testing.assert_allclose(x, bare, rtol=1e-12)


def test_it_is_classifier_free_guidance_that_grows_as_steps_get_shorter(x64):
    of = KINDS["edm"]
    grid = times.given(of, t=(1.0, 0.5, 0.4, 0.0))  # σ_s/σ_t of .5, .8 and 0
    x, d = start(of, grid), Denoiser(by_label, of)
    plus = guidance.cfg_plus_plus(d, weight=0.6, null=NULL, times=grid)
    for t, scale in ((1.0, 0.6 / 0.5), (0.5, 0.6 / 0.2), (0.4, 0.6)):
        expected = guidance.classifier_free(d, scale=scale, null=NULL)(x, t, COND)
        np.testing.assert_allclose(plus(x, t, COND), expected, rtol=1e-9)


@each_kind
def test_its_grid_rises_to_encode_as_well(of, x64):
    # the same algebra: x_s of the paper's loop, upwards
    falling = times.karras(of, steps=8).t[-2:1:-1]
    grid = times.given(of, t=falling)
    guided = guidance.cfg_plus_plus(Denoiser(by_label, of), weight=0.6, null=NULL, times=grid)
    x0 = jax.random.normal(jax.random.key(6), (3, 4))
    x, _ = samplers.ddim(guided, x0, grid, cond=COND)
    np.testing.assert_allclose(x, paper(of, np.asarray(x0), grid, 0.6), rtol=1e-9)
