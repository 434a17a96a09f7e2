"""A grid starts in the noise, falls strictly and ends at the data, for every number of steps."""

import functools

import jax
import numpy as np
import pytest
from laws import END_IN_NOISE, PROCESSES

from jaxdiff import process, times

GRIDS = {"uniform": times.uniform, "karras": times.karras, "logsnr": times.logsnr, "quadratic": times.quadratic,
         "exponential": functools.partial(times.exponential, rho=1.5), "aligned": times.aligned}
TABLES = ("ddpm", "stable", "clipped_cosine", "stable_to_zero")
STEPS = (1, 2, 3, 7, 25, 26, 27, 50, 999, 1000)

each_process = pytest.mark.parametrize("of", PROCESSES.values(), ids=PROCESSES)
each_grid = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)


def test_lists_are_complete():
    assert {*GRIDS, "trailing", "leading"} == set(times.__all__) - {"Times", "given"}


def leads_to_the_data(of, grid):
    # G05: huggingface/diffusers#5815 and #6232
    for steps in STEPS:
        made = grid(of, steps=steps)
        assert len(made.t) == steps + 1 == made.steps + 1
        assert (np.diff(made.t) < 0).all()
        assert made.t[0] == (1.0 if process.ends_in_noise(of) else of.span[1])
        assert made.t[-1] == 0.0


@each_process
@each_grid
def test_a_grid_leads_from_the_noisiest_time_to_the_data(of, grid):
    leads_to_the_data(of, grid)


@pytest.mark.parametrize("name", TABLES)
def test_trailing_times_lead_from_the_last_level_to_the_data(name):
    leads_to_the_data(PROCESSES[name], times.trailing)


