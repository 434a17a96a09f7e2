"""A grid starts in the noise, falls strictly and ends at the data, for every number of steps."""

import jax
import numpy as np
import pytest
from laws import END_IN_NOISE, PROCESSES

from jaxdiff import process, times

GRIDS = {"uniform": times.uniform, "karras": times.karras, "logsnr": times.logsnr}
STEPS = (1, 2, 3, 7, 25, 26, 27, 50, 999, 1000)

each_process = pytest.mark.parametrize("of", PROCESSES.values(), ids=PROCESSES)
each_grid = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)


def test_lists_are_complete():
    assert set(GRIDS) == set(times.__all__) - {"Times", "given"}


@each_process
@each_grid
@pytest.mark.parametrize("steps", STEPS)
def test_a_grid_leads_from_the_noisiest_time_to_the_data(of, grid, steps):
    # G05: huggingface/diffusers#5815 and #6232
    made = grid(of, steps=steps)
    assert len(made.t) == steps + 1 == made.steps + 1
    assert (np.diff(made.t) < 0).all()
    assert made.t[0] == (1.0 if process.ends_in_noise(of) else of.span[1])
    assert made.t[-1] == 0.0


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
