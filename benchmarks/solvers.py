"""Error against calls of the denoiser, for every sampler, on two problems; draws docs/solvers.png.

    mixture   three Gaussians in the plane, whose denoiser is exact
    digits    the model of `make demo`, 297 images with labels 0 to 9 in turn

A sampler without noise is judged by where each start ends: the median over the starts of the rms distance to the ODE's
own end (DOP853 for the mixture, UniPC-3 with 256 steps for the digits).  One with noise is judged by its law: sliced
Wasserstein distance to the mixture, Fréchet distance to training digits (features of `metrics.features.digits`).
Both have a floor, that of as many true samples.  Grids are Karras's, from σ = 80, into the data.

Every grid makes a program of its own; with a network they would take longer to compile than to run, so that the digits'
steps are made eagerly around one compiled call of the denoiser.

Command: python -m benchmarks.solvers --workdir=runs/digits   (6 minutes on 2 CPU cores; without the digits, 2)
"""

import argparse
import functools
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp
from scipy.stats import norm

from benchmarks.mixture import MEANS, STDS, WEIGHTS, posterior_mean
from benchmarks.solver_table import asks_for_a_key, label
from jaxdiff import data, denoiser, evaluate, metrics, process, samplers, times, verbs
from jaxdiff.data import pixels

DOCS = Path(__file__).resolve().parent.parent / "docs"

# Family: its colour, and its samplers as (name, options, calls a step, calls besides).
FAMILIES: dict[str, tuple[str, list[tuple[str, dict[str, Any], int, int]]]] = {
    "Euler and Heun": ("#333333", [
        ("euler", {}, 1, 0), ("heun", {}, 2, 0), ("heun_angle", {}, 2, 0), ("euler", {"s_churn": 10.0}, 1, 0),
        ("heun", {"s_churn": 10.0}, 2, 0), ("restart", {}, 2, 16)]),
    "within the step": ("#d97706", [
        ("dpm_solver", {"order": 2}, 2, 0), ("dpm_solver", {"order": 3}, 3, 0), ("dpmpp_2s", {}, 2, 0),
        ("dpmpp_2s", {"eta": 1.0}, 2, 0)]),
    "multistep": ("#1d4ed8", [
        ("dpmpp_2m", {}, 1, 0), ("dpmpp_3m", {}, 1, 0), ("dpmpp_3m_legacy", {}, 1, 0),
        ("dpmpp_2m", {"eta": 1.0}, 1, 0), ("dpmpp_3m", {"eta": 1.0}, 1, 0)]),
    "UniPC": ("#dc2626", [("unipc", {"order": 2}, 1, 0), ("unipc", {"order": 3}, 1, 0)]),
    "Adams": ("#15803d", [
        ("deis", {"order": 3}, 1, 0), ("lms", {"order": 4}, 1, 0), ("plms", {}, 1, 1), ("pndm", {}, 1, 9)]),
    "adaptive": ("#9333ea", [("adaptive", {}, 0, 0)]),
    "DDPM and DDIM": ("#0891b2", [("ddim", {"eta": 1.0}, 1, 0), ("ancestral", {"variance": "large"}, 1, 0)]),
    "reverse SDE": ("#be185d", [("euler_maruyama", {}, 1, 0), ("predictor_corrector", {}, 2, 0)]),
}
ALIKE = {"euler": "euler = ddim", "ddim(eta=1.0)": "ddim(eta=1.0) = ancestral"}  # the same map, so drawn once
YARDSTICKS = ("heun", "unipc(order=3)")  # without noise, drawn among those with it
STYLES = ("o-", "s--", "^-", "D:", "v--", "P-.")

BUDGETS = {"mixture": (5, 7, 10, 14, 20, 28, 40, 60, 100), "digits": (5, 8, 12, 18, 30, 60)}
TOLERANCES = {"mixture": (1e-1, 1e-2, 1e-3, 1e-4, 1e-5), "digits": (1e-1, 1e-2, 1e-3)}
STARTS, SAMPLES = 256, 32_768  # of the mixture: paths, and a law
IMAGES = 297  # as many as there are held-out digits
FINE = 256  # steps of the digits' reference

