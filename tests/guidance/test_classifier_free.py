"""Guidance multiplies the difference that a condition makes, in every channel, by one convention."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import PROCESSES, gaussian_flow, levels, matched_times

from jaxdiff import denoiser, guidance, process, samplers
from jaxdiff.denoiser import Denoiser

NULL = {"label": np.int32(2)}
COND = {"label": jnp.array([0, 1, 0])}
TABLE = jnp.array([2.3, 0.71, 1.13])  # of labels 0, 1 and none


def by_label(x, t, cond, table=TABLE):
    return jnp.sin(x) * table[cond["label"]][:, None] + t


def both(d, scale, **options):
    return guidance.classifier_free(d, scale=scale, null=NULL, **options)


X = jax.random.normal(jax.random.key(0), (3, 50))
D = denoiser.from_function(by_label, process.VP())


@pytest.mark.smoke
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("wrap", [jax.jit, lambda f: f], ids=["jit", "eager"])
def test_scale_one_is_off_to_the_bit(batched, wrap):
    guided = wrap(lambda d: both(d, 1.0, batched=batched)(X, 0.3, COND))
    np.testing.assert_array_equal(guided(D), wrap(lambda d: d(X, 0.3, COND))(D))


@pytest.mark.parametrize("channels", [4, 16])
@pytest.mark.parametrize("batched", [True, False])
def test_every_channel_is_guided(channels, batched):
    # G24, facebookresearch/DiT#41: D_c = 1 and D_u = 0 at w = 4 give 4 in every channel
    constant = denoiser.from_function(lambda x, t, cond: jnp.ones_like(x) * (cond["label"] != 2)[:, None], process.VP())
    out = both(constant, 4.0, batched=batched)(jnp.zeros((3, channels)), 0.5, COND)
    np.testing.assert_array_equal(out, np.full((3, channels), 4.0))


@pytest.mark.parametrize(("scale", "value", "other"), [(0, 1, 2), (1, 2, 3), (3, 4, 5)])
def test_the_convention_is_off_at_one(scale, value, other):
    # G25, huggingface/diffusers#5882: D_c = 2, D_u = 1; `other` is what the convention off at 0 gives
    constant = denoiser.from_function(lambda x, t, cond: jnp.where(cond["label"] == 2, 1.0, 2.0)[:, None], process.VP())
    assert (both(constant, scale)(X[:, :1], 0.5, COND) == value).all()
    assert (both(constant, scale + 1)(X[:, :1], 0.5, COND) == other).all()


@pytest.mark.parametrize("t", [0.4, [0.1, 0.5, 0.9]], ids=["one time", "a time each"])
def test_one_call_of_twice_the_batch_equals_two_calls(t):
    t = jnp.asarray(t)
    timed = denoiser.from_function(lambda x, t, cond: by_label(x, t[..., None], cond), process.VP())
    np.testing.assert_allclose(both(timed, 3.5)(X, t, COND), both(timed, 3.5, batched=False)(X, t, COND), rtol=1e-6)


@pytest.mark.parametrize(("batched", "shapes"), [(True, [(6, 50)]), (False, [(3, 50), (3, 50)])])
def test_guidance_costs_two_evaluations(batched, shapes):
    seen = []

    def noting(x, t, cond):
        seen.append(x.shape)
        return by_label(x, t, cond)

    both(denoiser.from_function(noting, process.VP()), 2.0, batched=batched)(X, 0.5, COND)
    assert seen == shapes


def test_conditions_of_several_parts_stay_aligned():
    def parts(x, t, cond):
        tokens = jnp.where(cond["mask"][..., None], cond["tokens"], 0.0).sum((1, 2))
        return (tokens + 10 * cond["label"])[:, None] + 0 * x

    cond = {"tokens": jnp.ones((3, 4, 2)), "mask": jnp.ones((3, 4), bool), "label": jnp.array([1, 2, 3])}
    null = {"tokens": np.zeros((4, 2), np.float32), "mask": np.zeros(4, bool), "label": np.int32(0)}
    d = denoiser.from_function(parts, process.VP())
    for batched in (True, False):
        out = guidance.classifier_free(d, scale=2.0, null=null, batched=batched)(X[:, :1], 0.5, cond)
        np.testing.assert_allclose(out[:, 0], [2 * (8 + 10), 2 * (8 + 20), 2 * (8 + 30)])


def two_gaussians(d, x, t, cond):
    """Data N(0, s²) under a condition, N(0, S²) without."""
    std = jnp.where(cond["label"] == 2, 0.8, 0.3)[:, None]
    level = process.ratio(d.process, jnp.asarray(t, x.dtype))
    return std**2 / (std**2 + level**2) * x / process.alpha(d.process, jnp.asarray(t, x.dtype))


guided_heun = jax.jit(functools.partial(samplers.heun, cond=COND))


@pytest.mark.parametrize("w", [0.0, 1.0, 2.5])
def test_two_concentric_gaussians_are_guided_in_closed_form(w, x64):
    # x(σ1)/x(σ0) = [(s² + σ1²)/(s² + σ0²)]^{w/2} [(S² + σ1²)/(S² + σ0²)]^{(1-w)/2}   (MATHEMATICS 2.3)
    of, high, low = PROCESSES["vp"], 80.0, 0.05
    ends = [((std**2 + low**2) / (std**2 + high**2)) ** 0.5 for std in (0.3, 0.8)]
    exact = ends[0] ** w * ends[1] ** (1 - w)
    found = []
    for steps in (64, 128):
        grid = matched_times(of, levels(steps, high, low))
        first, last = (process.alpha(of, t) for t in (grid.t[0], grid.t[-1]))
        x, _ = guided_heun(both(Denoiser(two_gaussians, of), w), first * jnp.ones((3, 2)), grid)
        found.append(float(x[0, 0] / last / exact))
    assert 3.2 < (found[0] - 1) / (found[1] - 1) < 5  # of second order, hence
    assert (4 * found[1] - found[0]) / 3 == pytest.approx(1, abs=5e-4)


def test_scale_one_follows_the_conditional_flow(x64):
    of = PROCESSES["edm"]
    grid = matched_times(of, levels(64, 80.0, 0.05))
    x, _ = samplers.heun(both(Denoiser(two_gaussians, of), 1.0), jnp.full((3, 2), 80.0), grid, cond=COND)
    np.testing.assert_allclose(x, gaussian_flow(of, 80.0, grid.t[0], grid.t[-1], 0.0, 0.3), rtol=5e-3)


def test_scales_share_a_trace_in_a_sampler():
    traces = []

    @jax.jit
    def run(d, x):
        traces.append(1)
        return samplers.ddim(d, x, matched_times(PROCESSES["vp"], levels(3)), cond=COND)[0]

    outputs = [run(both(D, scale), X) for scale in (1, 2.0, 7.5)]
    assert len(traces) == 1
    assert not (outputs[0] == outputs[1]).all()


def test_guidance_without_a_condition_is_refused():
    of = process.EDM()
    plain = denoiser.from_function(lambda x, t, cond: x, of)
    with pytest.raises(ValueError, match="needs a condition, got cond=None"):
        guidance.classifier_free(plain, scale=2.0, null={"label": np.int32(1)})(jnp.zeros((2, 1)), 0.5)
