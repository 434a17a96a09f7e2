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
    assert families == {type(of) for of in PROCESSES.values()} | {process.LearnedGamma}  # which has test_learned below


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
    "sub_vp": lambda t: (np.exp(-0.05 * t - 4.975 * t**2), -np.expm1(-0.1 * t - 9.95 * t**2), -0.5 * (0.1 + 19.9 * t),
                         (0.1 + 19.9 * t) * -np.expm1(-0.2 * t - 19.9 * t**2)),  # eq. 29: g² = β (1 - e^(-2B))
    "trig": lambda t: (np.cos(math.pi * t / 2), 0.5 * np.sin(math.pi * t / 2), -math.pi / 2 * np.tan(math.pi * t / 2),
                       0.25 * math.pi * np.tan(math.pi * t / 2)),
    "shifted_flow": lambda t: ((1 - t) / (1 + 2 * t), 3 * t / (1 + 2 * t), -3 / (1 - t) / (1 + 2 * t),
                               18 * t / (1 - t) / (1 + 2 * t) ** 2),  # t' = 3t/(1 + 2t), Esser et al. 2024, eq. 23
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_alpha_sigma_drift_and_diffusion_have_their_closed_form(name):
    of, t = PROCESSES[name], inside(PROCESSES[name])
    ours = process.alpha(of, t), process.sigma(of, t), process.drift(of, t), process.diffusion(of, t)
    for mine, theirs in zip(ours, CLOSED_FORMS[name](t), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", ["vp", "cosine", "sigmoid", "ddpm", "stable", "clipped_cosine", "shifted_cosine",
                                  "stable_to_zero"])
def test_variance_is_preserved(name):
    t = np.linspace(0, 1, 101)
    np.testing.assert_allclose(process.alpha(PROCESSES[name], t) ** 2 + process.sigma(PROCESSES[name], t) ** 2, 1,
                               rtol=1e-14)


@each_process
def test_slopes_are_the_limits_of_differences(of):
    t, h = inside(of) + 1e-5, 1e-6  # off the kinks of a table
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


@pytest.mark.parametrize(("name", "slopes"), [
    ("flow", (-1, 1)), ("cosine", (-math.pi / 2, 0)), ("shifted_flow", (-1 / 3, 1 / 3)), ("trig", (-math.pi / 2, 0)),
    ("shifted_cosine", (-math.pi / 8, 0)), ("stable_to_zero", (-0.41207855 / (1 - 0.06826491 / 0.99957491), 0)),
])
def test_slopes_are_finite_in_pure_noise(name, slopes, x64):
    for one in (np.float64(1), jnp.float32(1), jnp.float64(1)):
        np.testing.assert_allclose(process.slopes(PROCESSES[name], one), slopes, rtol=3e-5, atol=1e-7)


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
    (lambda: process.SubVP(beta_min=-1.0), "SubVP needs 0 < beta_min"),
    (lambda: process.TrigFlow(sigma_data=0.0), "sigma_data > 0, got 0"),
    (lambda: process.Sigmoid(start=3.0), "start < end"),
    (lambda: process.Sigmoid(tau=0.0), "tau > 0"),
    (lambda: process.RectifiedFlow(span=(0.9, 0.1)), r"span of RectifiedFlow must be .* got \(0.9, 0.1\)"),
    (lambda: process.Cosine(span=(0.0, 1.5)), "span of Cosine"),
    (lambda: process.Discrete(schedule="linaer"), "one of linear, scaled_linear, cosine, got 'linaer'"),
    (lambda: process.Discrete(levels=1), "at least 2 levels, got 1"),
    (lambda: process.Discrete(beta_min=0.5, beta_max=0.1), "beta_min <= beta_max < 1, got 0.5 and 0.1"),
    (lambda: process.Discrete(schedule="cosine", beta_max=0.5), "'cosine' has no beta_min nor beta_max"),
    (lambda: process.Shift(process.EDM(), factor=0.0), "factor > 0, got 0"),
    (lambda: process.ZeroTerminalSNR(process.RectifiedFlow()), "RectifiedFlow ends in pure noise already"),
    (lambda: process.LearnedGamma(gamma_min=6.0), "gamma_min < gamma_max, got 6.0 and 5.0"),
    (lambda: process.LearnedGamma(width=0), "width >= 1, got 0"),
    (lambda: process.alpha(process.LearnedGamma(), 0.5), "no parameters yet: process.bind"),
])
def test_impossible_numbers_are_refused(make, word):
    with pytest.raises(ValueError, match=word):
        make()


# Processes that were published as tables.


@pytest.mark.parametrize(("name", "last_alpha", "first_ratio", "last_ratio"), [
    ("ddpm", 0.006353, 0.01000, 157.407), ("stable", 0.06826, 0.02917, 14.6146), ("clipped_cosine", None, None, 20291),
])
def test_a_table_has_its_published_ends(name, last_alpha, first_ratio, last_ratio):
    # Ho et al. 2020, Rombach et al. 2022, and Nichol & Dhariwal 2021 with the clip (MATHEMATICS 1.1)
    of = PROCESSES[name]
    assert process.ratio(of, 1.0) == pytest.approx(last_ratio, rel=2e-5)
    if last_alpha:
        assert process.alpha(of, 1.0) == pytest.approx(last_alpha, abs=5e-6)
        assert process.ratio(of, 1e-3) == pytest.approx(first_ratio, abs=6e-6)


