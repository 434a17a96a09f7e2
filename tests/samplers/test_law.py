"""The exact law of stochastic samplers on Gaussian data: no Monte Carlo, checked against the target.

There a sampler is affine in its noises, so that one batch of basis noises gives mean and variance (`laws.exact_law`).
"""

import functools
import itertools

import numpy as np
import pytest
from laws import (
    DETERMINISTIC, KINDS, OF_THE_CLOCK, PARTS, PROCESSES, SAMPLERS, STOCHASTIC, WEAK_ORDERS, ends, exact_law,
    gaussian_flow, levels, matched_times,
)

from jaxdiff import process, samplers, times

MEAN, STD = 0.3, 0.25


def variance_error(sampler, steps, of=None, mean=MEAN, std=STD, draws=2, turns=16):
    """Of the law at σ/α = .02, started at 80, on EDM's grid: relative to the target α² S² + σ²."""
    of = of or process.EDM()
    grid = matched_times(of, levels(steps))
    found_mean, found = exact_law(sampler, of, grid, mean, std, draws, turns)
    alpha, sigma = ends(of, grid.t[-1])
    assert found_mean == pytest.approx(alpha * mean, abs=0.02 if sampler in DETERMINISTIC.values() else 2e-3)
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


CLOCKED = [(name, key) for name, (_, order, _) in WEAK_ORDERS.items() if order
           for key in ("edm", "vp") if key == "edm" or name.startswith("euler_maruyama")]


@pytest.mark.parametrize(("name", "key"), CLOCKED)
def test_the_variance_converges_to_the_data_at_its_weak_order(name, key, x64):
    # halves with every doubling of the steps, or quarters
    errors = np.abs([variance_error(STOCHASTIC[name], steps, PROCESSES[key]) for steps in (128, 256)])
    gain = np.log2(errors[0] / errors[1])
    order = WEAK_ORDERS[name][1]
    assert order - 0.2 < gain < order + 0.5, gain
    assert errors[1] < (0.2 if name == "euler_maruyama_more" else 0.09 if order == 1 else 0.005)


@pytest.mark.parametrize("name", [name for name in STOCHASTIC if not name.startswith("euler_maruyama")])
def test_the_law_depends_on_the_noise_levels_alone(name, x64):
    some = PROCESSES if name in ("ddim_half", "heun_churn") else KINDS
    found = [variance_error(STOCHASTIC[name], 12, of) for key, of in some.items()]
    same = found if name != "ancestral_large" else found[:1]  # whose variance is a choice of the process's frame
    np.testing.assert_allclose(same, same[0], rtol=1e-9)


@pytest.mark.parametrize("noise", [0.0, 0.5, 1.0, 1.4])
@pytest.mark.parametrize("of", KINDS.values(), ids=KINDS)
def test_every_reverse_sde_of_the_family_has_the_same_marginals(of, noise, x64):
    # Song et al. 2021, eq. 6 and 13, and Karras et al. 2022, eq. 6: at a middle level, by many small steps
    start = 5.0
    grid = matched_times(of, np.geomspace(start, 0.4, 2_000))
    mean, variance = exact_law(functools.partial(samplers.euler_maruyama, noise=noise), of, grid, draws=1)
    alpha, sigma = ends(of, grid.t[-1])
    assert mean == pytest.approx(alpha * MEAN, abs=2e-3)
    assert variance == pytest.approx(alpha**2 * STD**2 + sigma**2, rel=8e-3)


def langevin_law(grid, snr, corrections):
    """(mean, variance) of reverse diffusion with a Langevin corrector on EDM's process, by its recursion."""
    level = 80 * np.asarray(grid.t)
    mean, variance = MEAN, STD**2 + level[0] ** 2
    score = lambda sigma: (-1 / (STD**2 + sigma**2), MEAN / (STD**2 + sigma**2))  # of N(MEAN, STD² + σ²): slope, offset
    for sigma, after in itertools.pairwise(level):
        slope, offset = score(sigma)
        for _ in range(corrections):
            h = 2 * (snr * sigma) ** 2
            mean, variance = mean + h * (slope * mean + offset), (1 + h * slope) ** 2 * variance + 2 * h
        h = sigma**2 - after**2
        mean, variance = mean + h * (slope * mean + offset), (1 + h * slope) ** 2 * variance + h
    return mean, variance


@pytest.mark.parametrize(("snr", "corrections"), [(0.16, 0), (0.16, 1), (0.3, 2)])
def test_the_corrector_is_langevin_dynamics_with_step_2_snr_sigma_squared(snr, corrections, x64):
    of = process.EDM()
    grid = matched_times(of, levels(24))
    sampler = functools.partial(samplers.predictor_corrector, snr=snr, corrections=corrections)
    found = exact_law(sampler, of, grid, draws=3)
    assert found == pytest.approx(langevin_law(grid, snr, corrections), rel=1e-9)


def test_correction_mends_what_the_predictor_got_wrong(x64):
    run = lambda corrections: variance_error(
        functools.partial(samplers.predictor_corrector, corrections=corrections, snr=0.1), 128, draws=3)
    assert abs(run(2)) < 0.7 * abs(run(0))


def test_a_restart_is_of_second_order_as_heun_is(x64):
    run = lambda steps: variance_error(
        functools.partial(samplers.restart, intervals=((0.06, 0.3, steps // 4, 2),)), steps, draws=1, turns=80)
    assert 3.2 < run(64) / run(128) < 5.5


def test_a_restart_mends_what_the_ode_got_wrong(x64):
    # a biased start, of 3 times the noise: what it did to the law contracts with every turn
    def error(turns):
        of, intervals = process.EDM(), ((0.1, 5.0, 16, turns),) if turns else ()
        grid = matched_times(of, levels(64, 0.5, 0.02))
        sampler = functools.partial(samplers.restart, intervals=tuple((0.03, 0.4, s, n) for _, _, s, n in intervals))
        wrong = lambda d, x, grid, **options: sampler(d, 3 * x, grid, **options)
        return abs(exact_law(wrong, of, grid, turns=40)[1] / (STD**2 + 0.02**2) - 1)

    errors = [error(turns) for turns in (0, 1, 2)]
    assert errors[0] > 3 * errors[1] > 9 * errors[2]


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


WHOLE = [(name, key) for name in PARTS for key in (PROCESSES if name in ("ddim", "heun_churn") else ("vp", "flow"))]


@pytest.mark.parametrize(("name", "key"), WHOLE)
def test_a_whole_run_to_the_data_has_their_mean_and_variance(name, key, x64):
    # edges included: pure noise at t = 1 where there is any, the denoised estimate at 0
    of = PROCESSES[key]
    grid = times.karras(of, steps=100, sigma_min=0.01)
    mean, variance = exact_law(SAMPLERS[name], of, grid)
    assert mean == pytest.approx(MEAN, abs=2e-2)
    assert variance == pytest.approx(STD**2, rel=0.3 if name.startswith("euler_maruyama") else 0.15)


@pytest.mark.parametrize("name", [name for name in PARTS if name in DETERMINISTIC and name not in OF_THE_CLOCK])
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
