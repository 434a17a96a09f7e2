"""Drives k-diffusion and diffusers with the exact denoiser of a mixture, and freezes where they went.

The tests read `k_diffusion.npz` and `diffusers.npz`, and need neither torch nor this script.  To make them anew:

    python3.11 -m venv /tmp/peers
    /tmp/peers/bin/pip install torch==2.13.0 numpy scipy tqdm torchsde torchdiffeq huggingface_hub safetensors \
        regex requests filelock importlib_metadata packaging Pillow
    /tmp/peers/bin/pip install --no-deps k-diffusion==0.1.1.post1 diffusers==0.42.1
    /tmp/peers/bin/python tests/golden/make_solvers.py

Keys are `case/name`, names are

    levels     [n]        σ/α at which the states lie, float64, 0 last where the peer went into the data
    path       [n, 8, 2]  the states, in x/α; the first is the start
    timesteps  [calls]    integer times, where the peer has them
    nodes      [m]        all levels at which the denoiser was asked, where they are more than `levels`
    times      [n]        in place of `levels` where α can be 0: σ of α = 1 - σ; `path` is then x itself
    corrected  [n-1, 8, 2]  the states between corrector and predictor

and, for all cases alike, `noise` [20, 8, 2]: draw number i of any case was `noise[i]`, unit normals of float32's
precision.

A peer keeps the noise levels it tabulated in float32, but calculates in float64 here: the tables are widened
after they are made, and `torch.float32` means float64 while a step runs.
"""

import contextlib
import importlib.metadata
import importlib.util
import itertools
import math
import sys
import types
from pathlib import Path
from unittest import mock

import numpy as np
import torch

FOLDER = Path(__file__).resolve().parent
POINTS = 8

# Those of tests/laws.py, which is out of reach here since it imports JAX.
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
MEANS = torch.tensor([[0.8, 0.2], [-0.7, 0.6], [-0.1, -0.9]], dtype=torch.float64)
STDS = torch.tensor([0.25, 0.35, 0.2], dtype=torch.float64)


def denoised(x, alpha, sigma):
    """E[x0 | x] for x [b, 2] and float α and σ, of which one may be 0."""
    variance = (alpha * STDS) ** 2 + sigma**2
    away = x[:, None] - alpha * MEANS
    share = torch.softmax(torch.log(WEIGHTS / variance) - 0.5 * (away**2).sum(-1) / variance, -1)
    means = MEANS + (alpha * STDS**2 / variance)[:, None] * away
    return (share[..., None] * means).sum(1)


def beginning(level):
    """Eight points with the law of the mixture at the level σ/α; white noise where it is infinite."""
    rng = np.random.default_rng(7)
    unit = torch.tensor(rng.standard_normal((POINTS, 2)))
    which = torch.tensor(rng.choice(3, POINTS, p=WEIGHTS.numpy()))
    return unit if math.isinf(level) else MEANS[which] + torch.sqrt(STDS[which] ** 2 + level**2)[:, None] * unit


class Noise:
    """The same unit normals for every case, one after another."""

    # Of float32's precision: a peer that would round them changes nothing.
    ALL = np.random.default_rng(8).standard_normal((20, POINTS, 2)).astype(np.float32)

    def __init__(self):
        self.rest = iter(torch.tensor(self.ALL).double())

    def __call__(self, *args, **options):
        return next(self.rest).clone()


class Golden(dict):
    """What goes into a file: `case/name` to array."""

    def put(self, case, **arrays):
        for name, value in arrays.items():
            array = np.stack(value) if isinstance(value, list) and torch.is_tensor(value[0]) else np.asarray(value)
            assert np.isfinite(array.astype(float)).all(), (case, name)
            assert f"{case}/{name}" not in self, case
            self[f"{case}/{name}"] = array

    def write(self, name, packages):
        versions = [f"{package} {importlib.metadata.version(package)}" for package in packages]
        mixture = {"mixture/weights": WEIGHTS.numpy(), "mixture/means": MEANS.numpy(), "mixture/stds": STDS.numpy()}
        shared = {"versions": np.array(versions), "noise": Noise.ALL.astype(np.float64)}
        np.savez_compressed(FOLDER / name, **shared, **mixture, **self)
        print(f"{name}: {(FOLDER / name).stat().st_size} bytes, {len({key.partition('/')[0] for key in self})} cases")


# k-diffusion: functions of a denoiser and a grid of σ, with α = 1.


def k_diffusion():
    """The module of samplers by itself: the package imports CLIP and clean-fid as well."""
    folder = importlib.util.find_spec("k_diffusion").submodule_search_locations[0]
    package, tools = types.ModuleType("k_diffusion"), types.ModuleType("k_diffusion.utils")
    package.__path__, package.utils = [folder], tools
    tools.append_dims = lambda x, dims: x.reshape(x.shape + (1,) * (dims - x.ndim))
    sys.modules |= {"k_diffusion": package, "k_diffusion.utils": tools}
    return importlib.import_module("k_diffusion.sampling")