ABOUT = {"mixture": ("mixture, exact denoiser", "Wasserstein distance to the mixture"),
         "digits": ("digits, the model of make demo", "Fréchet distance to training digits")}

Played = tuple[np.ndarray, float]

# Playing a sampler.


def chosen(only: tuple[str, ...] = ()) -> Iterator[tuple[str, Callable, int, int, bool]]:
    """Yields (label, sampler, calls a step, calls besides, whether it draws noise)."""
    for _, members in FAMILIES.values():
        for name, options, calls, besides in members:
            if not only or label(name, options) in only:
                sampler = functools.partial(getattr(samplers, name), **options)
                yield label(name, options), sampler, calls, besides, asks_for_a_key(sampler)


def whole(made: denoiser.Denoiser, cond: Any, sampler: Callable, x: jax.Array, grid: times.Times) -> Played:
    """Returns (x at the end, calls) of a sampler, which is one program."""
    run = jax.jit(lambda made, x, cond, key: sampler(made, x, grid, key, cond=cond))
    out, aux = run(made, x, cond, jax.random.key(1))
    return np.asarray(out, np.float64), float(np.mean(aux["nfe"]))


def stepwise(made: denoiser.Denoiser, cond: Any, sampler: Callable, x: jax.Array, grid: times.Times, *,
             program: Callable) -> Played:
    """Returns the same, step by step around `program`, the compiled `(denoiser, x, t, cond) -> x0`."""

    def clean(x: jax.Array, t: jax.Array, cond: Any) -> jax.Array:
        with jax.disable_jit(False):
            return program(made, x, jnp.asarray(t, x.dtype), cond)

    with jax.disable_jit():
        out, aux = sampler(denoiser.from_function(clean, made.process), x, grid, jax.random.key(1), cond=cond)
    return np.asarray(out, np.float64), float(np.mean(aux["nfe"]))


def runs(problem: str, sampler: Callable, costs: tuple[int, int], made: denoiser.Denoiser, x: jax.Array,
         cond: Any = None, play: Callable = whole) -> Iterator[Played]:
    """Yields (x at the end, calls) of grids as long as each budget of calls allows, or at each tolerance."""
    calls, besides = costs
    if not calls:
        for tolerance in TOLERANCES[problem]:
            bound = functools.partial(sampler, rtol=tolerance, atol=tolerance)
            yield whole(made, cond, bound, x, times.karras(made.process, steps=8))  # of which only the ends count
        return
    for budget in BUDGETS[problem]:
        steps = (budget - besides - 1) // calls + 1
        if steps > 1:
            yield play(made, cond, sampler, x, times.karras(made.process, steps=steps))


def apart(made: np.ndarray, right: np.ndarray) -> float:
    """Returns the median over the samples of the rms distance."""
    return float(np.median(np.sqrt(((made - right) ** 2).reshape(len(made), -1).mean(1))))


# The mixture.


def flow(x: np.ndarray, high: float = 80.0, low: float = 1e-6) -> np.ndarray:
    """Returns where the probability-flow ODE takes x [b, 2] from σ = high."""
    slope = lambda level, flat: (flat.reshape(-1, 2) - posterior_mean(np, flat.reshape(-1, 2), np.exp(level))).ravel()
    found = solve_ivp(slope, (np.log(high), np.log(low)), x.ravel(), method="DOP853", rtol=1e-10, atol=1e-12)
    return found.y[:, -1].reshape(-1, 2)


def wasserstein(x: np.ndarray, directions: int = 16) -> float:
    """Returns the Wasserstein-1 distance of samples [n, 2] to the mixture, a mean over directions.

    In each the law is known, and so is the quantile that every sample should be at.
    """
    places, found = np.linspace(-4, 4, 8001), []
    for angle in np.arange(directions) * math.pi / directions:
        u = np.array([math.cos(angle), math.sin(angle)])
        law = (WEIGHTS * norm.cdf((places[:, None] - MEANS @ u) / STDS)).sum(1)
        rising = np.flatnonzero(np.diff(law, prepend=-1) > 0)
        right = np.interp((np.arange(len(x)) + 0.5) / len(x), law[rising], places[rising])
        found.append(np.abs(np.sort(x @ u) - right).mean())
    return float(np.mean(found))


