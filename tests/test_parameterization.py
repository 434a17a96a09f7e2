"""One formula, `y = A x0 + B ε`, serves every prediction type, and each type is the one that was published."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from laws import END_IN_NOISE, PARAMETERIZATIONS, PROCESSES, WITHOUT_X0_IN_NOISE

from jaxdiff import denoiser, parameterization, process

each_process = pytest.mark.parametrize("of", PROCESSES.values(), ids=PROCESSES)
each_type = pytest.mark.parametrize("kind", PARAMETERIZATIONS.values(), ids=PARAMETERIZATIONS)


def test_lists_are_complete():
    other = {"Linear", "determinant", "solve", "log_sigma", "timestep"}
    assert set(PARAMETERIZATIONS) == set(parameterization.__all__) - other


def coefficients(kind, of, t):
    """(A, B, α, σ) at t."""
    alpha, sigma = process.alpha(of, t), process.sigma(of, t)
    return *kind.coefficients(alpha, sigma, *process.slopes(of, t)), alpha, sigma


def round_trip_error(of, t, x0, eps):
    """The largest error of type -> (x0, ε) -> type over all pairs, in units of its conditioning.

    An error δ in the digits of y and x moves x0 by δ (|B| |x| + |σ| |y|)/|Δ|, and so on; in those units any
    type on any process loses the same few digits.
    """
    levels = alpha, sigma = process.alpha(of, t), process.sigma(of, t)
    pairs = [kind.coefficients(*levels, *process.slopes(of, t)) for kind in PARAMETERIZATIONS.values()]
    x, size_x = alpha * x0 + sigma * eps, abs(alpha * x0) + abs(sigma * eps)
    worst = 0 * x
    for a, b in pairs:
        y, size_y = a * x0 + b * eps, abs(a * x0) + abs(b * eps)
        delta = abs(alpha * b) + abs(sigma * a)
        found_x0, found_eps = parameterization.solve(y, x, a, b, alpha, sigma)
        unit_x0 = (abs(b) * size_x + abs(sigma) * size_y) / delta + abs(x0)
        unit_eps = (abs(alpha) * size_y + abs(a) * size_x) / delta + abs(eps)
        for c, d in pairs:
            unit = abs(c) * unit_x0 + abs(d) * unit_eps
            error = abs(c * found_x0 + d * found_eps - (c * x0 + d * eps)) / unit
            worst = x.__array_namespace__().maximum(worst, error)
    return worst.max()


in_float32 = jax.jit(round_trip_error)
X0, EPS = np.meshgrid([-3.0, -0.3, 0.02, 1.0], [-2.0, 0.01, 0.5, 3.0])


@each_process
@settings(max_examples=20)
@given(st.floats(0, 1))
def test_every_type_turns_into_every_other_and_back(of, share):
    t = of.span[0] + (of.span[1] - of.span[0]) * share
    assert round_trip_error(of, np.float64(t), X0, EPS) < 1e-12
    assert in_float32(of, *(jnp.float32(value) for value in (t, X0, EPS))) < 1e-5


@settings(max_examples=40)
@given(st.data())
def test_conversions_round_trip_whatever_the_shape_and_the_times_of_the_samples(data):
    of = PROCESSES[data.draw(st.sampled_from(sorted(PROCESSES)))]
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    shape = data.draw(array_shapes(min_dims=1, max_dims=4, max_side=5))
    share = data.draw(arrays(np.float64, shape[:1], elements=st.floats(0, 1)))
    t = (of.span[0] + (of.span[1] - of.span[0]) * share).astype(dtype).reshape(-1, *[1] * (len(shape) - 1))
    x0, eps = (data.draw(arrays(dtype, shape, elements=st.floats(0.0625, 4, width=32))) for _ in range(2))
    assert round_trip_error(of, t, x0, eps) < (1e-12 if dtype == np.float64 else 1e-5)


PUBLISHED = {  # y of x0 and ε, given α, σ and the slopes
    "eps": lambda x0, eps, *_: eps,  # Ho et al. 2020, eq. 14
    "x0": lambda x0, eps, *_: x0,
    "v": lambda x0, eps, alpha, sigma, *_: alpha * eps - sigma * x0,  # Salimans & Ho 2022, sec. 3
    "score": lambda x0, eps, alpha, sigma, *_: -(alpha * x0 + sigma * eps - alpha * x0) / sigma**2,  # of N(α x0, σ²)
    "velocity": lambda x0, eps, alpha, sigma, d_alpha, d_sigma: d_alpha * x0 + d_sigma * eps,
}


@each_process
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_type_is_what_its_paper_says(of, name):
    t, x0, eps = np.linspace(*of.span, 9), 0.7, -1.3
    a, b, alpha, sigma = coefficients(PARAMETERIZATIONS[name], of, t)
    published = PUBLISHED[name](x0, eps, alpha, sigma, *process.slopes(of, t))
    np.testing.assert_allclose(a * x0 + b * eps, published, rtol=1e-10, atol=1e-14)


def test_the_velocity_of_a_flow_points_from_data_to_noise():
    a, b, *_ = coefficients(parameterization.velocity(), process.RectifiedFlow(), np.linspace(0, 1, 5))
    np.testing.assert_array_equal(a, -1)
    np.testing.assert_array_equal(b, 1)


@each_process
@pytest.mark.parametrize("sigma_data", [0.5, 1.7])
def test_edm_preconditions_as_published(of, sigma_data):
    # Karras et al. 2022, table 1 and eq. 7: D = c_skip x + c_out F(c_in x; c_noise), in EDM's x/α and σ/α.
    kind, t = parameterization.edm(sigma_data=sigma_data), np.linspace(*of.span, 9)
    a, b, alpha, sigma = coefficients(kind, of, t)
    level, x, f = sigma / alpha, np.float64(0.4), np.float64(-0.9)
    c_skip = sigma_data**2 / (level**2 + sigma_data**2)
    c_out = level * sigma_data / np.sqrt(level**2 + sigma_data**2)
    ours = parameterization.solve(f, alpha * x, a, b, alpha, sigma)[0]
    np.testing.assert_allclose(ours, c_skip * x + c_out * f, rtol=1e-9)
    np.testing.assert_allclose(kind.c_in(alpha, sigma) * alpha, 1 / np.sqrt(level**2 + sigma_data**2), rtol=1e-12)
    clipped = np.clip(level, np.exp(-10), np.exp(10))
    np.testing.assert_allclose(kind.c_noise(process.logsnr(of, t)), np.log(clipped) / 4, atol=1e-12)


@each_process
def test_edm_is_minus_v_of_normalised_data(of):
    sigma_data, t = 0.5, np.linspace(*of.span, 9)
    a, b, alpha, sigma = coefficients(parameterization.edm(sigma_data=sigma_data), of, t)
    size = np.hypot(sigma, alpha * sigma_data)
    cos, sin = alpha * sigma_data / size, sigma / size  # of the variance-preserving x / size, for x0 / sigma_data
    np.testing.assert_allclose(a * sigma_data, sin, rtol=1e-12)
    np.testing.assert_allclose(b, -cos, rtol=1e-12)


@each_type
@each_process
def test_the_network_sees_unit_variance(kind, of):
    kind = dataclasses.replace(kind, sigma_data=0.5)
    x0, eps = np.meshgrid([-0.5, 0.5], [-1.0, 1.0])  # means 0, standard deviations sigma_data and 1, exactly
    for t in np.linspace(*of.span, 7):
        alpha, sigma = process.alpha(of, t), process.sigma(of, t)
        assert np.mean((kind.c_in(alpha, sigma) * (alpha * x0 + sigma * eps)) ** 2) == pytest.approx(1, rel=1e-12)


@each_type
def test_errors_convert_between_types(kind):
    # |δy|² = (Δ/α)² |δε|² = (Δ/σ)² |δx0|² (MATHEMATICS 1.2)
    of, t, x, y, move = process.VP(), np.linspace(0.05, 0.95, 9), 0.3, -0.2, 1e-3
    a, b, alpha, sigma = coefficients(kind, of, t)
    x0, eps = parameterization.solve(y, x, a, b, alpha, sigma)
    moved_x0, moved_eps = parameterization.solve(y + move, x, a, b, alpha, sigma)
    delta = parameterization.determinant(a, b, alpha, sigma)
    np.testing.assert_allclose(abs(delta / alpha) * abs(moved_eps - eps), move, rtol=1e-9)
    np.testing.assert_allclose(abs(delta / sigma) * abs(moved_x0 - x0), move, rtol=1e-9)


@each_type
def test_the_noise_level_is_clipped_before_the_network_sees_it(kind):
    shown = kind.c_noise(np.array([-np.inf, -20.0, -19.0, 0.0, 19.0, 20.0, np.inf]))
    assert np.isfinite(shown).all()
    assert shown[0] == shown[1] > shown[2]
    assert shown[-1] == shown[-2] < shown[-3]
    assert shown[3] == 0  # ¼ ln σ at σ = 1


@each_process
@pytest.mark.parametrize("name", PARAMETERIZATIONS)
def test_types_without_x0_are_refused_in_pure_noise(of, name):
    accept = functools.partial(denoiser.check, PARAMETERIZATIONS[name], of)
    if of in [PROCESSES[end] for end in END_IN_NOISE] and name in WITHOUT_X0_IN_NOISE:
        with pytest.raises(ValueError, match=f"'{name}' carries no x0.*{type(of).__name__}"):
            accept()
    elif isinstance(of, process.Sigmoid) and name == "velocity":
        with pytest.raises(ValueError, match="'velocity' is infinite at t = 1, where Sigmoid"):  # its α' is, there
            accept()
    else:
        accept()


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
def test_both_ends_are_finite_where_a_type_is(name):
    of, kind = process.RectifiedFlow(), PARAMETERIZATIONS[name]
    a, b, *_ = coefficients(kind, of, np.array([1e-4, 0.5, 1.0]))
    assert np.isfinite([a, b]).all()
    if name != "score":
        assert np.isfinite(coefficients(kind, of, np.float64(0))[:2]).all()


@pytest.mark.parametrize("sigma_data", [0.0, -1.0, float("nan")])
@pytest.mark.parametrize("name", PARAMETERIZATIONS)
def test_data_have_a_positive_deviation(name, sigma_data):
    with pytest.raises(ValueError, match="sigma_data must be > 0"):
        getattr(parameterization, name)(sigma_data=sigma_data)


def test_equal_types_are_equal():
    assert parameterization.edm() == parameterization.edm(sigma_data=0.5)
    assert hash(parameterization.v()) == hash(parameterization.v())
    assert parameterization.edm() != parameterization.edm(sigma_data=1.0)
    assert parameterization.eps() != parameterization.score()


# What networks trained elsewhere are shown.


@pytest.mark.parametrize("of", [process.Discrete(), process.Discrete("cosine"), process.Discrete("scaled_linear")])
def test_a_timestep_counts_the_levels_of_a_table(of):
    kind = parameterization.eps(noise=parameterization.timestep(of))
    n = np.array([0, 1, 499, 998])
    levels = process.logsnr(of, (n + 1) / 1000)
    clear = abs(levels) < 20
    np.testing.assert_allclose(kind.c_noise(levels)[clear], n[clear], atol=1e-8)


def test_a_timestep_is_that_of_the_process_trained_with():
    """Sampling by EDM's process, the network is still shown when VP is as noisy."""
    vp, edm = process.VP(), process.EDM()
    kind = parameterization.eps(noise=parameterization.timestep(vp, scale=1.0, offset=0.0))
    logsnr = process.logsnr(edm, np.array([0.001, 0.02, 0.5]))
    np.testing.assert_allclose(process.logsnr(vp, kind.c_noise(logsnr)), logsnr, rtol=1e-9)


