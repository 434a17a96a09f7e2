"""Two concentric Gaussians are guided in closed form, by whatever makes the difference between them.

With D of N(0, s²) guided away from that of N(0, S²), x/α moves from level a to b by

    f_s(a, b)^w f_S(a, b)^(1 - w),    f_s(a, b) = √((s² + b²)/(s² + a²))   (MATHEMATICS 2.3).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import PROCESSES, gaussian, levels, matched_times

from jaxdiff import guidance, process, samplers
from jaxdiff.denoiser import Denoiser

NARROW, WIDE = 0.3, 0.8
OTHER = {"label": np.int32(1)}
COND = {"label": jnp.zeros(3, int)}


def by_label(d, x, t, cond):
    alpha, sigma = (level(d.process, jnp.asarray(t, x.dtype)) for level in (process.alpha, process.sigma))
    std = jnp.where(cond["label"] == 1, WIDE, NARROW)[:, None]
    return alpha * std**2 / (alpha**2 * std**2 + sigma**2) * x


GUIDES = {
    "classifier_free": lambda of, w: guidance.classifier_free(Denoiser(by_label, of), scale=w, null=OTHER),
    "negative": lambda of, w: guidance.negative(Denoiser(by_label, of), scale=w, away=OTHER),
    "projected": lambda of, w: guidance.projected(Denoiser(by_label, of), scale=w, null=OTHER, eta=1.0),
    "autoguidance": lambda of, w: guidance.autoguidance(gaussian(of, 0.0, NARROW), scale=w,
                                                        weak=gaussian(of, 0.0, WIDE)),
}
each_guide = pytest.mark.parametrize("guide", GUIDES.values(), ids=GUIDES)


def moved(first, last, w):
    """x(last)/x(first) in x/α."""
    narrow, wide = (((std**2 + last**2) / (std**2 + first**2)) ** 0.5 for std in (NARROW, WIDE))
    return narrow**w * wide ** (1 - w)


sampled = {name: jax.jit(functools.partial(getattr(samplers, name), cond=COND)) for name in ("heun", "euler")}


def simulated(sampler, d, noise_levels):
    grid = matched_times(d.process, noise_levels)
    first, last = (process.alpha(d.process, t) for t in (grid.t[0], grid.t[-1]))
    return float(sampled[sampler](d, first * jnp.ones((3, 2)), grid)[0][0, 0] / last)


@each_guide
@pytest.mark.parametrize("of", ["vp", "edm", "flow"])
def test_every_guide_follows_the_closed_form(guide, of, x64):
    coarse, fine = (simulated("heun", guide(PROCESSES[of], 2.5), levels(n, 80.0, 0.05)) for n in (64, 128))
    exact = moved(80.0, 0.05, 2.5)
    assert 3.2 < (coarse - exact) / (fine - exact) < 5  # of second order
    assert (4 * fine - coarse) / 3 == pytest.approx(exact, rel=5e-4)


LOW, HIGH = 0.2, 3.0


@each_guide
@pytest.mark.parametrize("of", ["vp", "edm", "flow"])
def test_an_interval_is_the_same_flow_piece_by_piece(guide, of, x64):
    # Euler asks at the noisier end of a step alone, and the ends of the interval are in the grid:
    # the step from HIGH is guided, that from LOW is not.
    inside = guidance.interval(guide(PROCESSES[of], 2.5), low=LOW * (1 + 1e-9), high=HIGH * (1 + 1e-9))
    pieces = lambda n: np.concatenate([np.geomspace(80, HIGH, 4 * n)[:-1], np.geomspace(HIGH, LOW, 4 * n)[:-1],
                                       np.geomspace(LOW, 0.05, 2 * n)])
    coarse, fine = (simulated("euler", inside, pieces(n)) for n in (60, 120))
    exact = moved(80.0, HIGH, 1.0) * moved(HIGH, LOW, 2.5) * moved(LOW, 0.05, 1.0)
    assert 1.8 < (coarse - exact) / (fine - exact) < 2.2
    assert 2 * fine - coarse == pytest.approx(exact, rel=1e-3)
    assert abs(moved(80.0, 0.05, 2.5) / exact - 1) > 0.05  # guidance everywhere goes elsewhere


def test_an_interval_has_its_upper_end_and_not_its_lower(x64):
    of = PROCESSES["edm"]
    d = guidance.interval(GUIDES["autoguidance"](of, 4.0), low=2.0, high=8.0)
    level = jnp.array([1.0, 2.0, 2.001, 8.0, 8.001, 80.0])
    x = jnp.ones((6, 1))
    on = d(x, level / 80, None)[:, 0] != gaussian(of, 0.0, NARROW)(x, level[:, None] / 80)[:, 0]
    np.testing.assert_array_equal(on, [False, False, True, True, False, False])


def test_pure_noise_is_guided_by_an_interval_without_end_alone():
    flow = process.RectifiedFlow()
    x = jnp.ones((3, 2))
    wanted = gaussian(flow, 0.1, NARROW)
    guided = guidance.autoguidance(wanted, scale=3.0, weak=gaussian(flow, 0.5, WIDE))
    np.testing.assert_array_equal(guidance.interval(guided, low=0.5)(x, 1.0), guided(x, 1.0))
    np.testing.assert_array_equal(guidance.interval(guided, high=100.0)(x, 1.0), wanted(x, 1.0))


def test_what_lies_along_the_prediction_is_all_that_concentric_gaussians_differ_in(x64):
    # hence projected guidance leaves their conditional flow alone
    d = guidance.projected(Denoiser(by_label, PROCESSES["edm"]), scale=7.0, null=OTHER)
    bare = Denoiser(by_label, PROCESSES["edm"])
    grid = levels(32, 80.0, 0.05)
    assert simulated("heun", d, grid) == pytest.approx(simulated("heun", bare, grid), rel=1e-12)
