"""What every test of the mathematics stands on: data whose denoiser is exact, and the lists that inherit its laws.

A new process, sampler or parameterization gets one line in a list below and meets every law of its
kind; `test_lists_are_complete` of each module's tests fails while the line is missing.
"""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp

from jaxdiff import parameterization, process, samplers, times
from jaxdiff import walk as walks
from jaxdiff.denoiser import Denoiser

PROCESSES = {
    "vp": process.VP(),
    "cosine": process.Cosine(),
    "ve": process.VE(),
    "edm": process.EDM(),
    "flow": process.RectifiedFlow(),
    "sub_vp": process.SubVP(),
    "trig": process.TrigFlow(),
    "sigmoid": process.Sigmoid(),
    "ddpm": process.Discrete(),
    "stable": process.Discrete(schedule="scaled_linear"),
    "clipped_cosine": process.Discrete(schedule="cosine"),
    "shifted_flow": process.Shift(process.RectifiedFlow(), 3.0),
    "shifted_cosine": process.Shift(process.Cosine(), 4.0),
    "stable_to_zero": process.ZeroTerminalSNR(process.Discrete(schedule="scaled_linear")),
}
END_IN_NOISE = ("cosine", "flow", "trig", "sigmoid", "shifted_flow", "shifted_cosine", "stable_to_zero")  # α(1) = 0
KINDS = {key: PROCESSES[key] for key in ("vp", "edm", "flow")}  # α(1) > 0, α = 1, α(1) = 0

PARAMETERIZATIONS = {
    "eps": parameterization.eps(),
    "x0": parameterization.x0(),
    "v": parameterization.v(),
    "score": parameterization.score(),
    "velocity": parameterization.velocity(),
    "edm": parameterization.edm(),
}
WITHOUT_X0_IN_NOISE = ("eps", "score")
PAIRS = [  # names of what fits together
    (of, kind) for of in PROCESSES for kind in PARAMETERIZATIONS
    if not (of in END_IN_NOISE and kind in WITHOUT_X0_IN_NOISE) and (of, kind) != ("sigmoid", "velocity")
]

