"""Deterministic samplers follow the probability-flow ODE, at the order they claim, alike on every process."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import (
    DETERMINISTIC, END_IN_NOISE, KINDS, OF_THE_CLOCK, ORDERS, PROCESSES, STOCHASTIC, gaussian, gaussian_flow, levels,
    matched_times, mixture, mixture_flow,
)

from jaxdiff import process, samplers, times

run = jax.jit(lambda sampler, d, x, grid: sampler(d, x, grid)[0], static_argnames="sampler")
each_sampler = pytest.mark.parametrize("name", DETERMINISTIC)


def test_lists_are_complete():
    parts = [getattr(made, "func", made).__name__ for made in [*STOCHASTIC.values(), *DETERMINISTIC.values()]]
    assert {*parts, "adaptive"} == set(samplers.__all__)  # whose steps are its own: test_tolerant


def slopes(errors):
    """log2 of how much each doubling of the steps gains."""
    return np.log2(np.asarray(errors[:-1]) / np.asarray(errors[1:]))


def assert_order(errors, order, first=0):
    # the window of MATHEMATICS 2.6, over N = 64, 128, 256; high orders are there from 128 on
    found = slopes(errors)[max(first, int(order > 2)):]
    assert ((order - 0.15 < found) & (found < order + 0.35)).all(), slopes(errors)


# On EDM's own process; the others follow from `test_a_sampler_depends_on_the_noise_levels_alone`.
CLOCKED = [(name, key) for name in ORDERS for key in KINDS if key == "edm" or name in OF_THE_CLOCK]


@pytest.mark.smoke
@pytest.mark.parametrize(("name", "key"), CLOCKED)
def test_order_of_convergence_on_a_gaussian(name, key, x64):
    of, errors = PROCESSES[key], []
    for steps in (64, 128, 256):
        # DPM-Solver-3's error falls faster than its order on Karras's levels; on even logarithms it is at it
        grid = matched_times(of, np.geomspace(80, 0.02, steps + 1) if name == "dpm_solver_3" else levels(steps))
        start = float(process.alpha(of, grid.t[0]))
        x = start * 80 * jnp.linspace(-2, 2, 8)
        exact = gaussian_flow(of, np.asarray(x), grid.t[0], grid.t[-1])
        errors.append(np.abs(run(DETERMINISTIC[name], gaussian(of), x, grid) - exact).max())
    assert_order(errors, ORDERS[name][1])


@pytest.mark.parametrize("name", ["plms", "pndm"])
def test_pseudo_methods_are_of_second_order_on_equal_steps_of_time(name, x64):
    # what Liu et al. 2022 prove (theorem 3.1), whatever the order of the classical method in its place
    of, errors = process.VP(), []
    for steps in (128, 256):
        grid = times.given(of, t=tuple(np.linspace(0.9, 0.3, steps + 1)))
        x = jnp.linspace(-2, 2, 8)
        exact = gaussian_flow(of, np.asarray(x), 0.9, 0.3)
        errors.append(np.abs(run(DETERMINISTIC[name], gaussian(of), x, grid) - exact).max())
    assert_order([errors[0] * 4, *errors], 2)


@pytest.fixture(scope="module")
def mixture_path():
    x = 80 * np.random.default_rng(0).standard_normal((64, 2))
    return x, mixture_flow(x, 80.0, 0.02)


@each_sampler
def test_order_of_convergence_on_a_mixture(name, mixture_path, x64):
    x, exact = mixture_path
    of, errors = process.EDM(), []
    for steps in (64, 128, 256):
        grid = matched_times(of, np.geomspace(80, 0.02, steps + 1))
        made = run(DETERMINISTIC[name], mixture(of), jnp.asarray(x), grid)
        errors.append(np.median(np.linalg.norm(made - exact, axis=1)))  # a few points lie on a watershed
    assert_order(errors, ORDERS[name][1], first=1)


@pytest.mark.parametrize("name", [name for name in DETERMINISTIC if name not in OF_THE_CLOCK])
def test_a_sampler_depends_on_the_noise_levels_alone(name, x64):
    # σ/α from 10 to .02 matched, every process takes the same path x/α (MATHEMATICS 9, T4)
    x, noise_levels, ends = jnp.asarray([[0.3, -1.2], [0.8, 0.1]]), levels(12, 10.0), {}
    some = PROCESSES if name in ("heun", "ddim", "unipc_3") else KINDS
    for key, of in some.items():
        grid = matched_times(of, noise_levels)
        first, last = (process.alpha(of, t) for t in (grid.t[0], grid.t[-1]))
        ends[key] = run(DETERMINISTIC[name], mixture(of), first * 10 * x, grid) / last
    for key, end in ends.items():
        np.testing.assert_allclose(end, ends["edm"], rtol=1e-11, atol=1e-12, err_msg=key)


@pytest.mark.parametrize("of", PROCESSES.values(), ids=PROCESSES)
def test_ddim_without_noise_is_eulers_method(of, x64):
    x, grid = jnp.asarray([[0.3, -1.2], [0.8, 0.1]]), times.karras(of, steps=9)
    d, x = mixture(of), process.prior_scale(of, grid.t[0]) * x
    np.testing.assert_allclose(run(samplers.ddim, d, x, grid), run(samplers.euler, d, x, grid), rtol=1e-11, atol=1e-12)


@each_sampler
@pytest.mark.parametrize("of", [PROCESSES["vp"], PROCESSES["flow"]], ids=["vp", "flow"])
def test_float32_follows_float64(name, of):
    x, grid = np.random.default_rng(1).standard_normal((16, 2)), times.karras(of, steps=18)
    x = float(process.prior_scale(of, grid.t[0])) * x
    single = run(DETERMINISTIC[name], gaussian(of), jnp.asarray(x, jnp.float32), grid)
    with jax.enable_x64(True):
        double = np.asarray(run(DETERMINISTIC[name], gaussian(of), jnp.asarray(x), grid))
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, double, atol=2e-5)


@each_sampler
@pytest.mark.parametrize("of", KINDS.values(), ids=KINDS)
def test_noise_becomes_data(name, of):
    # 40 steps from pure noise bring a normal sample to a sample of N(.3, .25²), to first or second order
    grid = times.karras(of, steps=40, sigma_min=0.01)
    x = process.prior_scale(of, grid.t[0]) * jnp.linspace(-2, 2, 5)
    made = run(DETERMINISTIC[name], gaussian(of), x, grid)
    exact = gaussian_flow(of, np.asarray(x, np.float64), grid.t[0], 0.0)
    np.testing.assert_allclose(made, exact, atol=0.15 if ORDERS[name][1] == 1 else 0.02)


@each_sampler
@pytest.mark.parametrize("key", ["vp"])
def test_a_rising_grid_encodes_and_the_falling_one_returns_the_sample(key, name, x64):
    of, x, away, back = PROCESSES[key], jnp.linspace(-0.4, 1.0, 6), [], []
    for steps in (64, 128):
        down = matched_times(of, levels(steps, 40.0, 0.1))
        up = times.given(of, t=down.t[::-1])
        noise = run(DETERMINISTIC[name], gaussian(of), x, up)
        exact = gaussian_flow(of, np.asarray(x), up.t[0], up.t[-1])
        away.append(np.abs(noise - exact).max() / np.abs(exact).max())
        back.append(np.abs(run(DETERMINISTIC[name], gaussian(of), noise, down) - x).max())
    order = min(ORDERS[name][1], 2) - 0.5  # the first step, of first order, is not small at .1
    assert (slopes(away) > order).all()
    assert (slopes(back) > order).all()
    assert back[-1] < 0.02


@each_sampler
@pytest.mark.parametrize("key", ["vp", "flow"])
def test_encoding_may_start_at_the_data_and_end_in_pure_noise(key, name, x64):
    # the steps out of σ = 0 and into α = 0 are first-order ones, as on the way down
    of, x, errors = PROCESSES[key], jnp.linspace(-0.4, 1.0, 6), []
    for steps in (64, 128):
        up = times.given(of, t=times.karras(of, steps=steps).t[::-1])
        exact = gaussian_flow(of, np.asarray(x), 0.0, up.t[-1])
        errors.append(np.abs(run(DETERMINISTIC[name], gaussian(of), x, up) - exact).max() / np.abs(exact).max())
    assert errors[1] < max(0.7 * errors[0], 5e-5)  # below it the step out of the data shows, which stays
    assert errors[1] < 0.2


def test_pure_noise_is_in_the_list():
    assert {key for key, of in PROCESSES.items() if process.ends_in_noise(of)} == set(END_IN_NOISE)
