"""The loss is least at the exact denoiser, weighs as it says, and draws time, noise and drops apart."""

import functools
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import END_IN_NOISE, PAIRS, PARAMETERIZATIONS, PROCESSES, WITHOUT_X0_IN_NOISE
from scipy.integrate import trapezoid
from scipy.stats import spearmanr

from jaxdiff import objective, parameterization, process
from jaxdiff.objective import levels, weighting
from jaxdiff.protocols import Context

CONTEXT = Context(jnp.int32(0), {})
MEAN, STD = 0.3, 0.5
WEIGHTINGS = {name: getattr(weighting, name) for name in weighting.__all__}


@dataclass(frozen=True)
class Exact:
    """A network that knows N(.3, .5²): `scale` times the true prediction, plus `shift`."""

    of: object
    kind: object

    def init(self, key, x, c_noise, cond):
        return {"scale": jnp.ones(()), "shift": jnp.zeros(())}

    def apply(self, params, x, c_noise, cond, *, train=False, rngs=None):
        t = process.t_of_logsnr(self.of, -8 * c_noise)
        alpha, sigma = process.alpha(self.of, t), process.sigma(self.of, t)
        a, b = self.kind.coefficients(alpha, sigma, *process.slopes(self.of, t))
        a, b, alpha, sigma, c_in = (v[:, None] for v in (a, b, alpha, sigma, self.kind.c_in(alpha, sigma)))
        x = x / c_in
        variance = alpha**2 * STD**2 + sigma**2
        x0 = MEAN + alpha * STD**2 / variance * (x - alpha * MEAN)
        eps = sigma / variance * (x - alpha * MEAN)
        return params["scale"] * (a * x0 + b * eps) + params["shift"]


@functools.partial(jax.jit, static_argnums=0)
def losses_and_slopes(loss, params, keys):
    """Of 64 batches of 256 draws of N(.3, .5²)."""
    def once(key):
        data_key, key = jax.random.split(key)
        batch = {"x0": MEAN + STD * jax.random.normal(data_key, (256, 1)), "cond": None}
        return jax.value_and_grad(loss, has_aux=True)(params, batch, key, CONTEXT)

    (values, _), slopes = jax.vmap(once)(keys)
    return values, slopes


def standard_error(values):
    return values.std() / np.sqrt(len(values))


@pytest.mark.parametrize(("of", "name"), PAIRS)
def test_the_gradient_vanishes_at_the_exact_denoiser(of, name):
    of, kind = PROCESSES[of], PARAMETERIZATIONS[name]
    loss = objective.denoising(Exact(of, kind), of, kind, levels=levels.lognormal, weighting=weighting.eps)
    keys = jax.random.split(jax.random.key(0), 64)
    at = lambda scale, shift: {"scale": jnp.float32(scale), "shift": jnp.float32(shift)}
    _, slopes = losses_and_slopes(loss, at(1, 0), keys)
    for found in slopes.values():
        assert abs(found.mean()) < 4 * standard_error(found)
    _, slopes = losses_and_slopes(loss, at(1.2, 0.5), keys)  # and does not vanish elsewhere
    assert any(found.mean() > 8 * standard_error(found) for found in slopes.values())


@pytest.mark.parametrize(("kind", "name"), [(kind, "native") for kind in PARAMETERIZATIONS]
                         + [("v", name) for name in WEIGHTINGS if name != "native"])
def test_the_least_loss_is_the_weighted_variance_of_the_noise(kind, name):
    # Var(ε | x) = α² S²/(α² S² + σ²), so that the exact denoiser's loss is ∫ w(λ) Var dt, by quadrature;
    # native weighs what is predicted, (Δ/α)² in units of ε
    of, w, kind = process.VP(span=(0.02, 1.0)), WEIGHTINGS[name], PARAMETERIZATIONS[kind]
    loss = objective.denoising(Exact(of, kind), of, kind, weighting=w)
    params = {"scale": jnp.float32(1), "shift": jnp.float32(0)}
    values, _ = losses_and_slopes(loss, params, jax.random.split(jax.random.key(1), 64))
    t = np.linspace(*of.span, 10_001)
    alpha, sigma = process.alpha(of, t), process.sigma(of, t)
    weight = w(jnp.asarray(process.logsnr(of, t)))
    if weight is None:
        a, b = kind.coefficients(alpha, sigma, *process.slopes(of, t))
        weight = (parameterization.determinant(a, b, alpha, sigma) / alpha) ** 2
    variance = alpha**2 * STD**2 / (alpha**2 * STD**2 + sigma**2)
    expected = trapezoid(np.asarray(weight) * variance, t) / (of.span[1] - of.span[0])
    assert float(values.mean()) == pytest.approx(expected, abs=4 * float(standard_error(values)) + 1e-4 * expected)
    assert standard_error(values) < 0.05 * expected