def test_a_clock_may_be_turned_round():
    """SiT's is 1 at the data: it is shown 1 - t, and its velocity is minus ours."""
    flow = process.RectifiedFlow()
    kind = parameterization.velocity(raw=True, rising=True,
                                     noise=parameterization.timestep(flow, scale=-1.0, offset=1.0))
    t = np.array([0.1, 0.6])
    np.testing.assert_allclose(kind.c_noise(process.logsnr(flow, t)), 1 - t)
    ours = parameterization.velocity().coefficients(1 - t, t, -np.ones(2), np.ones(2))
    np.testing.assert_array_equal(kind.coefficients(1 - t, t, -np.ones(2), np.ones(2)), -np.array(ours))
    np.testing.assert_array_equal(kind.c_in(1 - t, t), 1)


def test_log_sigma_is_scaled_and_moved():
    kind = parameterization.eps(noise=parameterization.log_sigma(scale=1.0, offset=-np.log(2.0)))
    np.testing.assert_allclose(kind.c_noise(-2 * np.log(np.array([0.02, 50.0]))), np.log([0.01, 25.0]))
    np.testing.assert_array_equal(parameterization.eps().c_noise(np.array([8.0])), [-1.0])


def test_a_timestep_needs_a_process_that_tells_its_time():
    with pytest.raises(ValueError, match="a process that tells its own time, got LearnedGamma"):
        parameterization.timestep(process.LearnedGamma())