def test_the_clip_of_the_cosine_shows_in_its_last_steps():
    # LuChengTHU in huggingface/diffusers#3314: half log-SNR of the last five of 1,000
    last = 0.5 * process.logsnr(PROCESSES["clipped_cosine"], np.arange(996, 1001) / 1000)
    np.testing.assert_allclose(last, [-5.078, -5.365, -5.771, -6.464, -9.918], atol=6e-4)


@pytest.mark.parametrize("name", ["ddpm", "stable", "clipped_cosine"])
def test_a_table_holds_the_product_of_its_betas(name):
    of = PROCESSES[name]
    bars = np.cumprod(1 - process.betas(of.schedule))
    np.testing.assert_allclose(process.alpha(of, np.arange(1, 1001) / 1000) ** 2, bars, rtol=1e-12)


def test_ddpm_is_the_table_of_vp():
    # β = 1e-4..0.02 at T = 1,000 is VP with 0.1..20 (Song et al. 2021, app. B)
    t = np.arange(100, 1001) / 1000
    np.testing.assert_allclose(process.logsnr(PROCESSES["ddpm"], t), process.logsnr(PROCESSES["vp"], t), atol=0.07)


def test_zero_terminal_snr_is_algorithm_1():
    # Lin et al. 2023: √ᾱ shifted by its last value and scaled back to its first
    of, t = PROCESSES["stable_to_zero"], np.arange(1, 1001) / 1000
    root = np.sqrt(np.cumprod(1 - process.betas("scaled_linear")))
    published = (root - root[-1]) * root[0] / (root[0] - root[-1])
    np.testing.assert_allclose(process.alpha(of, t), published, rtol=1e-9, atol=1e-15)
    assert process.ratio(of, 0.999) == pytest.approx(2254, abs=0.5)  # MATHEMATICS 1.1
    np.testing.assert_allclose(process.sigma(of, t), np.sqrt(1 - published**2), rtol=1e-10)


@pytest.mark.parametrize("factor", [0.5, 3.0])
@each_process
def test_a_shift_lowers_every_logsnr_alike_and_keeps_the_frame(of, factor):
    shifted, t = process.Shift(of, factor), inside(of)
    np.testing.assert_allclose(process.logsnr(shifted, t), process.logsnr(of, t) - 2 * math.log(factor), rtol=2e-12,
                               atol=2e-12)
    before, after = ((process.alpha(p, t), process.sigma(p, t)) for p in (of, shifted))
    np.testing.assert_allclose(process.norm(of, *after), process.norm(of, *before), rtol=1e-13)


def test_wrapped_processes_nest_and_are_leaves_of_jit():
    of = process.Shift(process.ZeroTerminalSNR(process.VP()), 2.0)
    assert process.ends_in_noise(of)
    assert not jax.tree.leaves(of)
    assert jax.tree.unflatten(jax.tree.structure(of), []) == of
    assert float(jax.jit(process.alpha)(of, 0.3)) == pytest.approx(process.alpha(of, 0.3), rel=1e-6)


# A learned one.


@pytest.fixture(scope="module", params=[False, True], ids=["ends fixed", "ends learned"])
def learned(request):
    of = process.LearnedGamma(gamma_min=-8.0, gamma_max=3.0, width=16, learn_ends=request.param)
    return of.bind(of.init(jax.random.key(0)))


def test_learned_gamma_falls_between_its_ends_and_starts_almost_straight(learned):
    t = jnp.linspace(0, 1, 101)
    lam = process.logsnr(learned, t)
    np.testing.assert_allclose(lam[jnp.array([0, -1])], [8, -3], atol=1e-5)
    assert (jnp.diff(lam) < 0).all()
    np.testing.assert_allclose(lam, 8 - 11 * t, atol=0.5)
    np.testing.assert_allclose(process.alpha(learned, t) ** 2 + process.sigma(learned, t) ** 2, 1, rtol=1e-6)


def test_learned_gamma_stays_monotone_whatever_is_learned(learned):
    wild = jax.tree.map(lambda p: p if p.shape == (2,) else p + 9 * jax.random.normal(jax.random.key(1), p.shape),
                        learned.params)
    lam = process.logsnr(learned.bind(wild), jnp.linspace(0, 1, 201))
    assert (jnp.diff(lam) <= 1e-6).all()
    np.testing.assert_allclose(lam[jnp.array([0, -1])], [8, -3], atol=1e-4)


def test_learned_time_is_found_and_its_gradient_reaches_the_parameters(learned, x64):
    t = jnp.linspace(0.05, 0.95, 7)
    np.testing.assert_allclose(process.t_of_logsnr(learned, process.logsnr(learned, t)), t, atol=1e-9)
    grads = jax.jit(jax.grad(lambda of: process.logsnr(of, t).sum()))(learned).params
    assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(grads))
    assert not jax.jit(process.ends_in_noise)(learned)