@pytest.mark.parametrize("steps", [10, 20, 50])
def test_timesteps_of_a_table_are_the_published_ones(steps):
    # Lin et al. 2023, table 2, for T = 1,000: timestep n is our t = (n + 1)/1000
    n = 1000 * np.asarray(times.trailing(PROCESSES["stable"], steps=steps).t[:-1]) - 1
    np.testing.assert_allclose(n, np.arange(1000, 0, -1000 // steps) - 1, atol=1e-9)
    n = 1000 * np.asarray(times.leading(PROCESSES["stable"], steps=steps, offset=1).t[:-1]) - 1
    np.testing.assert_allclose(n, np.arange(0, 1000, 1000 // steps)[::-1] + 1, atol=1e-9)
    assert times.leading(PROCESSES["ddpm"], steps=7).t[-1] == 0


def test_exponential_grids_have_logsnr_as_a_special_case():
    for of in PROCESSES.values():
        np.testing.assert_allclose(times.exponential(of, steps=9).t, times.logsnr(of, steps=9).t, rtol=1e-9)
    made = np.log(levels(process.EDM(), times.exponential(process.EDM(), steps=9, rho=2.0)))
    np.testing.assert_allclose(np.diff(np.sqrt(made - made[-1])), -np.sqrt(made[0] - made[-1]) / 8, rtol=1e-9)


def test_quadratic_times_are_squares():
    np.testing.assert_allclose(np.sqrt(times.quadratic(process.RectifiedFlow(), steps=5).t), np.arange(5, -1, -1) / 5,
                               atol=1e-12)


@pytest.mark.parametrize("model", ["sd", "sdxl"])
def test_aligned_steps_are_the_published_timesteps(model):
    n = 1000 * np.asarray(times.aligned(PROCESSES["stable"], steps=10, model=model).t[:-1]) - 1
    np.testing.assert_allclose(n, times.ALIGNED[model], atol=1e-6)


def test_aligned_steps_are_interpolated_in_the_logarithm_of_the_level():
    of = process.EDM(sigma_max=700.0)
    np.testing.assert_allclose(levels(of, times.aligned(of, steps=10, model="svd")), times.ALIGNED["svd"], rtol=1e-9)
    nineteen = levels(of, times.aligned(of, steps=19, model="svd"))
    np.testing.assert_allclose(nineteen[::2], times.ALIGNED["svd"], rtol=1e-9)
    np.testing.assert_allclose(nineteen[1:-1:2] ** 2, nineteen[:-2:2] * nineteen[2::2], rtol=1e-9)


@pytest.mark.parametrize(("make", "words"), [
    (lambda: times.trailing(process.VP(), steps=4), "VP has no table of timesteps; use 'uniform'"),
    (lambda: times.leading(PROCESSES["shifted_flow"], steps=4), "RectifiedFlow has no table"),
    (lambda: times.trailing(PROCESSES["ddpm"], steps=1001), "between 1 and the table's 1000, got 1001"),
    (lambda: times.leading(PROCESSES["ddpm"], steps=10, offset=100), "between 0 and 99 for 10 steps of 1000, got 100"),
    (lambda: times.exponential(process.VP(), steps=4, rho=-1.0), "rho must be > 0, got -1"),
    (lambda: times.aligned(process.VP(), steps=4, model="sd3"), "model must be one of sd, sdxl, svd, got 'sd3'"),
    (lambda: times.aligned(process.EDM(sigma_max=20.0), steps=10, model="svd"), "up to 54.5 after its first"),
])
def test_a_grid_that_does_not_fit_the_process_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def levels(of, made):
    """The noise levels σ/α of a grid, without its two ends in flows and without the data."""
    return process.ratio(of, np.asarray(made.t[process.ends_in_noise(of):-1]))


@pytest.mark.parametrize("steps", [1, 2, 18, 256])
def test_karras_is_edms_formula(steps):
    i = np.arange(steps)
    sigma = (80 ** (1 / 7) + i / max(steps - 1, 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7  # Karras et al., eq. 5
    np.testing.assert_allclose(levels(process.EDM(), times.karras(process.EDM(), steps=steps)), sigma, rtol=1e-12)


@each_process
def test_karras_spaces_the_levels_of_any_process(of):
    made = levels(of, times.karras(of, steps=20, rho=5.0))
    ramp = made ** (1 / 5)
    np.testing.assert_allclose(np.diff(ramp), np.diff(ramp).mean(), rtol=1e-8)
    assert made[-1] == pytest.approx(max(0.002, process.ratio(of, of.span[0])), rel=1e-8)


@each_process
def test_logsnr_spaces_the_logarithms(of):
    made = np.log(levels(of, times.logsnr(of, steps=20)))
    np.testing.assert_allclose(np.diff(made), np.diff(made).mean(), rtol=1e-8)


@each_process
def test_logsnr_is_the_limit_of_karras(of):
    far = times.karras(of, steps=12, rho=1e6)
    np.testing.assert_allclose(far.t, times.logsnr(of, steps=12).t, rtol=1e-4)


@each_process
def test_uniform_steps_are_equal(of):
    np.testing.assert_allclose(np.diff(times.uniform(of, steps=9).t), -of.span[1] / 9 if of.span[1] == 1 else -1 / 9)


@pytest.mark.parametrize("name", END_IN_NOISE)
def test_pure_noise_takes_the_place_of_the_largest_level(name):
    of = PROCESSES[name]
    for sigma_max in (None, 80.0, 10.0):
        high = sigma_max or 80.0
        made = times.karras(of, steps=3, sigma_min=0.1, sigma_max=sigma_max)
        assert made.t[0] == 1.0
        middle = ((high ** (1 / 7) + 0.1 ** (1 / 7)) / 2) ** 7
        np.testing.assert_allclose(process.ratio(of, np.asarray(made.t[1:-1])), [middle, 0.1], rtol=1e-10)


def test_the_level_before_the_data_is_what_was_asked():
    made = times.karras(process.EDM(), steps=5, sigma_min=0.5)
    assert process.sigma(process.EDM(), made.t[-2]) == pytest.approx(0.5, rel=1e-12)


def test_a_process_may_be_asked_for_its_own_end():
    of = process.EDM(sigma_max=50.0)
    assert times.karras(of, steps=4, sigma_max=50.0) == times.karras(of, steps=4)


def test_given_times_are_taken_as_they_are():
    assert times.given(process.VP(), t=(0.9, 0.1)).t == (0.9, 0.1)
    assert times.given(process.EDM(), t=(0, 0.5, 1)).t == (0.0, 0.5, 1.0)  # rising: to encode


@pytest.mark.parametrize(("make", "words"), [
    (lambda of: times.uniform(of, steps=0), "steps must be at least 1, got 0"),
    (lambda of: times.karras(of, steps=-3), "steps must be at least 1, got -3"),
    (lambda of: times.logsnr(of, steps=0), "steps must be at least 1, got 0"),
    (lambda of: times.karras(of, steps=3, rho=0.0), "rho must be > 0, got 0"),
    (lambda of: times.karras(of, steps=3, sigma_min=100.0), "sigma_min < sigma_max, got 100 and 80"),
    (lambda of: times.logsnr(of, steps=3, sigma_max=70.0), "starts where EDM ends, at 80"),
    (lambda of: times.given(of, t=(0.5,)), "at least two"),
    (lambda of: times.given(of, t=(0.5, -0.1)), "finite times >= 0"),
    (lambda of: times.given(of, t=(float("nan"), 0.1)), "finite"),
    (lambda of: times.given(of, t=(0.5, 0.5, 0.1)), "equal or out of order"),
    (lambda of: times.given(of, t=(0.5, 0.1, 0.2)), "equal or out of order"),
])
def test_a_grid_that_cannot_be_walked_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make(process.EDM())


def test_flows_have_no_level_below_nothing():
    with pytest.raises(ValueError, match="0 < sigma_min < sigma_max"):
        times.karras(process.RectifiedFlow(), steps=3, sigma_max=1e-5)


def test_equal_grids_share_a_trace_and_stay_numbers():
    seen = []

    @jax.jit
    def walk(grid, x):
        seen.append(grid.t)
        return x

    of = process.RectifiedFlow()
    for steps in (4, 4, 5, 5):
        walk(times.karras(of, steps=steps), 1.0)
    assert [len(t) for t in seen] == [5, 6]
    assert all(type(value) is float for t in seen for value in t)
    assert times.karras(of, steps=4) == times.karras(of, steps=4)
    assert len({times.karras(of, steps=4), times.karras(of, steps=4), times.uniform(of, steps=4)}) == 2
    assert not jax.tree.leaves(times.karras(of, steps=4))