class Zero(nn.Module):
    """Predicts 0."""

    @nn.compact
    def __call__(self, x, c_noise, cond=None, *, train=False):
        return 0 * x


ON_X0 = {  # the published weight on |δx0|², of SNR; see test_weighting
    "x0": lambda snr: 1, "eps": lambda snr: snr, "v": lambda snr: snr + 1, "min_snr": lambda snr: np.minimum(snr, 5),
    "edm": lambda snr: (1 / snr + 0.25) / (0.25 / snr), "p2": lambda snr: snr / (1 + snr),
    "sigmoid": lambda snr: snr / (1 + snr), "soft_min_snr": lambda snr: 4 * snr / (snr + 4),
}


@pytest.mark.parametrize("name", ON_X0)
@pytest.mark.parametrize("kind", PARAMETERIZATIONS)
def test_a_weighting_means_the_same_whatever_is_predicted(kind, name):
    of, kind = process.VP(span=(1e-2, 1.0)), PARAMETERIZATIONS[kind]
    loss = objective.denoising(Zero(), of, kind, weighting=WEIGHTINGS[name])
    batch = {"x0": jax.random.normal(jax.random.key(0), (128, 3)), "cond": None}
    drawn = loss.draw(batch, jax.random.key(1))
    value, metrics = loss({}, drawn, jax.random.key(2), CONTEXT)
    t = np.asarray(drawn["t"], np.float64)
    alpha, sigma = process.alpha(of, t), process.sigma(of, t)
    a, b = kind.coefficients(alpha, sigma, *process.slopes(of, t))
    x0, eps, a, b, alpha, sigma = (np.asarray(v, np.float64).reshape(128, -1)
                                   for v in (drawn["x0"], drawn["eps"], a, b, alpha, sigma))
    found, _ = parameterization.solve(0.0, alpha * x0 + sigma * eps, a, b, alpha, sigma)
    expected = (ON_X0[name]((alpha / sigma) ** 2) * (found - x0) ** 2).mean()
    np.testing.assert_allclose(value, expected, rtol=2e-3)
    assert metrics == {}


@pytest.mark.parametrize("law", ["uniform", "logsnr", "mode"])
@pytest.mark.parametrize("of", [process.VP(span=(0.05, 1.0)), process.RectifiedFlow(span=(0.05, 0.95))])
@pytest.mark.parametrize("name", ["eps", "sigmoid", "min_snr"])
def test_with_importance_the_loss_is_an_integral_over_logsnr(law, of, name):
    # MATHEMATICS.md 1.4: ∫ w(λ) Var(ε|x) dλ by quadrature, whatever levels and process; Var = S²/(S² + e^-λ)
    w, kind = WEIGHTINGS[name], parameterization.v()
    loss = objective.denoising(Exact(of, kind), of, kind, levels=getattr(levels, law), weighting=w, importance=True)
    values, _ = losses_and_slopes(loss, {"scale": jnp.float32(1), "shift": jnp.float32(0)},
                                  jax.random.split(jax.random.key(1), 64))
    logsnr = np.linspace(*process.logsnr(of, np.asarray(of.span))[::-1], 10_001)
    expected = trapezoid(np.asarray(w(jnp.asarray(logsnr))) * STD**2 / (STD**2 + np.exp(-logsnr)), logsnr)
    assert float(values.mean()) == pytest.approx(expected, abs=4 * float(standard_error(values)) + 1e-3 * expected)
    assert standard_error(values) < 0.05 * expected


