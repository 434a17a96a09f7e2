"""Trains every prediction type on a mixture in the plane, whose exact denoiser is known (MATHEMATICS T17).

Reaches, by 4,000 steps of batch 1,024: the root mean square of D - D* below at most twice the figures in `TYPES`,
and an energy distance to the data near that of two draws of the data.  Takes about 30 s a type on 2 CPU cores.
Command: python -m benchmarks.plane [--types eps v] [--steps 4000]   (exit status 1 where a limit is passed)
"""

import argparse
import functools
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.mixture import MEANS, STDS, WEIGHTS, posterior_mean
from jaxdiff import data, loop, networks, objective, parameterization, process, sample, samplers, times, train
from jaxdiff.objective import levels

LEVELS = (0.05, 0.2, 0.5, 1.0, 5.0, 20.0)  # σ/α at which D is compared
DATA_STD = float(np.sqrt((WEIGHTS * STDS**2).sum() + ((WEIGHTS[:, None] * MEANS**2).sum(0)
                                                     - (WEIGHTS @ MEANS) ** 2).mean()))
EDM_LEVELS = functools.partial(levels.lognormal, mean=-1.2, std=1.2)
# Type: process, levels trained at, and what a prototype in plain JAX reached at LEVELS.
TYPES = {
    "edm": (process.EDM(), parameterization.edm(sigma_data=DATA_STD), EDM_LEVELS,
            (1.2e-3, 5.6e-3, 7.3e-3, 7.7e-3, 1.3e-2, 6.3e-2)),
    "eps": (process.VP(), parameterization.eps(sigma_data=DATA_STD), levels.uniform,
            (2.4e-3, 1.0e-2, 9.5e-3, 8.7e-3, 4.9e-2, 2.3e-1)),
    "x0": (process.Cosine(), parameterization.x0(sigma_data=DATA_STD), levels.uniform,
           (1.3e-2, 2.4e-2, 1.0e-2, 8.4e-3, 8.1e-3, 9.1e-3)),
    "v": (process.Cosine(), parameterization.v(sigma_data=DATA_STD), levels.uniform,
          (2.3e-3, 9.4e-3, 9.5e-3, 7.2e-3, 9.4e-3, 1.1e-2)),
    "velocity": (process.RectifiedFlow(), parameterization.velocity(sigma_data=DATA_STD), levels.uniform,
                 (2.7e-3, 9.7e-3, 1.1e-2, 9.7e-3, 1.1e-2, 1.6e-2)),
}


def trained(name: str, steps: int, batch: int = 1024):
    """Returns the denoiser after `steps`, from fresh draws of the mixture."""
    of, kind, drawn, _ = TYPES[name]
    loss = objective.denoising(networks.MLP(width=128, depth=3), of, kind, levels=drawn)
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, steps))
    init_key, fit_key = jax.random.split(jax.random.key(1))
    batches = data.batches(data.mixture(n=1 << 18, seed=1), batch=batch)
    state = train.init(loss, optimizer, next(batches(0)), init_key, ema=("decay_0.995",))
    step = train.make_step(loss, optimizer, ema=("decay_0.995",))
    state, _ = loop.fit(step, state, batches, fit_key, steps=steps)
    return loss.denoiser(state.ema["decay_0.995"])


def errors(denoiser) -> list[float]:
    """Returns the root mean square of D - D* at LEVELS, over 4,000 noised draws."""
    x0, found = data.mixture(n=4_000, seed=2)["x0"], []
    call = jax.jit(lambda d, x, t: d(x, t))
    for level in LEVELS:
        x = x0 + level * np.random.default_rng(3).standard_normal(x0.shape)
        t = process.t_of_logsnr(denoiser.process, np.float64(-2 * np.log(level)))
        alpha = float(process.alpha(denoiser.process, t))
        made = call(denoiser, jnp.asarray(alpha * x, jnp.float32), jnp.float32(t))
        found.append(float(np.sqrt(((np.asarray(made) - posterior_mean(np, x, level)) ** 2).mean())))
    return found


def energy_distance(a: np.ndarray, b: np.ndarray) -> float:
    """2 E|a - b| - E|a - a'| - E|b - b'| of two samples in the plane."""
    apart = lambda x, y: np.sqrt(((x[:, None] - y[None]) ** 2).sum(-1)).mean()
    return float(2 * apart(a, b) - apart(a, a) - apart(b, b))


def main() -> int:
    """Trains and compares; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--types", nargs="+", choices=TYPES, default=list(TYPES))
    parser.add_argument("--steps", type=int, default=4_000)
    args = parser.parse_args()
    reference = data.mixture(n=3_000, seed=3)["x0"]
    floor = energy_distance(reference, data.mixture(n=3_000, seed=4)["x0"])
    print(f"energy distance of two draws {floor:.1e}; rms D - D* at σ/α = {', '.join(map(str, LEVELS))}")
    failed = False
    for name in args.types:
        start = time.perf_counter()
        denoiser = trained(name, args.steps)
        seconds, found = time.perf_counter() - start, errors(denoiser)
        grid = times.karras(denoiser.process, steps=32, sigma_min=0.01)
        x = sample.generate(denoiser, samplers.heun, grid, jax.random.key(5), num=3_000, shape=(2,), batch=3_000)
        over = [error > 2 * limit for error, limit in zip(found, TYPES[name][3], strict=True)]
        failed |= any(over)
        shown = " ".join(f"{error:.1e}{'!' if far else ''}" for error, far in zip(found, over, strict=True))
        print(f"{name:9s} {seconds:4.0f} s  {shown}  energy distance {energy_distance(x, reference):.1e}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
