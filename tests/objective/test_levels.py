"""Training levels have the law they are named for, spread evenly over the batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import PROCESSES
from scipy.stats import norm

from jaxdiff import process
from jaxdiff.objective import levels

U = (jnp.arange(4096) + 0.5) / 4096
each_process = pytest.mark.parametrize("of", PROCESSES.values(), ids=PROCESSES)
LEVELS = {"uniform": levels.uniform, "lognormal": levels.lognormal}


def test_lists_are_complete():
    assert set(LEVELS) == set(levels.__all__)


@each_process
def test_uniform_levels_fill_the_span(of):
    t = levels.uniform(of, U)
    np.testing.assert_allclose(t, of.span[0] + (of.span[1] - of.span[0]) * (np.arange(4096) + 0.5) / 4096, rtol=1e-5)


@each_process
@pytest.mark.parametrize(("mean", "std"), [(-1.2, 1.2), (-0.4, 1.0)])  # EDM and EDM2
def test_lognormal_levels_have_normal_logarithms(of, mean, std):
    t = np.asarray(levels.lognormal(of, U, mean=mean, std=std), np.float64)
    found = np.log(process.ratio(of, t))
    wanted = norm.ppf((np.arange(4096) + 0.5) / 4096, mean, std)
    edges = np.log(process.ratio(of, np.asarray(of.span)))  # beyond them the level is that of the span's end
    np.testing.assert_allclose(found, np.clip(wanted, *edges), atol=2e-3)
    inside = (edges[0] + 0.1 < wanted) & (wanted < edges[1] - 0.1)
    assert inside.mean() > 0.99
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