# The deterministic samplers: each with its order of convergence and the denoiser calls of one step.
ORDERS = {
    "euler": (samplers.euler, 1, 1),
    "ddim": (samplers.ddim, 1, 1),
    "heun": (samplers.heun, 2, 2),
    "heun_angle": (samplers.heun_angle, 2, 2),
    "dpm_solver_1": (functools.partial(samplers.dpm_solver, order=1), 1, 1),
    "dpm_solver_2": (functools.partial(samplers.dpm_solver, order=2), 2, 2),
    "dpm_solver_3": (functools.partial(samplers.dpm_solver, order=3), 3, 3),
    "dpmpp_2s": (samplers.dpmpp_2s, 2, 2),
    "dpmpp_2m": (samplers.dpmpp_2m, 2, 1),
    "dpmpp_2m_heun": (functools.partial(samplers.dpmpp_2m, form="heun"), 2, 1),
    "dpmpp_3m": (samplers.dpmpp_3m, 3, 1),
    "dpmpp_3m_legacy": (samplers.dpmpp_3m_legacy, 2, 1),  # claimed to be of order 3 elsewhere
    "unipc_1": (functools.partial(samplers.unipc, order=1), 2, 1),
    "unipc_2": (functools.partial(samplers.unipc, order=2), 3, 1),
    "unipc_2_bh1": (functools.partial(samplers.unipc, order=2, b="bh1"), 3, 1),
    "unipc_3": (functools.partial(samplers.unipc, order=3), 4, 1),
    "unip_3": (functools.partial(samplers.unipc, order=3, corrector=False), 3, 1),
    "deis_2": (functools.partial(samplers.deis, order=2), 2, 1),
    "deis_3": (functools.partial(samplers.deis, order=3), 3, 1),
    "deis_3_ratio": (functools.partial(samplers.deis, order=3, variable="ratio"), 3, 1),
    "deis_2_time": (functools.partial(samplers.deis, order=2, variable="time"), 2, 1),
    "lms": (samplers.lms, 4, 1),
    "plms": (samplers.plms, 2, 1),  # 4 on equal steps of t
    "pndm": (samplers.pndm, 2, 1),
    "euler_maruyama_still": (functools.partial(samplers.euler_maruyama, noise=0.0), 1, 1),
}
DETERMINISTIC = {name: sampler for name, (sampler, _, _) in ORDERS.items()}
OF_THE_CLOCK = ("deis_2_time", "plms", "pndm", "euler_maruyama_still")  # depend on t, not on σ/α alone
# The stochastic ones: each with its weak order (None where a bias stays) and the calls of one step.
WEAK_ORDERS = {
    "ddim_half": (functools.partial(samplers.ddim, eta=0.5), 1, 1),
    "ddim_one": (functools.partial(samplers.ddim, eta=1.0), 1, 1),
    "ancestral_small": (functools.partial(samplers.ancestral, variance="small"), 1, 1),
    "ancestral_large": (functools.partial(samplers.ancestral, variance="large"), 1, 1),
    "euler_churn": (functools.partial(samplers.euler, s_churn=10.0), 1, 1),
    "heun_churn": (functools.partial(samplers.heun, s_churn=10.0), 2, 2),
    "euler_maruyama_half": (functools.partial(samplers.euler_maruyama, noise=0.5), 1, 1),
    "euler_maruyama": (samplers.euler_maruyama, 1, 1),
    "euler_maruyama_more": (functools.partial(samplers.euler_maruyama, noise=1.4), 1, 1),
    "sde_dpmpp_2m": (functools.partial(samplers.dpmpp_2m, eta=1.0), 2, 1),
    "sde_dpmpp_2m_heun": (functools.partial(samplers.dpmpp_2m, eta=0.5, form="heun"), 2, 1),
    "sde_dpmpp_3m": (functools.partial(samplers.dpmpp_3m, eta=1.0), 2, 1),
    "dpmpp_2s_ancestral": (functools.partial(samplers.dpmpp_2s, eta=1.0), 2, 2),
    "restart": (samplers.restart, None, 2),
    "predictor_corrector": (samplers.predictor_corrector, None, 2),
    "predictor_corrector_ancestral": (
        functools.partial(samplers.predictor_corrector, predictor="ancestral", norms="own"), None, 2),
}
STOCHASTIC = {name: sampler for name, (sampler, _, _) in WEAK_ORDERS.items()}
SAMPLERS = DETERMINISTIC | STOCHASTIC
# Options of a sampler that are in its list for their order or law alone: they run the same step.
VARIANTS = ("dpm_solver_1", "dpm_solver_2", "dpmpp_2m_heun", "dpmpp_3m_legacy", "unipc_1", "unipc_2", "unipc_2_bh1",
            "unip_3", "deis_2", "deis_3_ratio", "deis_2_time", "ancestral_large", "ddim_one", "euler_maruyama_half",
            "euler_maruyama_more", "sde_dpmpp_2m_heun", "sde_dpmpp_3m", "predictor_corrector_ancestral")
PARTS = {name: sampler for name, sampler in SAMPLERS.items() if name not in VARIANTS}
CALLS = {name: calls for name, (_, _, calls) in (ORDERS | WEAK_ORDERS).items()}

WEIGHTS = np.array([0.5, 0.3, 0.2])
MEANS = np.array([[0.8, 0.2], [-0.7, 0.6], [-0.1, -0.9]])
STDS = np.array([0.25, 0.35, 0.2])


def gaussian(of, mean=0.3, std=0.25):
    """The exact denoiser of N(mean, std²) in every coordinate; std = 0 is a point."""
    return Denoiser(_gaussian, of, (mean, std))


def _gaussian(denoiser, x, t, cond, mean, std):
    alpha, sigma = _levels(denoiser, x, t)
    return mean + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (x - alpha * mean)


def mixture(of):
    """The exact denoiser of three isotropic Gaussians in the plane."""
    return Denoiser(_mixture, of)


def _mixture(denoiser, x, t, cond):
    alpha, sigma = _levels(denoiser, x, t)
    return _posterior_mean(jnp, x, alpha, sigma)