def test_importance_with_native_weighs_what_is_predicted():
    of, kind = process.VP(), parameterization.v()
    batch = {"x0": jax.random.normal(jax.random.key(0), (32, 2)), "cond": None}
    plain = objective.denoising(Zero(), of, kind)
    made = plain.draw(batch, jax.random.key(1))
    found = objective.denoising(Zero(), of, kind, importance=True).errors({}, made, KEY)
    np.testing.assert_allclose(found, plain.errors({}, made, KEY) * levels.stretch(levels.uniform, of, made["u"]))


@dataclass(frozen=True)
class Bisected:
    """A process without a t_of_logsnr of its own."""

    span: tuple[float, float] = (1e-4, 1 - 1e-4)
    log_alpha = process.RectifiedFlow.log_alpha
    log_sigma = process.RectifiedFlow.log_sigma


def test_a_bisected_process_has_the_density_of_its_closed_form():
    u = jnp.linspace(0.1, 0.9, 9)
    for drawn_at in (levels.uniform, levels.logsnr, levels.lognormal):
        found, right = (levels.stretch(drawn_at, of, u) for of in (Bisected(), process.RectifiedFlow()))
        np.testing.assert_allclose(found, right, rtol=2e-4)


@dataclass(frozen=True)
class Rounded(Bisected):
    """A process whose t_of_logsnr answers in thousandths."""

    def t_of_logsnr(self, logsnr):
        return jnp.round(1_000 * process.RectifiedFlow().t_of_logsnr(logsnr)) / 1_000


def test_levels_without_a_density_are_refused():
    given = Zero(), Rounded(), parameterization.v()
    objective.denoising(*given, importance=True)
    with pytest.raises(ValueError, match="no density on Rounded, .* use levels 'uniform'"):
        objective.denoising(*given, levels=levels.logsnr, importance=True)


KEY = jax.random.key(0)
NULL = {"label": np.int32(10), "text": np.zeros(2, np.float32)}


def drawn(*, drop=0.0, shape=(4096, 8, 8, 3), key=KEY):
    """(a drawn batch, its conditions before)."""
    loss = objective.denoising(Zero(), process.RectifiedFlow(), parameterization.velocity(), drop=drop, null=NULL)
    cond = {"label": jnp.arange(shape[0]) % 10, "text": jnp.ones((shape[0], 2))}
    return loss.draw({"x0": jnp.zeros(shape), "cond": cond}, key), cond


def test_time_noise_and_drops_are_independent():
    # G06, p-doom/jasmine#214 and jax-ml/jax#3646: of one key, t and ε are the same bits in disguise (ρ = 1)
    made, cond = drawn(drop=0.1)
    t, eps, dropped = made["t"], made["eps"].ravel(), made["cond"]["label"] == 10
    for part in (eps[:4096], eps[-4096:], made["eps"][:, 0, 0, 0]):
        assert abs(spearmanr(t, part).statistic) < 0.06
        assert abs(spearmanr(dropped, part).statistic) < 0.06
    assert float(t[dropped].mean()) == pytest.approx(0.5, abs=0.05)
    assert float(eps.mean()) == pytest.approx(0, abs=4 / np.sqrt(eps.size))
    assert float(eps.std()) == pytest.approx(1, abs=4 / np.sqrt(eps.size))
    assert cond["label"].max() == 9


def test_noise_differs_between_samples_channels_and_keys():
    one, other = (drawn(shape=(16, 4, 4, 3), key=jax.random.key(seed))[0] for seed in range(2))
    assert len(np.unique(one["eps"])) == one["eps"].size
    assert not np.isin(one["eps"], other["eps"]).any()
    assert not np.isin(one["t"], other["t"]).any()


@pytest.mark.parametrize("seed", range(4))
def test_times_are_stratified_over_the_batch(seed):
    made, _ = drawn(shape=(64, 1), key=jax.random.key(seed))
    of = process.RectifiedFlow()
    u = np.sort((np.asarray(made["t"]) - of.span[0]) / (of.span[1] - of.span[0]))
    np.testing.assert_allclose(np.diff(u), 1 / 64, rtol=1e-2)  # one offset and equal distances
    assert 0 <= u[0] < 1 / 64


