"""Log-densities are those of the law an exact denoiser generates, and bits/dim those of its pixels."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import KINDS, MEANS, PROCESSES, STDS, WEIGHTS, compilations, gaussian, mixture
from scipy.integrate import quad
from scipy.linalg import logm
from scipy.special import logsumexp
from scipy.stats import norm

from jaxdiff import denoiser, likelihood, process, times

METHODS = ("heun", "rk4", "adaptive")
RNG = np.random.default_rng(0)
X = np.linspace(-0.4, 1.0, 8)[:, None]
each_kind = pytest.mark.parametrize("of", KINDS.values(), ids=KINDS)
exactly = functools.partial(likelihood.log_density, trace="exact")


def generated(of, x, mean=0.3, std=0.25):
    """ln p of what the ODE makes of N(0, σ_1²) where the data are N(mean, std²): the flow is affine."""
    low, high = process.ratio(of, np.asarray(of.span))
    scale = np.sqrt((std**2 + low**2) / (std**2 + high**2))
    return norm.logpdf(x, mean - mean * scale, high * scale).sum(1)


def log_mixture(x, level):
    variance = STDS**2 + level**2
    away = ((x[:, None] - MEANS) ** 2).sum(-1)
    return logsumexp(np.log(WEIGHTS) - 0.5 * away / variance - np.log(2 * np.pi * variance), axis=1)


def from_mixture(number):
    which = RNG.choice(3, number, p=WEIGHTS)
    return MEANS[which] + STDS[which, None] * RNG.standard_normal((number, 2))


@each_kind
@pytest.mark.parametrize("method", METHODS)
def test_the_density_is_that_of_what_the_ode_generates(of, method):
    steps = 400 if method == "heun" else 64
    nats, aux = exactly(gaussian(of), jnp.asarray(X, jnp.float32), times.karras(of, steps=steps), method=method)
    np.testing.assert_allclose(nats, generated(of, X), atol=1e-3 * math.log(2))
    assert nats.dtype == jnp.float32
    assert aux["precision"] == "highest"


@each_kind
@pytest.mark.parametrize("method", METHODS)
def test_float64_is_used_where_the_data_are(of, method, x64):
    steps = 1024 if method == "heun" else 128
    nats, _ = exactly(gaussian(of), jnp.asarray(X), times.karras(of, steps=steps), method=method, tolerance=1e-9)
    np.testing.assert_allclose(nats, generated(of, X), atol=5e-6 if method != "heun" else 1e-4)
    assert nats.dtype == jnp.float64


@pytest.mark.parametrize(("name", "method"), [
    *((name, "rk4") for name in (*KINDS, "cosine", "stable", "stable_to_zero")), ("flow", "adaptive")])
def test_a_mixtures_bits_are_exact(name, method):
    # to 1e-3 bits/dim in the mean; one sample differs by the prior where α does not end at 0
    of, x = PROCESSES[name], from_mixture(256)
    nats, _ = exactly(mixture(of), jnp.asarray(x, jnp.float32), times.karras(of, steps=64), method=method)
    starts_at, ends_at = process.ratio(of, np.asarray(of.span))
    bits = (np.asarray(nats) - log_mixture(x, starts_at)) / (2 * math.log(2))
    assert abs(bits.mean()) < 1e-3
    assert abs(bits).max() < 1e-3 + 0.6 / ends_at  # 7e-3 at 80


def test_bits_of_a_gaussian_are_g07s():
    # G07, openai/consistency_models_cifar10#12: from data to noise; the wrong direction gives 2.342
    of = process.VP()
    x = norm.ppf((np.arange(10_000) + 0.5) / 10_000, 0, 0.5)[:, None]
    given = jnp.asarray(np.concatenate([[[0.3]], x]), jnp.float32)
    nats, _ = exactly(gaussian(of, 0.0, 0.5), given, times.karras(of, steps=64))
    bits = -np.asarray(nats, np.float64) / math.log(2)
    assert bits[0] == pytest.approx(0.58543, abs=1e-3)
    assert bits[1:].mean() == pytest.approx(1.04710, abs=1e-3)


@each_kind
@pytest.mark.parametrize(("method", "order", "steps"), [("heun", 2, 64), ("rk4", 4, 32)])
def test_a_method_has_its_order(of, method, order, steps, x64):
    errors = [abs(np.asarray(exactly(gaussian(of), jnp.asarray(X), times.karras(of, steps=n), method=method)[0])
                  - generated(of, X)).max() for n in (steps, 2 * steps, 4 * steps)]
    slopes = np.log2(np.divide(errors[:-1], errors[1:]))
    assert order - 0.15 < slopes[-1] < order + 0.7


def test_a_tighter_tolerance_takes_more_calls_and_errs_less(x64):
    of = process.RectifiedFlow()
    errors, calls = [], []
    for tolerance in (1e-3, 1e-5, 1e-7):
        nats, aux = exactly(gaussian(of), jnp.asarray(X), times.uniform(of, steps=1), method="adaptive",
                            tolerance=tolerance)
        errors.append(abs(np.asarray(nats) - generated(of, X)).max())
        calls.append(aux["nfe"])
    assert errors[0] > 10 * errors[1] > 100 * errors[2]
    assert errors[2] < 1e-6
    assert (calls[0] < calls[1]).all() and (calls[1] < calls[2]).all()
    assert calls[0].shape == (8,)


def counting(of, calls):
    """The exact denoiser of N(.3, .25²), which notes every call."""
    def note(t):
        calls.append(float(t))
        return np.float32(0)

    @jax.custom_jvp
    def counted(x, t):
        return x + jax.pure_callback(note, jax.ShapeDtypeStruct((), jnp.float32), t, vmap_method="sequential")

    counted.defjvp(lambda primals, tangents: (counted(*primals), tangents[0]))
    return denoiser.from_function(lambda x, t, cond: gaussian(of)(counted(x, t), t), of)


@pytest.mark.parametrize(("method", "number"), [("heun", 6), ("rk4", 12), ("adaptive", None)])
def test_nfe_counts_the_calls(method, number):
    of, calls = process.EDM(), []
    _, aux = jax.block_until_ready(exactly(counting(of, calls), X[:1].astype(np.float32), times.karras(of, steps=3),
                                           method=method, tolerance=1e-2))
    assert len(calls) == np.asarray(aux["nfe"]).item()
    assert number in (None, len(calls))
    assert min(calls) == pytest.approx(of.span[0], rel=1e-5)  # 0 in a grid is the data, from where the span starts


def test_a_grid_may_rise_or_fall():
    of = process.VP()
    falling = times.karras(of, steps=8)
    rising = times.given(of, t=falling.t[::-1])
    given = gaussian(of), jnp.asarray(X, jnp.float32)
    np.testing.assert_array_equal(exactly(*given, falling)[0], exactly(*given, rising)[0])


def test_a_grid_that_starts_later_gives_the_density_of_noised_data():
    of = process.EDM()
    late = times.given(of, t=tuple(t for t in times.karras(of, steps=256).t if t >= 0.5 / 80))
    nats, _ = exactly(gaussian(of), jnp.asarray(X, jnp.float32), late)
    level = 80 * late.t[-1]
    scale = np.sqrt((0.25**2 + level**2) / (0.25**2 + 80**2))
    np.testing.assert_allclose(nats, norm.logpdf(X[:, 0], 0.3 - 0.3 * scale, 80 * scale), atol=1e-3)


def keys_of_every_sign(dimensions, seed=5):
    """One key for each of the 2^D sign patterns that a single probe may be."""
    found = {}
    for number in range(100):
        key = jax.random.fold_in(jax.random.key(seed), number)
        signs = likelihood._directions(jnp.zeros((1, dimensions)), key[None], "rademacher", 1)
        found.setdefault(tuple(np.ravel(signs)), key)
    assert len(found) == 2**dimensions
    return jnp.stack(list(found.values()))


@pytest.mark.parametrize("method", ["heun", "rk4"])
def test_all_signs_together_give_the_exact_trace(method):
    of, keys = process.VP(), keys_of_every_sign(2)
    x = jnp.asarray(from_mixture(32), jnp.float32)
    grid = times.karras(of, steps=24)
    estimate = lambda one: likelihood.log_density(mixture(of), jnp.tile(one, (4, 1)), grid, keys, method=method)[0]
    each = jnp.stack([estimate(one) for one in x])
    np.testing.assert_allclose(each.mean(1), exactly(mixture(of), x, grid, method=method)[0], atol=2e-4)
    assert each.std(1).mean() > 0.1  # one pattern alone is far off: MATHEMATICS.md 2.4 has .46


def correlated(of, covariance):
    def mean(x, t, cond, covariance):
        alpha, sigma = process.alpha(of, t), process.sigma(of, t)
        gain = alpha * covariance @ jnp.linalg.inv(alpha**2 * covariance + sigma**2 * jnp.eye(len(covariance)))
        return x @ gain.T

    return denoiser.from_function(mean, of, jnp.asarray(covariance, jnp.float32))


@pytest.mark.parametrize("probes", [1, 4])
def test_estimates_have_hutchinsons_variance(probes):
    # signs err by 2 Σ_{i≠j} M_ij², normals by 2 Σ M_ij², where the flow's Jacobian integrates to
    # M = ½ ln((C + σ_1²)/(C + σ_0²)) - ln(r_1/r_0)
    of, size, number = process.EDM(), 16, 2_000
    root = np.random.default_rng(1).standard_normal((size, size)) / 4
    covariance = root @ root.T + 0.1 * np.eye(size)
    low, high = process.ratio(of, np.asarray(of.span))
    log = lambda level: np.real(logm(covariance + level**2 * np.eye(size)))
    m = 0.5 * (log(high) - log(low)) - 0.5 * np.log((1 + high**2) / (1 + low**2)) * np.eye(size)
    wanted = {"gaussian": 2 * (m**2).sum(), "rademacher": 2 * ((m - np.diag(np.diag(m))) ** 2).sum()}
    keys = jax.random.split(jax.random.key(2), number)
    for trace, variance in wanted.items():
        nats, _ = likelihood.log_density(correlated(of, covariance), jnp.zeros((number, size)),
                                         times.karras(of, steps=32), keys, trace=trace, probes=probes)
        assert float(nats.var()) == pytest.approx(variance / probes, rel=0.15)
    assert wanted["gaussian"] > 1.5 * wanted["rademacher"]


@pytest.mark.parametrize(("method", "trace"), [("rk4", "rademacher"), ("rk4", "gaussian"), ("adaptive", "rademacher")])
def test_a_sample_depends_on_its_own_key_alone(method, trace):
    of = process.RectifiedFlow()
    x, keys = jnp.asarray(from_mixture(6), jnp.float32), jax.random.split(jax.random.key(0), 6)
    run = lambda at: likelihood.log_density(mixture(of), x[at], times.karras(of, steps=8), keys[at], trace=trace,
                                            method=method)[0]
    whole = run(np.arange(6))
    for part in ([0, 1, 2, 3], [4, 5], [3, 0]):
        # rounding may move an adaptive step, within the tolerance
        np.testing.assert_allclose(run(np.array(part)), whole[np.array(part)], atol=1e-3 if method != "rk4" else 2e-5)
    assert len(np.unique(whole)) == 6


@pytest.mark.parametrize("method", ["rk4", "adaptive"])
def test_a_condition_reaches_the_denoiser(method):
    of = process.VP()
    d = denoiser.from_function(lambda x, t, cond: gaussian(of, cond["mean"][:, None])(x, t), of)
    means = np.array([-0.2, 0.1, 0.5], np.float32)
    nats, _ = exactly(d, jnp.zeros((3, 2)), times.karras(of, steps=64), cond={"mean": jnp.asarray(means)},
                      method=method)
    np.testing.assert_allclose(nats, [generated(of, np.zeros((1, 2)), mean)[0] for mean in means], atol=1e-3)


def test_a_learned_process_has_densities():
    of = process.LearnedGamma(gamma_max=12.0, width=8)
    of = of.bind(of.init(jax.random.key(0)))
    nats, _ = exactly(gaussian(of), jnp.asarray(X, jnp.float32), times.karras(of, steps=64))
    np.testing.assert_allclose(nats, generated(of, X), atol=1e-3)


def test_images_are_summed_over_all_their_dimensions():
    of = process.EDM()
    x = jnp.asarray(RNG.normal(0.3, 0.25, (2, 3, 2, 1)), jnp.float32)
    for trace, key in (("exact", None), ("rademacher", jax.random.key(0))):  # the Jacobian is diagonal: signs are exact
        nats, _ = likelihood.log_density(gaussian(of), x, times.karras(of, steps=64), key, trace=trace)
        np.testing.assert_allclose(nats, generated(of, np.asarray(x).reshape(2, 6)), atol=1e-3)


def test_another_checkpoint_compiles_nothing():
    of, grid = process.VP(), times.karras(process.VP(), steps=4)
    x, outer = jnp.asarray(X, jnp.float32), jax.jit(likelihood.log_density, static_argnames="trace")
    exactly(gaussian(of, 0.1), x, grid)
    outer(gaussian(of, 0.1), x, grid, trace="exact")
    with compilations() as count:
        exactly(gaussian(of, 0.2), x, grid)
        _, aux = outer(gaussian(of, 0.2), x, grid, trace="exact")
    assert count() == 0
    assert aux["precision"] == "highest"


@pytest.mark.parametrize(("precision", "written"), [("highest", "HIGHEST"), ("bfloat16", "DEFAULT")])
def test_products_have_the_precision_that_is_recorded(precision, written):
    of = process.VP()
    d = denoiser.from_function(lambda x, t, cond, matrix: x @ matrix, of, jnp.eye(2))
    run = lambda x: exactly(d, x, times.karras(of, steps=4), precision=precision)
    products = [line for line in str(jax.make_jaxpr(run)(jnp.zeros((1, 2)))).splitlines() if "precision=" in line]
    assert products
    assert all(written in line for line in products)
    assert run(jnp.zeros((1, 2)))[1]["precision"] == precision


@pytest.mark.parametrize(("pixels", "offset", "slope", "start"), [
    (likelihood.centred, 7.0, 1 / 128, -1), (lambda p: p / 127.5 - 1, 6.99435, 1 / 127.5, -1)])
def test_bits_of_pixels_are_those_of_the_density_and_the_map(pixels, offset, slope, start):
    # score_sde's offset of 7 is that of x = 2 (k + u)/256 - 1 alone (G07); E_u by quadrature, one pixel of value 150
    of, number = process.EDM(), 4_000
    image = jnp.full((number, 1, 1, 1), 150, jnp.uint8)
    bits, aux = likelihood.bits_per_dim(gaussian(of, 0.0, 0.5), image, times.karras(of, steps=32), jax.random.key(0),
                                        pixels=pixels, trace="exact")
    at = lambda u: -norm.logpdf(start + slope * (150 + u), 0, 0.5) / math.log(2)
    assert float(bits.mean()) == pytest.approx(quad(at, 0, 1)[0] + offset, abs=2e-3)
    assert offset == pytest.approx(-math.log2(slope), abs=1e-5)
    assert 0 < float(bits.std()) < 0.01
    assert aux["precision"] == "highest"


def test_pixels_are_dequantised_by_their_own_keys():
    of = process.EDM()
    image = jnp.asarray(RNG.integers(0, 256, (5, 2, 2, 3)), jnp.uint8)
    keys = jax.random.split(jax.random.key(0), 5)
    run = lambda at: likelihood.bits_per_dim(mixed(of), image[at], times.karras(of, steps=8), keys[at])[0]
    whole = run(np.arange(5))
    np.testing.assert_allclose(run(np.array([3, 1])), whole[np.array([3, 1])], rtol=1e-5)
    same = likelihood.bits_per_dim(mixed(of), jnp.tile(image[:1], (5, 1, 1, 1)), times.karras(of, steps=8), keys)[0]
    assert len(np.unique(same)) == 5


def mixed(of):
    """A denoiser whose Jacobian is not diagonal."""
    return denoiser.from_function(lambda x, t, cond: gaussian(of)(0.5 * (x + x[:, ::-1]), t), of)


GRID = times.karras(process.VP(), steps=2)


@pytest.mark.parametrize(("options", "words"), [
    ({"trace": "exacts"}, "unknown trace 'exacts'; did you mean 'exact'"),
    ({"method": "rk5"}, "unknown method 'rk5'; did you mean 'rk4'"),
    ({"probes": 0}, "probes must be at least 1, got 0"),
    ({"method": "adaptive", "tolerance": 0.0}, "tolerance must be > 0, got 0.0"),
    ({"trace": "rademacher"}, "give it a typed key, jax.random.key.seed., got none"),
    ({"trace": "gaussian", "key": jnp.zeros(2, jnp.uint32)}, r"typed key, .* got uint32\[2\]"),
    ({"x0": jnp.zeros((1, 2), jnp.uint8)}, "takes x0 as floats, got uint8; bits_per_dim"),
    ({"times": times.given(process.VP(), t=(0.5, 0.0))}, "ends at t=0.5, before the noise at 1"),
])
def test_what_cannot_be_meant_is_refused(options, words):
    given = {"x0": jnp.zeros((1, 2)), "times": GRID, "trace": "exact", **options}
    with pytest.raises(ValueError, match=words):
        likelihood.log_density(gaussian(process.VP()), **given)


def test_bits_are_of_bytes():
    with pytest.raises(ValueError, match="bits/dim are of uint8 images, got float32; log_density"):
        likelihood.bits_per_dim(gaussian(process.VP()), jnp.zeros((1, 2)), GRID, jax.random.key(0))