def _posterior_mean(xp, x, alpha, sigma):
    """E[x0 | x] of the mixture, for x [b, 2]; the text is the same in numpy and in JAX."""
    variance = alpha**2 * xp.asarray(STDS) ** 2 + sigma**2  # [3] or [b, 3]
    away = x[:, None] - xp.asarray(alpha)[..., None] * xp.asarray(MEANS)  # [b, 3, 2]; α is () or [b, 1]
    log_share = xp.log(xp.asarray(WEIGHTS)) - 0.5 * (away**2).sum(-1) / variance - xp.log(variance)
    share = xp.exp(log_share - log_share.max(1, keepdims=True))
    share = share / share.sum(1, keepdims=True)
    gain = alpha * xp.asarray(STDS) ** 2 / variance
    return (share[..., None] * (xp.asarray(MEANS) + gain[..., None] * away)).sum(1)


def _levels(denoiser, x, t):
    t = jnp.asarray(t, x.dtype)
    return tuple(process.expand(level(denoiser.process, t), x) for level in (process.alpha, process.sigma))


def ends(of, t):
    """(α, σ) at a time of a grid, where 0 is the data."""
    return (1.0, 0.0) if t == 0 else (float(process.alpha(of, t)), float(process.sigma(of, t)))


def gaussian_flow(of, x, t, s, mean=0.3, std=0.25):
    """The probability-flow ODE of N(mean, std²) from t to s, exactly."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = ends(of, t), ends(of, s)
    scale = np.sqrt((alpha_s**2 * std**2 + sigma_s**2) / (alpha_t**2 * std**2 + sigma_t**2))
    return alpha_s * mean + (x - alpha_t * mean) * scale


def mixture_flow(x, high, low):
    """The mixture's probability-flow ODE from level σ/α = high to low in x/α [b, 2], by DOP853 in ln σ."""
    def slope(log_level, flat):
        x = flat.reshape(-1, 2)
        return (x - _posterior_mean(np, x, 1.0, np.exp(log_level))).ravel()

    span = np.log(high), np.log(low)
    return solve_ivp(slope, span, x.ravel(), method="DOP853", rtol=1e-11, atol=1e-13).y[:, -1].reshape(-1, 2)


def levels(steps, high=80.0, low=0.02, rho=7.0):
    """`steps + 1` noise levels σ/α from high to low (Karras et al. 2022, eq. 5)."""
    return np.linspace(high ** (1 / rho), low ** (1 / rho), steps + 1) ** rho


def matched_times(of, noise_levels, *after):
    """The grid of a process with these levels σ/α: on it, samplers in σ/α do the same for every process."""
    t = process.t_of_logsnr(of, -2 * np.log(np.asarray(noise_levels)))
    return times.given(of, t=(*t, *after))


def exact_law(sampler, of, grid, mean=0.3, std=0.25, draws=2, turns=16):
    """(mean, variance) of a sampler's output for Gaussian data, from x_T of the exact law; no Monte Carlo.

    There a sampler is affine in x_T and its unit noises, of which it draws at most `draws` a step: row 0 sees
    none of them, row 1 x_T = 1, row 2 + j its j-th noise = 1.  One that turns back makes up to `turns` more steps.
    """
    rows = jnp.arange(2 + draws * (grid.steps + turns))

    def draw(key, index, mean, std):
        return mean + std * (rows == 2 + index[0] * draws + index[1])

    x = (rows == 1).astype(float)
    out, _ = sampler(gaussian(of, mean, std), x, grid, walk=functools.partial(walks.walk, draw=draw))
    out = np.asarray(out, np.float64)
    alpha, sigma = ends(of, grid.t[0])
    parts = out[1:] - out[0]
    return out[0] + parts[0] * alpha * mean, parts[0] ** 2 * (alpha**2 * std**2 + sigma**2) + (parts[1:] ** 2).sum()


_compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **_: _compiled.append(event) if event.endswith("backend_compile_duration") else None)


@contextlib.contextmanager
def compilations():
    """Counts the programs compiled within: `with compilations() as count: ...; assert count() == 1`."""
    start = len(_compiled)
    yield lambda: len(_compiled) - start
