"""The paths of k-diffusion's and diffusers' samplers, step by step, from `tests/golden` (docs/parity.md)."""

import functools
from pathlib import Path

import jax.numpy as jnp
import laws
import numpy as np
import pytest
from laws import PROCESSES, matched_times, mixture

from jaxdiff import process, samplers, times, walk

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
EDM = process.EDM()
PC = functools.partial(samplers.predictor_corrector, snr=0.15, norms="batch")


def of(sampler, **options):
    return functools.partial(sampler, **options) if options else sampler


# Case: our sampler, and how many last rows differ (why: docs/parity.md).
K_DIFFUSION = {
    "euler": (of(samplers.euler), 0),
    "euler_zero": (of(samplers.ddim), 0),
    "euler_churn2": (of(samplers.euler, s_churn=2.0), 0),
    "euler_churn2_zero": (of(samplers.euler, s_churn=2.0), 1),
    "heun": (of(samplers.heun), 0),
    "heun_zero": (of(samplers.restart, intervals=()), 0),
    "heun_churn5": (of(samplers.heun, s_churn=5.0), 0),
    "heun_churn5_zero": (of(samplers.heun, s_churn=5.0), 1),
    "dpm_2": (of(samplers.dpm_solver, order=2), 0),
    "dpm_2_zero": (of(samplers.dpm_solver, order=2), 0),
    "dpm_solver_1": (of(samplers.dpm_solver, order=1), 0),
    "dpm_solver_2": (of(samplers.dpm_solver, order=2), 0),
    "dpm_solver_3": (of(samplers.dpm_solver, order=3), 0),
    "lms4": (of(samplers.lms), 0),
    "lms4_zero": (of(samplers.lms), 1),
    "euler_ancestral_eta05": (of(samplers.ddim, eta=0.5), 0),
    "euler_ancestral_eta1": (of(samplers.ancestral), 0),
    "euler_ancestral_eta1_zero": (of(samplers.ddim, eta=1.0), 0),
    "dpmpp_2s_eta0": (of(samplers.dpmpp_2s), 0),
    "dpmpp_2s_eta0_zero": (of(samplers.dpmpp_2s), 0),
    "dpmpp_2s_eta1": (of(samplers.dpmpp_2s, eta=1.0), 0),
    "dpmpp_2s_eta1_zero": (of(samplers.dpmpp_2s, eta=1.0), 0),
    "dpmpp_2m": (of(samplers.dpmpp_2m), 0),
    "dpmpp_2m_zero": (of(samplers.dpmpp_2m), 0),
    "dpmpp_2m_sde_midpoint_eta0": (of(samplers.dpmpp_2m), 0),
    "dpmpp_2m_sde_midpoint_eta1": (of(samplers.dpmpp_2m, eta=1.0), 0),
    "dpmpp_2m_sde_midpoint_eta1_zero": (of(samplers.dpmpp_2m, eta=1.0), 0),
    "dpmpp_2m_sde_heun_eta0": (of(samplers.dpmpp_2m, form="heun"), 0),
    "dpmpp_2m_sde_heun_eta1": (of(samplers.dpmpp_2m, form="heun", eta=1.0), 0),
    "dpmpp_2m_sde_heun_eta1_zero": (of(samplers.dpmpp_2m, form="heun", eta=1.0), 0),
    "dpmpp_3m_sde_eta0": (of(samplers.dpmpp_3m_legacy), 0),
    "dpmpp_3m_sde_eta0_zero": (of(samplers.dpmpp_3m_legacy), 0),
    "dpmpp_3m_sde_eta1": (of(samplers.dpmpp_3m_legacy, eta=1.0), 0),
    "dpmpp_3m_sde_eta1_zero": (of(samplers.dpmpp_3m_legacy, eta=1.0), 0),
}
DIFFUSERS = {
    "ddim_trailing_eta0": (of(samplers.ddim), 0),
    "ddim_trailing_eta1": (of(samplers.ddim, eta=1.0), 0),
    "ddim_leading_eta05": (of(samplers.ddim, eta=0.5), 0),
    "ddpm_small": (of(samplers.ancestral), 0),
    "ddpm_large": (of(samplers.ancestral, variance="large"), 0),
    "euler": (of(samplers.euler), 0),
    "euler_ancestral": (of(samplers.ddim, eta=1.0), 0),
    "heun": (of(samplers.heun), 0),
    "lms4": (of(samplers.lms), 1),
    "dpmpp_2m_midpoint": (of(samplers.dpmpp_2m), 0),
    "dpmpp_2m_heun": (of(samplers.dpmpp_2m, form="heun"), 0),
    "sde_dpmpp_2m": (of(samplers.dpmpp_2m, eta=1.0), 0),
    "dpmpp_3m_heun": (of(samplers.dpmpp_3m_legacy), 0),
    "dpmpp_2s_uniform": (of(samplers.dpmpp_2s), 0),
    "dpm_2s_uniform": (of(samplers.dpm_solver, order=2), 0),
    "unipc1_bh1": (of(samplers.unipc, order=1, b="bh1"), 0),
    "unipc2_bh1": (of(samplers.unipc, order=2, b="bh1"), 0),
    "unipc2_bh2": (of(samplers.unipc, order=2), 0),
    "unipc3_bh1": (of(samplers.unipc, b="bh1"), 0),
    "unipc3_bh2": (of(samplers.unipc), 0),
    "unipc3_bh2_default": (of(samplers.unipc), 2),
    "deis2": (of(samplers.deis, order=2), 0),
    "deis3": (of(samplers.deis, order=3), 0),
    "plms": (of(samplers.plms), 1),
    "pndm": (of(samplers.pndm), 1),
    "score_sde_ve": (PC, 1),
}
CASES = [(peer, case) for peer, cases in (("k_diffusion", K_DIFFUSION), ("diffusers", DIFFUSERS)) for case in cases]
# Where the process itself counts, or the peer's nodes are float32 and not quite where they should be.
FRAMES = {"ddpm_large": PROCESSES["vp"], "plms": PROCESSES["ddpm"], "pndm": PROCESSES["ddpm"]}
LOOSE = {"dpmpp_2s_uniform": 1e-7, "dpm_2s_uniform": 1e-7, "pndm": 2e-6, "plms": 1e-9}