def karras(first, last, count):
    return np.linspace(first ** (1 / 7), last ** (1 / 7), count) ** 7


def model(x, sigma):
    return denoised(x, 1.0, float(sigma[0]))


def sampled(sampler, levels, noisy=False, **options):
    """Runs a function of k-diffusion; returns the states at the start of every step, and the last one."""
    noise, path = Noise(), []
    if noisy:
        options["noise_sampler"] = noise

    def churned(x):  # called at the start of a step, before the noise is added: `callback` comes after it
        path.append(x.clone())
        return noise()

    churns = "s_churn" in options
    with mock.patch.object(torch, "randn_like", churned) if churns else contextlib.nullcontext():
        callback = None if churns else lambda info: path.append(info["x"].clone())
        last = sampler(model, beginning(levels[0]), torch.tensor(levels), callback=callback, disable=True, **options)
    return [*path, last]


def make_k_diffusion():
    k, golden, steps = k_diffusion(), Golden(), 10
    cases = {
        "euler": (k.sample_euler, {}),
        "euler_churn2": (k.sample_euler, {"s_churn": 2.0}),
        "heun": (k.sample_heun, {}),
        "heun_churn5": (k.sample_heun, {"s_churn": 5.0}),
        "dpm_2": (k.sample_dpm_2, {}),
        "lms4": (k.sample_lms, {"order": 4}),
        "euler_ancestral_eta1": (k.sample_euler_ancestral, {"noisy": True, "eta": 1.0}),
        "euler_ancestral_eta05": (k.sample_euler_ancestral, {"noisy": True, "eta": 0.5}),
        "dpmpp_2m": (k.sample_dpmpp_2m, {}),
        "dpmpp_2s_eta0": (k.sample_dpmpp_2s_ancestral, {"noisy": True, "eta": 0.0}),
        "dpmpp_2s_eta1": (k.sample_dpmpp_2s_ancestral, {"noisy": True, "eta": 1.0}),
        "dpmpp_3m_sde_eta0": (k.sample_dpmpp_3m_sde, {"noisy": True, "eta": 0.0}),
        "dpmpp_3m_sde_eta1": (k.sample_dpmpp_3m_sde, {"noisy": True, "eta": 1.0}),
    }
    for form, eta in itertools.product(("midpoint", "heun"), (0.0, 1.0)):
        cases[f"dpmpp_2m_sde_{form}_eta{eta:.0f}"] = (
            k.sample_dpmpp_2m_sde, {"noisy": True, "eta": eta, "solver_type": form})
    for name, (sampler, options) in cases.items():
        for suffix, levels in (("", karras(80.0, 0.02, steps + 1)),
                               ("_zero", np.append(karras(80.0, 0.02, steps), 0.0))):
            golden.put(name + suffix, levels=levels, path=sampled(sampler, levels, **options))
    single_steps(golden, k, steps)
    golden.write("k_diffusion.npz", ["k-diffusion", "torch", "numpy"])


def single_steps(golden, k, steps):
    """DPM-Solver's own steps in t = -ln σ, on the Karras grid, and the grid that `dpm_fast` chooses itself."""
    solver, levels = k.DPMSolver(model), karras(80.0, 0.02, steps + 1)
    for order in (1, 2, 3):
        x, path = beginning(levels[0]), []
        for t, s in itertools.pairwise(-torch.tensor(levels).log()):
            path.append(x)
            x, _ = getattr(solver, f"dpm_solver_{order}_step")(x, t, s)
        golden.put(f"dpm_solver_{order}", levels=levels, path=[*path, x])
    path, sigmas = [], []
    last = k.sample_dpm_fast(model, beginning(80.0), 0.02, 80.0, 9, disable=True, callback=lambda info: (
        path.append(info["x"]), sigmas.append(float(info["sigma"]))))
    golden.put("dpm_fast9", levels=[*sigmas, 0.02], path=[*path, last])


# diffusers: schedulers, whose tables and coordinates differ.

LINEAR = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
SCALED = LINEAR | {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def widened(scheduler):
    """The scheduler with its float32 tables as float64, of the same values."""
    for name, value in vars(scheduler).items():
        if torch.is_tensor(value) and value.dtype == torch.float32:
            setattr(scheduler, name, value.double())
    return scheduler


@contextlib.contextmanager
def in_double(scheduler, noise):
    """While a step runs: its float32 is float64, and its noise is ours."""
    home = sys.modules[type(scheduler).__module__]
    replaced = mock.patch.object(home, "randn_tensor", noise) if hasattr(home, "randn_tensor") else \
        contextlib.nullcontext()
    with mock.patch.object(torch, "float32", torch.float64), replaced:
        yield


def scheduled(name, steps, **config):
    from diffusers import schedulers

    scheduler = getattr(schedulers, name)(**config)
    scheduler.set_timesteps(steps)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)  # rounded times can be alike
    return widened(scheduler)


