"""Training levels have the law they are named for, spread evenly over the batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import PROCESSES
from scipy.stats import kstest, norm

from jaxdiff import process
from jaxdiff.objective import levels

U = (jnp.arange(4096) + 0.5) / 4096
each_process = pytest.mark.parametrize("of", PROCESSES.values(), ids=PROCESSES)
LEVELS = {"uniform": levels.uniform, "logsnr": levels.logsnr, "lognormal": levels.lognormal,
          "logit_normal": levels.logit_normal, "mode": levels.mode}


def test_lists_are_complete():
    assert set(LEVELS) == set(levels.__all__)


@each_process
def test_uniform_levels_fill_the_span(of):
    t = levels.uniform(of, U)
    np.testing.assert_allclose(t, of.span[0] + (of.span[1] - of.span[0]) * (np.arange(4096) + 0.5) / 4096, rtol=1e-5)


@each_process
def test_logsnr_levels_are_uniform_in_logsnr(of):
    start, end = process.logsnr(of, np.asarray(of.span))
    wanted = process.t_of_logsnr(of, start + (end - start) * (np.arange(4096) + 0.5) / 4096)
    np.testing.assert_allclose(levels.logsnr(of, U), np.clip(wanted, *of.span), rtol=1e-5, atol=1e-6)


def test_logit_normal_levels_are_sd3s_on_the_flow():
    # Esser et al. 2024, eq. 19: logit t ~ N(m, s²)
    t = np.asarray(levels.logit_normal(process.RectifiedFlow(), U, mean=0.5, std=0.8), np.float64)
    np.testing.assert_allclose(np.log(t / (1 - t)), norm.ppf((np.arange(4096) + 0.5) / 4096, 0.5, 0.8), atol=1e-3)


@pytest.mark.parametrize("scale", [-1.0, 0.0, 0.81, 1.29, 1.75])  # those of the paper's table 1, and the ends
def test_mode_levels_are_sd3s_on_the_flow(scale):
    # Esser et al. 2024, eq. 20: t = 1 - u - s (cos²(πu/2) - 1 + u), of 1 - u
    u = 1 - (np.arange(4096) + 0.5) / 4096
    of = process.RectifiedFlow()
    wanted = 1 - u - scale * (np.cos(np.pi / 2 * u) ** 2 - 1 + u)
    np.testing.assert_allclose(levels.mode(of, U, scale=scale), np.clip(wanted, *of.span), atol=2e-6)


def test_mode_levels_are_uniform_at_scale_0_and_the_cosines_at_minus_1():
    t = levels.mode(process.RectifiedFlow(), U, scale=0.0)
    np.testing.assert_allclose(t[1:-1], U[1:-1], rtol=1e-5)
    # the cosine schedule has σ² = sin²(πu/2): as a flow's time, the same law of t as f at s = -1
    np.testing.assert_allclose(levels.mode(process.RectifiedFlow(), U, scale=-1.0)[100:-100],
                               np.sin(np.pi / 2 * U[100:-100]) ** 2, rtol=1e-4)


@each_process
@pytest.mark.parametrize("name", ["logit_normal", "mode"])
def test_levels_of_the_flow_are_as_noisy_in_every_process(of, name):
    flow = process.RectifiedFlow()
    levels_of_flow = process.logsnr(flow, np.asarray(LEVELS[name](flow, U), np.float64))
    wanted = process.t_of_logsnr(of, levels_of_flow)
    np.testing.assert_allclose(LEVELS[name](of, U), np.clip(wanted, *of.span), rtol=1e-4, atol=2e-6)


@each_process
@pytest.mark.parametrize("name", LEVELS)
def test_the_stretch_is_one_over_the_density_of_logsnr(of, name):
    # E_u[h(λ)/p(λ)] = ∫ h dλ over the span, for an h that lies where all levels have mass
    logsnr = np.asarray(process.logsnr(of, LEVELS[name](of, U)))
    stretch = np.asarray(levels.stretch(LEVELS[name], of, U))
    start, end = process.logsnr(of, np.asarray(of.span))
    h = lambda x: norm.pdf(x, 0.5, 1.3)
    found = (stretch * h(logsnr)).mean()
    assert found == pytest.approx(norm.cdf(start, 0.5, 1.3) - norm.cdf(end, 0.5, 1.3), rel=2e-3)
    assert (stretch >= 0).all()


def test_levels_drawn_one_by_one_are_uniform_and_uneven():
    u = np.asarray(levels.spread(jax.random.key(0), 4096, stratified=False))
    assert kstest(u, "uniform").pvalue > 1e-3
    assert np.diff(np.sort(u)).max() > 3 / 4096
    even = np.sort(levels.spread(jax.random.key(0), 4096, stratified=True))
    np.testing.assert_allclose(np.diff(even), 1 / 4096, rtol=1e-2)


@pytest.mark.parametrize(("make", "words"), [
    (functools.partial(levels.lognormal, std=0.0), "std > 0, got 0.0"),
    (functools.partial(levels.logit_normal, std=-1.0), "std > 0, got -1.0"),
    (functools.partial(levels.mode, scale=2.0), "mode levels need -1 <= scale <= 1.7519, got 2.0"),
    (functools.partial(levels.mode, scale=-1.1), "got -1.1"),
])
def test_impossible_laws_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make(process.VP(), U)


@each_process
@pytest.mark.parametrize(("mean", "std"), [(-1.2, 1.2), (-0.4, 1.0)])  # EDM and EDM2
def test_lognormal_levels_have_normal_logarithms(of, mean, std):
    t = np.asarray(levels.lognormal(of, U, mean=mean, std=std), np.float64)
    found = np.log(process.ratio(of, t))
    wanted = norm.ppf((np.arange(4096) + 0.5) / 4096, mean, std)
    edges = np.log(process.ratio(of, np.asarray(of.span)))  # beyond them the level is that of the span's end
    np.testing.assert_allclose(found, np.clip(wanted, *edges), atol=2e-3)
    inside = (edges[0] + 0.1 < wanted) & (wanted < edges[1] - 0.1)
    assert inside.mean() > 0.96  # Stable Diffusion's levels start at .029
    np.testing.assert_allclose(found[inside], wanted[inside], atol=2e-3)


def test_lognormal_levels_have_edms_mean_and_deviation():
    level = np.log(process.ratio(process.EDM(), np.asarray(levels.lognormal(process.EDM(), U), np.float64)))
    assert level.mean() == pytest.approx(-1.2, abs=1e-3)  # Karras et al. 2022, table 1
    assert level.std() == pytest.approx(1.2, abs=3e-3)


@pytest.mark.parametrize("make", LEVELS.values(), ids=LEVELS)
@each_process
def test_levels_stay_within_the_span_at_the_ends_of_u(make, of):
    t = make(of, jnp.array([0.0, 1e-9, 0.5, 1 - 1e-7, np.nextafter(np.float32(1), np.float32(0))]))
    assert ((of.span[0] <= t) & (t <= np.float32(of.span[1]))).all()
    assert (jnp.diff(t) >= 0).all()


@pytest.mark.parametrize("make", LEVELS.values(), ids=LEVELS)
def test_levels_are_float32_under_jit(make):
    t = jax.jit(functools.partial(make, process.RectifiedFlow()))(U)
    assert t.dtype == jnp.float32
    assert jnp.isfinite(process.logsnr(process.RectifiedFlow(), t)).all()