@functools.cache
def golden(peer):
    return dict(np.load(GOLDEN / f"{peer}.npz"))


def replayed(sampler, frame, levels, start, noise, dtype):
    """Our path in x/α [steps + 1, 8, 2] on these levels, with these noises in their order."""
    grid = matched_times(frame, levels[levels > 0], *levels[levels == 0])
    draws = 2 if sampler is PC else 1
    draw = lambda key, index, mean, std: mean + std * jnp.asarray(noise, mean.dtype)[draws * index[0] + index[1]]
    scale = np.where(levels > 0, process.alpha(frame, np.asarray(grid.t)), 1.0)[:, None, None]
    watched = functools.partial(walk.walk, draw=draw, observe=lambda row, x, x0: x)
    start = jnp.asarray(scale[0] * start, dtype)
    _, aux = sampler(mixture(frame), start, grid, walk=watched)
    return np.concatenate([start[None], aux["seen"]]) / scale


@pytest.mark.parametrize(("peer", "case"), CASES)
def test_every_state_of_the_peers_path_is_ours(peer, case, x64):
    sampler, differing = {"k_diffusion": K_DIFFUSION, "diffusers": DIFFUSERS}[peer][case]
    levels, path, noise = (golden(peer)[name] for name in (f"{case}/levels", f"{case}/path", "noise"))
    made = replayed(sampler, FRAMES.get(case, EDM), levels, path[0], noise, jnp.float64)
    rows = len(path) - differing
    np.testing.assert_allclose(made[:rows], path[:rows], rtol=LOOSE.get(case, 1e-11), atol=LOOSE.get(case, 2e-11))
    assert differing == 0 or np.abs(made[rows:] - path[rows:]).max() > 1e-6  # and docs/parity.md says why


@pytest.mark.parametrize(("peer", "case"), [
    ("k_diffusion", "dpmpp_2m_zero"), ("k_diffusion", "dpmpp_3m_sde_eta1_zero"), ("k_diffusion", "heun_zero"),
    ("diffusers", "unipc3_bh2"), ("diffusers", "deis3"), ("diffusers", "ddpm_small"),
])
def test_single_precision_ends_where_the_peer_does(peer, case):
    sampler, _ = {"k_diffusion": K_DIFFUSION, "diffusers": DIFFUSERS}[peer][case]
    levels, path, noise = (golden(peer)[name] for name in (f"{case}/levels", f"{case}/path", "noise"))
    made = replayed(sampler, EDM, levels, path[0], noise, jnp.float32)
    np.testing.assert_allclose(made[-1], path[-1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shift", [1, 3])
def test_flow_matching_euler_is_ours_on_the_flow(shift, x64):
    case, flow = golden("diffusers"), process.RectifiedFlow()
    t, path = case[f"flow_euler_shift{shift}/times"], case[f"flow_euler_shift{shift}/path"]
    watched = functools.partial(walk.walk, observe=lambda row, x, x0: x)
    _, aux = samplers.ddim(mixture(flow), jnp.asarray(path[0]), times.given(flow, t=tuple(t)), walk=watched)
    np.testing.assert_allclose(aux["seen"], path[1:], rtol=1e-10, atol=1e-10)


def test_a_third_order_that_is_second_leaves_ours_at_the_third_step(x64):
    # the peers' 3M takes half of the curvature: on their own grid it parts from ours where the curvature comes in
    case = golden("k_diffusion")
    levels, path = case["dpmpp_3m_sde_eta0/levels"], case["dpmpp_3m_sde_eta0/path"]
    made = replayed(samplers.dpmpp_3m, EDM, levels, path[0], case["noise"], jnp.float64)
    apart = np.abs(made - path).max((1, 2))
    assert apart[:3].max() < 1e-11
    assert apart[3:].max() > 0.04


@pytest.mark.parametrize(("name", "of"), [
    ("linear", PROCESSES["ddpm"]), ("scaled_linear", PROCESSES["stable"]),
    ("squaredcos_cap_v2", PROCESSES["clipped_cosine"]), ("scaled_linear_zero_snr", PROCESSES["stable_to_zero"]),
])
def test_tables_are_the_peers(name, of):
    # the peer multiplies in float32
    bars = process.alpha(of, np.arange(1, 1001) / 1000) ** 2
    np.testing.assert_allclose(bars, golden("diffusers")[f"tables/{name}"], rtol=2e-5, atol=5e-7)


def test_the_mixture_is_the_one_the_peers_were_asked():
    for peer in ("k_diffusion", "diffusers"):
        for name, ours in (("weights", laws.WEIGHTS), ("means", laws.MEANS), ("stds", laws.STDS)):
            np.testing.assert_array_equal(golden(peer)[f"mixture/{name}"], ours)