def by_sigmas(scheduler, scaled, stop=0):
    """Walks a scheduler that reads σ/α from `sigmas`.

    Args:
      scheduler: after `set_timesteps`.
      scaled: its state is x = α x̂ with α = 1/√(1 + σ̂²); otherwise x̂ itself.
      stop: how many calls to leave out at the end.

    Returns:
      levels and states after every call, the first of them the start.
    """
    noise, levels = Noise(), [float(scheduler.sigmas[0])]
    path = [beginning(levels[0])]
    times = scheduler.timesteps
    for t in times[: len(times) - stop]:
        level = levels[-1]
        factor = (1 + level**2) ** -0.5 if scaled else 1.0
        x = factor * path[-1]
        eps = (path[-1] - denoised(path[-1], 1.0, level)) / level
        with in_double(scheduler, noise):
            if hasattr(scheduler, "is_scale_input_called"):
                scheduler.scale_model_input(x, t)
            x = scheduler.step(eps, t, x).prev_sample
        levels.append(float(scheduler.sigmas[scheduler.step_index]))
        path.append(x * (1 + levels[-1] ** 2) ** 0.5 if scaled else x)
    return levels, path


def by_tables(scheduler, **options):
    """Walks a scheduler that reads `alphas_cumprod` at integer times, into the data."""
    noise, times = Noise(), [int(t) for t in scheduler.timesteps]
    squares = [float(scheduler.alphas_cumprod[t]) for t in times] + [1.0]
    levels = [math.sqrt((1 - square) / square) for square in squares]
    path = [beginning(levels[0])]
    for t, square, following, level in zip(scheduler.timesteps, squares, squares[1:], levels, strict=False):
        eps = (path[-1] - denoised(path[-1], 1.0, level)) / level
        with in_double(scheduler, noise):
            x = scheduler.step(eps, int(t), math.sqrt(square) * path[-1], **options).prev_sample
        path.append(x / math.sqrt(following))
    return levels, path, times


def whole(levels, path, among=None):
    """Drops the states inside a step: of neighbours at one level the last is whole; `among` names levels to keep."""
    kept = [i for i, level in enumerate(levels) if level != (levels[i + 1] if i + 1 < len(levels) else None)]
    kept = [i for i in kept if among is None or levels[i] in among]
    return {"levels": [levels[i] for i in kept], "path": [path[i] for i in kept]}


def make_tabulated(golden):
    """DDIM, DDPM, PNDM, and the tables."""
    for spacing, eta in itertools.product(("trailing", "leading"), (0.0, 0.5, 1.0)):
        scheduler = scheduled("DDIMScheduler", 10, **LINEAR, timestep_spacing=spacing, clip_sample=False)
        levels, path, times = by_tables(scheduler, eta=eta)
        golden.put(f"ddim_{spacing}_eta{eta:g}".replace(".", ""), levels=levels, path=path, timesteps=times)
    for size in ("small", "large"):
        scheduler = scheduled("DDPMScheduler", 10, **LINEAR, variance_type=f"fixed_{size}", clip_sample=False)
        levels, path, times = by_tables(scheduler)
        golden.put(f"ddpm_{size}", levels=levels, path=path, timesteps=times)
    for name, skip in (("plms", True), ("pndm", False)):
        scheduler = scheduled("PNDMScheduler", 10, **LINEAR, skip_prk_steps=skip, set_alpha_to_one=True)
        levels, path, times = by_tables(scheduler)
        ends = [level for level, t in zip(levels, [*times, 0], strict=True) if t % 100 == 0]
        golden.put(name, **whole(levels, path, ends), timesteps=times)
    cosine = LINEAR | {"beta_schedule": "squaredcos_cap_v2"}
    for name, config in (("linear", LINEAR), ("scaled_linear", SCALED), ("squaredcos_cap_v2", cosine),
                         ("scaled_linear_zero_snr", SCALED | {"rescale_betas_zero_snr": True})):
        golden.put("tables", **{name: scheduled("DDIMScheduler", 10, **config).alphas_cumprod.numpy()})


