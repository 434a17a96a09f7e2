"""The exact law of stochastic samplers on Gaussian data: no Monte Carlo, checked against the target.

There a sampler is affine in its noises, so that one batch of basis noises gives mean and variance (`laws.exact_law`).
"""

import functools

import numpy as np
import pytest
from laws import DETERMINISTIC, PROCESSES, SAMPLERS, STOCHASTIC, ends, exact_law, gaussian_flow, levels, matched_times

from jaxdiff import process, samplers, times

MEAN, STD = 0.3, 0.25


def variance_error(sampler, steps, of=None, mean=MEAN, std=STD):
    """Of the law at σ/α = .02, started at 80, on EDM's grid: relative to the target α² S² + σ²."""
    of = of or process.EDM()
    grid = matched_times(of, levels(steps))
    found_mean, found = exact_law(sampler, of, grid, mean, std)
    alpha, sigma = ends(of, grid.t[-1])
    assert found_mean == pytest.approx(alpha * mean, abs=0.02 if sampler in DETERMINISTIC.values() else 1e-10)
    return found / (alpha**2 * std**2 + sigma**2) - 1


# MATHEMATICS 7.5, measured on k-diffusion (reference/math/t_moments.py) for N(.3, .25²), Karras levels 80 to .02,
# N = 32, 64, 128: what others' samplers do at the same setting.
PEERS = {
    "euler_ancestral": (functools.partial(samplers.ddim, eta=1.0), (-2.89e-1, -1.63e-1, -8.66e-2)),
    "heun churn 40": (functools.partial(samplers.heun, s_churn=40.0), (9.74e-2, 4.01e-2, 1.47e-2)),
}


@pytest.mark.smoke
@pytest.mark.parametrize("name", PEERS)
def test_variance_is_that_of_peers_samplers(name, x64):
    sampler, published = PEERS[name]
    for steps, error in zip((32, 64, 128), published, strict=True):
        assert variance_error(sampler, steps) == pytest.approx(error, rel=6e-3)  # printed to three digits


@pytest.mark.parametrize("name", STOCHASTIC)
@pytest.mark.parametrize("of", [process.EDM(), process.VP()], ids=["edm", "vp"])
def test_the_variance_converges_to_the_data(name, of, x64):
    errors = [abs(variance_error(STOCHASTIC[name], steps, of)) for steps in (64, 128, 256)]
    assert errors[0] > 1.6 * errors[1] > 1.6**2 * errors[2]  # weak order 1, or better
    assert errors[2] < 0.06


@pytest.mark.parametrize("name", ["heun_churn", "heun"])
def test_heun_halves_its_error_twice(name, x64):
    errors = [variance_error(SAMPLERS[name], steps) for steps in (128, 256)]
    assert 3.2 < errors[0] / errors[1] < 5


@pytest.mark.parametrize("name", ["ddim_half", "ddim_one", "ancestral_small", "euler_churn", "heun_churn"])
def test_the_law_depends_on_the_noise_levels_alone(name, x64):
    found = [variance_error(STOCHASTIC[name], 12, of) for of in PROCESSES.values()]
    np.testing.assert_allclose(found, found[0], rtol=1e-9)


@pytest.mark.parametrize("name", ["ddim", "ddim_half", "ddim_one", "ancestral_small"])
@pytest.mark.parametrize("of", PROCESSES.values(), ids=PROCESSES)
def test_a_point_is_sampled_exactly(name, of, x64):
    # DDPM's small variance is right for data at a point (Ho et al. 2020, sec. 3.2), and so is DDIM of any η:
    # at every level the law is that of the noise, however few the steps.
    grid = matched_times(of, [40.0, 3.0, 0.5])
    mean, variance = exact_law(SAMPLERS[name], of, grid, 0.3, 0.0)
    alpha, sigma = ends(of, grid.t[-1])
    assert mean == pytest.approx(alpha * 0.3, rel=1e-10)
    assert variance == pytest.approx(sigma**2, rel=1e-10)


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("key", ["vp", "cosine"])
def test_white_data_are_sampled_exactly_with_the_large_variance(key, steps, x64):
    # DDPM's large variance is right for N(0, 1) under a process that preserves variance: 1 before and after any step.
    of = PROCESSES[key]
    grid = matched_times(of, np.geomspace(40.0, 0.1, steps + 1))
    large = exact_law(STOCHASTIC["ancestral_large"], of, grid, 0.0, 1.0)
    assert large == pytest.approx((0, 1), abs=1e-12)
    assert exact_law(STOCHASTIC["ancestral_small"], of, grid, 0.0, 1.0)[1] < 0.999


def test_the_small_variance_is_ddim_with_eta_one(x64):
    for of in PROCESSES.values():
        grid = times.karras(of, steps=6)
        small, ddim = (exact_law(STOCHASTIC[name], of, grid) for name in ("ancestral_small", "ddim_one"))
        assert small == pytest.approx(ddim, rel=1e-12)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("of", PROCESSES.values(), ids=PROCESSES)
def test_a_whole_run_to_the_data_has_their_mean_and_variance(name, of, x64):
    # edges included: pure noise at t = 1 where there is any, the denoised estimate at 0
    grid = times.karras(of, steps=100, sigma_min=0.01)
    mean, variance = exact_law(SAMPLERS[name], of, grid)
    assert mean == pytest.approx(MEAN, abs=5e-3)
    assert variance == pytest.approx(STD**2, rel=0.15)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_deterministic_sampler_keeps_the_law_it_flows_along(name, x64):
    of = process.VP()
    grid = matched_times(of, levels(40))
    _, variance = exact_law(DETERMINISTIC[name], of, grid)
    alpha, sigma = ends(of, grid.t[0])
    one = gaussian_flow(of, 1.0, grid.t[0], grid.t[-1]) - gaussian_flow(of, 0.0, grid.t[0], grid.t[-1])
    assert variance == pytest.approx(one**2 * (alpha**2 * STD**2 + sigma**2), rel=0.25)


def test_noise_scales_with_s_noise(x64):
    # at s_noise = 0 churn raises the level and adds nothing: the law is too narrow, and by more the more churn
    of = process.EDM()
    silent = [exact_law(functools.partial(samplers.heun, s_churn=churn, s_noise=0.0), of, matched_times(of, levels(64)))
              for churn in (5.0, 20.0)]
    assert silent[1][1] < silent[0][1] < STD**2


def test_churn_keeps_to_its_levels(x64):
    of = process.EDM()
    grid = matched_times(of, levels(32))
    run = lambda **options: exact_law(functools.partial(samplers.heun, **options), of, grid)
    assert run(s_churn=20.0, s_min=100.0) == pytest.approx(run(), rel=1e-12)
    assert run(s_churn=20.0, s_max=0.01) == pytest.approx(run(), rel=1e-12)
    within = run(s_churn=20.0, s_min=0.05, s_max=50.0)
    assert within != pytest.approx(run(), rel=1e-3)
    assert within != pytest.approx(run(s_churn=20.0), rel=1e-4)