def drawn(rng: np.random.Generator, number: int) -> np.ndarray:
    """Returns true samples [n, 2]."""
    which = rng.choice(3, number, p=WEIGHTS)
    return MEANS[which] + STDS[which, None] * rng.standard_normal((number, 2))


def mixture(only: tuple[str, ...] = ()) -> dict:
    """Returns {"path": {label: [[calls, error], ...]}, "law": {...}, "law_floor"} of the mixture."""
    rng, of = np.random.default_rng(0), process.EDM()
    noise = 80 * rng.standard_normal((SAMPLES, 2))
    right = flow(noise[:STARTS])
    exact = denoiser.from_function(_clean, of)
    found: dict = {"path": {}, "law": {}, "law_floor": np.mean([wasserstein(drawn(rng, SAMPLES)) for _ in range(8)])}
    with jax.enable_x64(True):
        few = jnp.asarray(noise[:STARTS])
        for name, sampler, *costs, noisy in chosen(only):
            if not noisy:
                found["path"][name] = [[calls, apart(made, right)] for made, calls
                                       in runs("mixture", sampler, costs, exact, few)]
                told("mixture", name, found["path"][name])
    many = jnp.asarray(noise, jnp.float32)
    for name, sampler, *costs, noisy in chosen(only):
        if noisy or name in YARDSTICKS:
            found["law"][name] = [[calls, wasserstein(made)] for made, calls
                                  in runs("mixture", sampler, costs, exact, many)]
            told("mixture, law", name, found["law"][name])
    return found


def _clean(x: jax.Array, t: jax.Array, cond: None) -> jax.Array:
    del cond
    return posterior_mean(jnp, x, process.sigma(process.EDM(), t))


# The digits.


def digits(workdir: Path, only: tuple[str, ...] = ()) -> dict:
    """Returns as `mixture` what the trained model of `workdir` does; its "law" has every sampler."""
    drawing = verbs.ready(workdir, verbs.changed(workdir, (), ()))
    model, cond = drawing.denoiser, jax.tree.map(jnp.asarray, dict(drawing.cond_of(np.arange(IMAGES))))
    x = 80 * jax.random.normal(jax.random.key(0), (IMAGES, *drawing.model.shape))
    play = functools.partial(stepwise, program=jax.jit(lambda made, x, t, cond: made(x, t, cond)))
    right, other = (whole(model, cond, fine, x, times.karras(model.process, steps=FINE))[0] for fine in (
        samplers.unipc, samplers.deis))
    extract = metrics.features.digits()
    train, held_out = (np.asarray(data.digits(split=split)["image"]) for split in ("train", "test"))
    train = train[np.random.default_rng(0).permutation(len(train))[:IMAGES]]
    law = lambda made: evaluate.distance(train, np.asarray(pixels.to_uint8(jnp.asarray(made, jnp.float32))), extract)
    found: dict = {"path": {}, "law": {}, "path_floor": apart(right, other), "law_reference": law(right),
                   "law_floor": evaluate.distance(train, held_out[:IMAGES], extract),
                   "checkpoint": drawing.checkpoint, "ema": drawing.ema}
    for name, sampler, *costs, noisy in chosen(only):
        made = list(runs("digits", sampler, costs, model, x, cond, play))
        if not noisy:
            found["path"][name] = [[calls, apart(images, right)] for images, calls in made]
            told("digits", name, found["path"][name])
        found["law"][name] = [[calls, law(images)] for images, calls in made]
        told("digits, law", name, found["law"][name])
    return found


def told(problem: str, name: str, points: list) -> None:
    """Prints one line of progress."""
    print(f"{problem:13} {name:30}" + "  ".join(f"{calls:g}: {error:.2g}" for calls, error in points), flush=True)


# The picture.