def make_multistep(golden):
    """Euler, Heun, LMS and the multistep solvers, on Karras grids; the ancestral one has none."""
    spaced = LINEAR | {"use_karras_sigmas": True}
    full = spaced | {"lower_order_final": False}
    eps = {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}
    many, unipc, deis = "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler"
    cases = {  # name: scheduler, configuration, state scaled by α, steps, calls left out
        "euler": ("EulerDiscreteScheduler", spaced, False, 10, 0),
        "heun": ("HeunDiscreteScheduler", spaced, False, 10, 0),
        "lms4": ("LMSDiscreteScheduler", spaced, False, 10, 0),
        "euler_ancestral": ("EulerAncestralDiscreteScheduler", LINEAR, False, 10, 0),
        "dpmpp_2m_midpoint": (many, full, True, 10, 0),
        "dpmpp_2m_heun": (many, full | {"solver_type": "heun"}, True, 10, 0),
        "dpmpp_3m_heun": (many, full | {"solver_order": 3, "solver_type": "heun"}, True, 10, 0),
        "dpmpp_3m_default": (many, spaced | {"solver_order": 3}, True, 10, 0),
        "sde_dpmpp_2m": (many, full | {"algorithm_type": "sde-dpmsolver++"}, True, 10, 0),
        "dpm_2m": (many, full | eps, True, 11, 1),
        "deis2": (deis, full | {"solver_order": 2}, True, 11, 1),
        "deis3": (deis, full | {"solver_order": 3}, True, 11, 1),
        "unipc3_bh2_default": (unipc, spaced | {"solver_order": 3}, True, 10, 0),
    }
    for order, form in itertools.product((1, 2, 3), ("bh1", "bh2")):
        cases[f"unipc{order}_{form}"] = (unipc, full | {"solver_order": order, "solver_type": form}, True, 11, 1)
    for case, (name, config, scaled, steps, stop) in cases.items():
        golden.put(case, **whole(*by_sigmas(scheduled(name, steps, **config), scaled, stop)))


def make_singlestep(golden):
    """Blocks of `order` calls; the levels within a block are `nodes`, and uniform in ln σ̂ where so named."""
    single = "DPMSolverSinglestepScheduler"
    eps = {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}
    uniform = LINEAR | {"use_exponential_sigmas": True}
    cases = {  # name: configuration, steps, calls left out, length of a block
        "dpmpp_2s_karras": (LINEAR | {"use_karras_sigmas": True}, 11, 0, 2),
        "dpmpp_2s_uniform": (uniform, 11, 0, 2),
        "dpm_2s_uniform": (uniform | eps, 11, 1, 2),
        "dpm_3s_uniform": (uniform | eps | {"solver_order": 3}, 10, 1, 3),
    }
    for case, (config, steps, stop, block) in cases.items():
        levels, path = by_sigmas(scheduled(single, steps, **config), True, stop)
        ends = {*levels[::block], levels[-1]}
        golden.put(case, nodes=levels, **whole(levels, path, ends))


def make_flows(golden):
    for method, shift in itertools.product(("Euler", "Heun"), (1.0, 3.0)):
        scheduler = scheduled(f"FlowMatch{method}DiscreteScheduler", 10, num_train_timesteps=1000, shift=shift)
        times, path = [float(scheduler.sigmas[0])], [beginning(math.inf)]
        for t in scheduler.timesteps:
            velocity = (path[-1] - denoised(path[-1], 1 - times[-1], times[-1])) / times[-1]
            with in_double(scheduler, Noise()):
                path.append(scheduler.step(velocity, t, path[-1]).prev_sample)
            times.append(float(scheduler.sigmas[scheduler.step_index]))
        kept = whole(times, path)
        golden.put(f"flow_{method.lower()}_shift{shift:.0f}", times=kept["levels"], path=kept["path"])


def make_predictor_corrector(golden):
    """Song et al.'s VE sampler: Langevin, then reverse diffusion, at one level; the last state is the mean."""
    config = {"num_train_timesteps": 10, "snr": 0.15, "sigma_min": 0.01, "sigma_max": 50.0, "correct_steps": 1}
    scheduler = scheduled("ScoreSdeVeScheduler", 10, **config)
    scheduler.set_sigmas(10)
    levels = [*reversed(scheduler.discrete_sigmas.tolist()), 0.0]  # those of the predictor; the score is asked there
    noise, path, corrected = Noise(), [beginning(levels[0])], []
    for t, level in zip(scheduler.timesteps, levels, strict=False):
        score = lambda x, level=level: (denoised(x, 1.0, level) - x) / level**2
        with in_double(scheduler, noise):
            corrected.append(scheduler.step_correct(score(path[-1]), path[-1]).prev_sample)
            moved = scheduler.step_pred(score(corrected[-1]), t, corrected[-1])
        path.append(moved.prev_sample if len(path) < 10 else moved.prev_sample_mean)
    golden.put("score_sde_ve", levels=levels, path=path, corrected=corrected)


def make_diffusers():
    import diffusers

    diffusers.utils.logging.set_verbosity_error()
    golden = Golden()
    for make in (make_tabulated, make_multistep, make_singlestep, make_flows, make_predictor_corrector):
        make(golden)
    golden.write("diffusers.npz", ["diffusers", "torch", "numpy"])


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    make_k_diffusion()
    make_diffusers()
