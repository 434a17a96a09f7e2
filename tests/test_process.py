"""Each process is what its paper says, at both ends too, on the host and under `jit`, in float32 and float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import END_IN_NOISE, PROCESSES

from jaxdiff import process
from jaxdiff.protocols import frozen

each_process = pytest.mark.parametrize("of", PROCESSES.values(), ids=PROCESSES)


def inside(of, count=41):
    """Times within the span, float64."""
    low, high = of.span
    return np.linspace(low, high, count + 2)[1:-1]


def test_lists_are_complete():
    families = {kind for kind in map(process.__dict__.get, process.__all__) if isinstance(kind, type)}
    assert families == {type(of) for of in PROCESSES.values()}


@pytest.mark.smoke
def test_vp_ends_at_its_published_noise():
    # G04 (NVlabs/edm#5): β from 0.1 to 20, so that β_d = 19.9; 19.1 gives 124.582, 20 gives 156.019.
    assert process.ratio(process.VP(), 1.0) == pytest.approx(152.167, abs=5e-4)
    assert process.ratio(process.VP(), 1.0) == pytest.approx(math.sqrt(math.expm1(19.9 / 2 + 0.1)), rel=1e-12)


def test_sampling_starts_from_the_largest_sigma():
    assert process.prior_scale(process.VE()) == pytest.approx(50, rel=1e-12)  # Song et al. 2021, app. C
    assert process.prior_scale(process.EDM()) == 80  # Karras et al. 2022, table 1
    assert process.prior_scale(process.RectifiedFlow()) == process.prior_scale(process.Cosine()) == 1


CLOSED_FORMS = {  # α, σ, f, g²
    "vp": lambda t: (np.exp(-0.05 * t - 4.975 * t**2), np.sqrt(-np.expm1(-0.1 * t - 9.95 * t**2)),
                     -0.5 * (0.1 + 19.9 * t), 0.1 + 19.9 * t),  # Song et al. 2021, eq. 32 and 33
    "cosine": lambda t: (np.cos(math.pi * t / 2), np.sin(math.pi * t / 2), -math.pi / 2 * np.tan(math.pi * t / 2),
                         math.pi * np.tan(math.pi * t / 2)),
    "ve": lambda t: (1 + 0 * t, 0.01 * 5000**t, 0 * t, (0.01 * 5000**t) ** 2 * 2 * math.log(5000)),  # eq. 30
    "edm": lambda t: (1 + 0 * t, 80 * t, 0 * t, 2 * 80**2 * t),
    "flow": lambda t: (1 - t, t, -1 / (1 - t), 2 * t / (1 - t)),
}


@pytest.mark.parametrize("name", PROCESSES)
def test_alpha_sigma_drift_and_diffusion_have_their_closed_form(name):
    of, t = PROCESSES[name], inside(PROCESSES[name])
    ours = process.alpha(of, t), process.sigma(of, t), process.drift(of, t), process.diffusion(of, t)
    for mine, theirs in zip(ours, CLOSED_FORMS[name](t), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", ["vp", "cosine"])
def test_variance_is_preserved(name):
    t = np.linspace(0, 1, 101)
    np.testing.assert_allclose(process.alpha(PROCESSES[name], t) ** 2 + process.sigma(PROCESSES[name], t) ** 2, 1,
                               rtol=1e-14)


@each_process
def test_slopes_are_the_limits_of_differences(of):
    t, h = inside(of), 1e-6
    for slope, level in zip(process.slopes(of, t), (process.alpha, process.sigma), strict=True):
        difference = (level(of, t + h) - level(of, t - h)) / (2 * h)
        np.testing.assert_allclose(slope, difference, rtol=1e-6, atol=1e-8 * np.abs(difference).max() + 1e-9)


@each_process
def test_diffusion_is_how_fast_the_logsnr_falls(of, x64):
    t = jnp.asarray(inside(of))
    falls = -jax.vmap(jax.grad(lambda u: process.logsnr(of, u)))(t)
    np.testing.assert_allclose(process.diffusion(of, t), process.sigma(of, t) ** 2 * falls, rtol=1e-10)


@each_process
def test_time_is_found_from_the_logsnr(of, x64):
    t = inside(of)
    np.testing.assert_allclose(process.t_of_logsnr(of, process.logsnr(of, t)), t, rtol=1e-12)
    single = jnp.asarray(t, jnp.float32)
    found = process.t_of_logsnr(of, process.logsnr(of, single))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, t, atol=1e-5)


@frozen()
class Unsolved:
    """A process that does not know its `t_of_logsnr`, nor α and σ but by their logarithms."""

    inner: object
    span: tuple = (1e-3, 0.99)

    def log_alpha(self, t):
        return self.inner.log_alpha(t)

    def log_sigma(self, t):
        return self.inner.log_sigma(t)


@each_process
def test_a_process_of_two_functions_is_enough(of, x64):
    bare, t = Unsolved(of), np.linspace(1e-3, 0.99, 30)
    wanted = process.logsnr(of, t)
    np.testing.assert_allclose(process.t_of_logsnr(bare, wanted), process.t_of_logsnr(of, wanted), atol=1e-12)
    np.testing.assert_allclose(jax.jit(lambda w: process.t_of_logsnr(bare, w))(wanted), t, atol=1e-12)
    np.testing.assert_allclose(process.alpha(bare, t), process.alpha(of, t), rtol=1e-12)
    np.testing.assert_allclose(process.slopes(bare, t), process.slopes(of, t), rtol=1e-9, atol=1e-9)


@each_process
def test_the_way_from_r_over_s_to_t_is_the_way_from_r_to_t(of):
    r, s, t = inside(of, 3)
    (a_tr, s_tr), (a_ts, s_ts), (a_sr, s_sr) = (process.transition(of, *pair) for pair in ((t, r), (t, s), (s, r)))
    assert a_tr == pytest.approx(a_ts * a_sr, rel=1e-12)
    assert s_tr**2 == pytest.approx(a_ts**2 * s_sr**2 + s_ts**2, rel=1e-12)
    # and from x_s it arrives at x_t's own α and σ
    assert process.alpha(of, t) == pytest.approx(a_ts * process.alpha(of, s), rel=1e-12)
    assert process.sigma(of, t) ** 2 == pytest.approx(a_ts**2 * process.sigma(of, s) ** 2 + s_ts**2, rel=1e-12)


@each_process
def test_a_short_way_keeps_its_digits_in_float32(of):
    s, t = np.float32(0.5), np.float32(0.501)
    exact = process.transition(of, np.float64(t), np.float64(s))[1]
    assert float(process.transition(of, jnp.asarray(t), jnp.asarray(s))[1]) == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize("name", PROCESSES)
def test_alpha_vanishes_to_the_bit_where_it_should(name, x64):
    of = PROCESSES[name]
    for one in (1.0, np.float64(1), jnp.float32(1), jnp.float64(1)):
        vanishes = bool(process.alpha(of, one) == 0)
        assert vanishes == (name in END_IN_NOISE) == process.ends_in_noise(of)
        assert process.sigma(of, one) > 0


@pytest.mark.parametrize(("name", "slopes"), [("flow", (-1, 1)), ("cosine", (-math.pi / 2, 0))])
def test_slopes_are_finite_in_pure_noise(name, slopes, x64):
    for one in (np.float64(1), jnp.float32(1), jnp.float64(1)):
        np.testing.assert_allclose(process.slopes(PROCESSES[name], one), slopes, atol=1e-7)


@each_process
def test_small_noise_keeps_its_digits_in_float32(of):
    # √(1 - α²) would be 100 % off for cosine at t = 1e-4, 2.4 % for VP at 1e-5 (MATHEMATICS 8, trap 1).
    for t in (1e-3, 1e-4, 1e-5):
        single = np.float32(t)
        exact = process.sigma(of, np.float64(single))
        assert process.sigma(of, jnp.float32(single)) == pytest.approx(exact, rel=2e-6)
        assert jnp.exp(of.log_sigma(jnp.float32(single))) == pytest.approx(exact, rel=2e-6)


@each_process
def test_the_logsnr_is_finite_within_the_span_in_float32(of):
    t = jnp.linspace(*of.span, 1_000, dtype=jnp.float32)
    lam = process.logsnr(of, t)
    assert jnp.isfinite(lam).all()
    assert (jnp.diff(lam) < 0).all()


@pytest.mark.smoke
@each_process
def test_numpy_stays_float64_even_under_jit(of):
    t = inside(of, 5)
    functions = (process.alpha, process.sigma, process.logsnr, process.ratio, process.drift, process.diffusion)
    seen = []

    @jax.jit
    def traced(x):
        seen.extend(function(of, t) for function in functions)
        seen.extend([*process.slopes(of, t), *process.transition(of, t[1:], t[:-1]), process.t_of_logsnr(of, t)])
        return x

    traced(jnp.zeros(()))
    assert len(seen) == len(functions) + 5
    for value in seen:
        assert isinstance(value, np.ndarray)
        assert value.dtype == np.float64
    np.testing.assert_array_equal(seen[0], process.alpha(of, t))  # and the same numbers as outside


@each_process
def test_jit_vmap_and_grad_pass_through(of):
    t = jnp.asarray(inside(of, 5), jnp.float32)
    everything = lambda u: jnp.stack([process.alpha(of, u), process.sigma(of, u), process.logsnr(of, u),
                                      process.drift(of, u), process.diffusion(of, u)])
    np.testing.assert_allclose(jax.jit(jax.vmap(everything, out_axes=1))(t), everything(t), rtol=1e-5)
    slope = jax.vmap(jax.grad(lambda u: process.sigma(of, u)))(t)
    np.testing.assert_allclose(slope, process.slopes(of, t)[1], rtol=1e-5)


@each_process
def test_noise_is_added_sample_by_sample(of):
    x0, eps = np.ones((3, 2, 2), np.float32), np.full((3, 2, 2), -2.0, np.float32)
    t = jnp.asarray(inside(of, 3), jnp.float32)
    x = process.perturb(of, x0, eps, t)
    for i in range(3):
        np.testing.assert_allclose(x[i], float(process.alpha(of, t[i])) - 2 * float(process.sigma(of, t[i])), rtol=1e-5)
        np.testing.assert_allclose(x[i], process.perturb(of, x0[i], eps[i], t[i]), rtol=1e-6)


def test_equal_processes_share_a_trace():
    traces = []

    @jax.jit
    def scale(of, t):
        traces.append(of)
        return process.sigma(of, t)

    for of in (process.VP(), process.VP(), process.VP(beta_max=10.0), process.VP(beta_max=10.0)):
        assert not jax.tree.leaves(of)
        scale(of, 0.5)
    assert len(traces) == 2


@pytest.mark.parametrize(("make", "word"), [
    (lambda: process.VP(beta_min=0.0), "beta_min"),
    (lambda: process.VP(beta_min=30.0), "beta_max"),
    (lambda: process.VE(sigma_min=0.0), "sigma_min"),
    (lambda: process.VE(sigma_min=60.0), "60"),
    (lambda: process.EDM(sigma_max=0.0), "sigma_max"),
    (lambda: process.EDM(sigma_max=math.nan), "nan"),
])
def test_impossible_numbers_are_refused(make, word):
    with pytest.raises(ValueError, match=word):
        make()