def styles() -> dict[str, tuple[str, str]]:
    """Returns the colour of its family and a line of its own for every label."""
    own: dict = {}
    for colour, members in FAMILIES.values():
        for noisy in (False, True):
            kind = [label(name, options) for name, options, *_ in members
                    if asks_for_a_key(functools.partial(getattr(samplers, name), **options)) == noisy]
            own |= {name: (colour, style) for name, style in zip(kind, STYLES, strict=False)}
    return own


def picture(found: dict, path: Path) -> None:
    """Draws what there is: paths above, laws below; the mixture left, the digits right."""
    import matplotlib
    from PIL import Image

    matplotlib.use("Agg")
    from matplotlib import pyplot

    own = styles()
    still = {name for results in found.values() for name in results["path"]}
    noisy = [name for name in own if name not in still]
    figure, axes = pyplot.subplots(2, len(found), figsize=(1.6 + 4.3 * len(found), 8.6), layout="constrained",
                                   squeeze=False)
    for column, (problem, results) in enumerate(found.items()):
        title, distance = ABOUT[problem]
        panel(axes[0, column], results["path"], own, list(own))
        panel(axes[1, column], results["law"], own, [*noisy, *YARDSTICKS])
        axes[0, column].set(title=title, ylabel="distance to the ODE's end (median rms)")
        axes[1, column].set(xlabel="calls of the denoiser", ylabel=distance)
        axes[1, column].set_ylim(top=min(axes[1, column].get_ylim()[1], 1e3 * results["law_floor"]))
        axes[1, column].axhline(results["law_floor"], color="#999999", linewidth=1, zorder=0)
        axes[1, column].annotate("as many true samples", (0, results["law_floor"]), (4, -11), color="#777777",
                                 xycoords=("axes fraction", "data"), textcoords="offset points", fontsize=8)
    for row, title in enumerate(("without noise", "with noise")):
        axes[row, -1].legend(title=title, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8.5,
                             labelspacing=0.55, handlelength=2.8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    with Image.open(path) as whole:
        whole.convert("RGB").quantize(128).save(path, optimize=True)


def panel(axes: Any, results: dict, own: dict, names: list[str]) -> None:
    """Draws some samplers' errors against their calls, both on logarithmic axes."""
    from matplotlib import ticker

    for name in names:
        if name in results:
            colour, style = own[name]
            plain = name in YARDSTICKS and len(names) != len(own)
            shown = f"{name}, no noise" if plain else ALIKE[name] if name in ALIKE else name
            axes.plot(*np.transpose(results[name]), style, color=colour, label=shown, linewidth=1.3, markersize=4,
                      alpha=0.45 if plain else 0.9)
    axes.set(xscale="log", yscale="log")
    axes.set_xticks([5, 10, 20, 50, 100], labels=["5", "10", "20", "50", "100"])
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    low, high = axes.get_ylim()
    if high / low < 100:
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())
    axes.grid(which="major", color="#eeeeee", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)


def main(arguments: list[str] | None = None) -> None:
    """Runs both problems, or one; writes the figures as JSON and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, default=Path("runs/digits"), help="a run of configs/digits.py")
    parser.add_argument("--out", type=Path, default=DOCS, help="folder of solvers.png and solvers.json")
    parser.add_argument("--only", default="", help="some samplers, as labelled, with semicolons between")
    parser.add_argument("--redraw", action="store_true", help="draw the figures that are there")
    options = parser.parse_args(arguments)
    figures = options.out / "solvers.json"
    if options.redraw:
        picture(json.loads(figures.read_text()), options.out / "solvers.png")
        return
    start, only = time.monotonic(), tuple(filter(None, options.only.split(";")))
    found = {"mixture": mixture(only)}
    if (options.workdir / "config.json").exists():
        found["digits"] = digits(options.workdir, only)
    else:
        print(f"no run at {options.workdir}: the mixture alone (make demo trains the digits)")
    options.out.mkdir(parents=True, exist_ok=True)
    figures.write_text(json.dumps(found, indent=1) + "\n")
    picture(found, options.out / "solvers.png")
    print(f"{figures} and solvers.png, {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