def test_times_may_be_drawn_one_by_one():
    of = process.RectifiedFlow()
    loss = objective.denoising(Zero(), of, parameterization.velocity(), stratified=False)
    gaps = np.diff(np.sort(loss.draw({"x0": jnp.zeros((64, 1)), "cond": None}, KEY)["t"]))
    assert gaps.max() > 2.5 / 64
    assert gaps.min() < 0.4 / 64


def test_every_time_is_uniform_over_keys():
    times = jax.vmap(lambda key: drawn(shape=(8, 1), key=key)[0]["t"])(jax.random.split(KEY, 4_000))
    for place in (times[:, 0], times[:, 5]):
        counts = np.histogram(place, bins=10, range=(0, 1))[0]
        assert (abs(counts - 400) < 5 * np.sqrt(400 * 0.9)).all()


@pytest.mark.parametrize("drop", [0.1, 0.5, 1.0])
def test_conditions_are_dropped_together_and_as_often_as_asked(drop):
    made, cond = drawn(drop=drop, shape=(4096, 1))
    gone = np.asarray(made["cond"]["label"] == 10)
    assert gone.mean() == pytest.approx(drop, abs=4 * np.sqrt(drop * (1 - drop) / 4096) + 1e-9)
    np.testing.assert_array_equal(made["cond"]["text"], np.where(gone, 0.0, 1.0)[:, None].repeat(2, 1))
    np.testing.assert_array_equal(made["cond"]["label"][~gone], cond["label"][~gone])
    assert made["cond"]["label"].dtype == cond["label"].dtype


def test_nothing_is_dropped_unasked():
    made, cond = drawn(shape=(256, 1))
    np.testing.assert_array_equal(made["cond"]["label"], cond["label"])


@pytest.mark.parametrize("of", PROCESSES.values(), ids=PROCESSES)
def test_drawing_first_changes_nothing(of):
    kind = parameterization.edm()
    loss = objective.denoising(Exact(of, kind), of, kind)
    batch, key = {"x0": jax.random.normal(jax.random.key(0), (32, 1)), "cond": None}, jax.random.key(1)
    params = {"scale": jnp.float32(0.9), "shift": jnp.float32(0.1)}
    whole, _ = loss(params, batch, key, CONTEXT)
    split, _ = loss(params, loss.draw(batch, jax.random.split(key)[0]), key, CONTEXT)
    assert float(whole) == float(split)
    assert float(whole) != float(loss(params, batch, jax.random.key(2), CONTEXT)[0])


@pytest.mark.parametrize(("of", "name"), PAIRS)
def test_the_objectives_denoiser_is_the_one_it_trains(of, name):
    of, kind = PROCESSES[of], PARAMETERIZATIONS[name]
    loss = objective.denoising(Exact(of, kind), of, kind)
    d = loss.denoiser({"scale": jnp.float32(1), "shift": jnp.float32(0)})
    t, x = np.float32(0.4), jnp.linspace(-1, 1, 5)[:, None]
    alpha, sigma = float(process.alpha(of, t)), float(process.sigma(of, t))
    exact = MEAN + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (x - alpha * MEAN)
    np.testing.assert_allclose(d(x, t), exact, rtol=1e-3, atol=1e-3)
    assert d.process == of


@pytest.mark.parametrize("end", END_IN_NOISE)
@pytest.mark.parametrize("name", WITHOUT_X0_IN_NOISE)
def test_a_prediction_that_carries_no_x0_is_refused(end, name):
    with pytest.raises(ValueError, match=f"'{name}' carries no x0"):
        objective.denoising(Zero(), PROCESSES[end], PARAMETERIZATIONS[name])


@pytest.mark.parametrize(("options", "words"), [
    ({"drop": 1.5, "null": {"label": np.int32(3)}}, r"drop must lie in \[0, 1\], got 1.5"),
    ({"drop": -0.1}, "drop must lie"),
    ({"drop": 0.1}, "drop=0.1 needs a condition to drop"),
])
def test_impossible_drops_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        objective.denoising(Zero(), process.VP(), parameterization.v(), **options)
