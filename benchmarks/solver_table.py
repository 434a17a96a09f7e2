"""Measures every sampler and writes the table of docs/mathematics.md, between the page's two markers.

Everything is measured on data N(.3, .25²), whose denoiser, flow and law are known, from σ/α = 80 to .02 in float64.

    order    log2 of how much less the error is at 256 steps than at 128.  Without noise it is the distance to the exact
             flow; with noise the error of the variance, exact as well: on Gaussian data a sampler is affine in its
             noises, so that one batch of basis vectors gives its law.  A dash where no error falls with the steps
    calls    of the denoiser, counted as they are made: of 256 steps less those of 128, a step
    noise    whether it asks for a key
    arrays   of the size of x in the carry of its loop, x among them

Command: python -m benchmarks.solver_table   (writes; 30 s on 2 CPU cores; with --check it says whether the page is
what it would write, with exit status 1 if not)
"""

import argparse
import functools
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import denoiser, process, samplers, times
from jaxdiff import walk as walks

PAGE = Path(__file__).resolve().parent.parent / "docs" / "mathematics.md"
START, END = "<!-- written by python -m benchmarks.solver_table -->", "<!-- until here -->"
HEAD = "| solver | order | calls a step | noise | arrays |\n|---|---|---|---|---|"

MEAN, STD, HIGH, LOW = 0.3, 0.25, 80.0, 0.02
COARSE, FINE = 128, 256
TURNS, DRAWS = 16, 2  # steps that a sampler may make beyond the grid's, and draws a step

ROWS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("euler", {}), ("euler", {"s_churn": 10.0}), ("heun", {}), ("heun", {"s_churn": 10.0}), ("heun_angle", {}),
    ("ddim", {}), ("ddim", {"eta": 0.5}), ("ddim", {"eta": 1.0}),
    ("ancestral", {}), ("ancestral", {"variance": "large"}),
    ("dpm_solver", {"order": 1}), ("dpm_solver", {"order": 2}), ("dpm_solver", {"order": 3}),
    ("dpmpp_2s", {}), ("dpmpp_2s", {"eta": 1.0}),
    ("dpmpp_2m", {}), ("dpmpp_2m", {"form": "heun"}), ("dpmpp_2m", {"eta": 1.0}),
    ("dpmpp_3m", {}), ("dpmpp_3m", {"eta": 1.0}), ("dpmpp_3m_legacy", {}),
    ("unipc", {"order": 1}), ("unipc", {"order": 2}), ("unipc", {"order": 3}),
    ("unipc", {"order": 3, "corrector": False}),
    ("deis", {"order": 2}), ("deis", {"order": 3}),
    ("lms", {"order": 2}), ("lms", {"order": 3}), ("lms", {"order": 4}), ("plms", {}), ("pndm", {}),
    ("euler_maruyama", {"noise": 0.0}), ("euler_maruyama", {}),
    ("predictor_corrector", {"corrections": 0}), ("predictor_corrector", {}), ("restart", {}), ("adaptive", {}),
)


class Measured(NamedTuple):
    """A row of the table."""

    label: str
    order: float
    calls: int
    noisy: bool
    arrays: int


def label(name: str, options: dict) -> str:
    """Returns a sampler as one writes it: `unipc(order=2)`."""
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in options.items())})" if options else name


def measure(name: str, options: dict, *, order: bool = True) -> Measured:
    """Measures one row, without its order (then NaN) in a fraction of the time."""
    sampler = functools.partial(getattr(samplers, name), **options)
    noisy = asks_for_a_key(sampler)
    fine = FINE if order else COARSE // 8
    with jax.enable_x64(True):
        if name == "adaptive":
            slope, calls = math.nan, _calls_of_a_chosen_step(sampler)
        else:
            error = _of_the_law if noisy else _of_the_flow
            (coarse_error, coarse_calls), (fine_error, fine_calls) = (error(sampler, n) for n in (fine // 2, fine))
            slope = math.log2(coarse_error / fine_error) if order else math.nan
            calls = (fine_calls - coarse_calls) / (fine - fine // 2)
    if not float(calls).is_integer():
        raise ValueError(f"{label(name, options)} makes {calls} calls a step")
    return Measured(label(name, options), slope, int(calls), noisy, carried(sampler))


def asks_for_a_key(sampler: Callable) -> bool:
    """Says whether a sampler draws noise."""
    of = process.EDM()
    try:
        jax.eval_shape(lambda x: sampler(_exact(of, []), x, times.karras(of, steps=4))[0], jnp.ones((2,)))
    except ValueError as error:
        if "give it a key" not in str(error):
            raise
        return True
    return False


def carried(sampler: Callable) -> int:
    """Returns how many arrays of the size of x its loop carries from step to step, x among them."""
    of, x = process.EDM(), jnp.ones((1, 5, 7))
    traced = jax.make_jaxpr(lambda x, key: sampler(_exact(of, []), x, times.karras(of, steps=8), key)[0])(
        x, jax.random.key(0))
    return next(count for count in _loops(traced.jaxpr, x.size) if count)


def _loops(jaxpr: Any, size: int) -> Iterator[int]:
    """Arrays of that size in the carry of every loop, the outer ones first."""
    for equation in jaxpr.eqns:
        options = equation.params
        if equation.primitive.name in ("scan", "while"):
            scan = equation.primitive.name == "scan"
            fixed = options["num_consts"] if scan else options["cond_nconsts"] + options["body_nconsts"]
            carry = equation.invars[fixed:fixed + options["num_carry"] if scan else None]
            yield sum(value.aval.size == size for value in carry)
        for inner in jax.tree.leaves(list(options.values()), is_leaf=lambda value: hasattr(value, "jaxpr")):
            if hasattr(inner, "jaxpr"):
                yield from _loops(getattr(inner.jaxpr, "jaxpr", inner.jaxpr), size)


def _exact(of: Any, calls: list) -> denoiser.Denoiser:
    """E[x0 | x] of the data; every call of it is added to `calls` when it is made."""

    def clean(x: jax.Array, t: jax.Array, cond: None) -> jax.Array:
        del cond
        jax.debug.callback(lambda: calls.append(1))
        sigma = process.sigma(of, jnp.asarray(t, x.dtype))
        return MEAN + STD**2 / (STD**2 + sigma**2) * (x - MEAN)

    return denoiser.from_function(clean, of)


def _run(sampler: Callable, x: jax.Array, grid: times.Times, **options: Any) -> tuple[np.ndarray, int]:
    """Where x ends, and the calls it took."""
    calls: list = []
    exact = _exact(process.EDM(), calls)
    out = jax.block_until_ready(jax.jit(lambda x: sampler(exact, x, grid, **options)[0])(x))
    jax.effects_barrier()
    return np.asarray(out, np.float64), len(calls)


def _grid(steps: int, rho: float = 7.0) -> times.Times:
    level = np.linspace(HIGH ** (1 / rho), LOW ** (1 / rho), steps + 1) ** rho  # Karras et al. 2022, eq. 5
    return times.given(process.EDM(), t=tuple(level / HIGH))


def _flow(x: np.ndarray) -> np.ndarray:
    """The probability-flow ODE from HIGH to LOW."""
    return MEAN + (x - MEAN) * math.sqrt((STD**2 + LOW**2) / (STD**2 + HIGH**2))


def _of_the_flow(sampler: Callable, steps: int) -> tuple[float, int]:
    """(largest distance to the exact flow, calls)."""
    x = HIGH * np.linspace(-2, 2, 8)
    made, calls = _run(sampler, jnp.asarray(x), _grid(steps))
    return float(np.abs(made - _flow(x)).max()), calls


def _of_the_law(sampler: Callable, steps: int) -> tuple[float, int]:
    """(relative error of the variance, calls): row 0 sees no noise, row 1 x_T = 1, each other one noise of all."""
    rows = jnp.arange(2 + DRAWS * (steps + TURNS))

    def draw(key: None, index: tuple, mean: jax.Array, std: jax.Array) -> jax.Array:
        return mean + std * (rows == 2 + DRAWS * index[0] + index[1])

    walk = functools.partial(walks.walk, draw=draw)
    made, calls = _run(sampler, jnp.asarray(rows == 1, float), _grid(steps), walk=walk)
    parts = made[1:] - made[0]
    variance = parts[0] ** 2 * (STD**2 + HIGH**2) + (parts[1:] ** 2).sum()
    return abs(variance / (STD**2 + LOW**2) - 1), calls


def _calls_of_a_chosen_step(sampler: Callable) -> int:
    x, ends = jnp.array([HIGH]), times.given(process.EDM(), t=(1.0, LOW / HIGH))
    shorter, longer = (_run(sampler, x, ends, max_steps=steps)[1] for steps in (3, 4))
    return longer - shorter


def line(row: Measured) -> str:
    """Returns the row as it is written."""
    order = f"{row.order:.1f}" if row.order > 0.3 else "–"
    return f"| `{row.label}` | {order} | {row.calls} | {'yes' if row.noisy else 'no'} | {row.arrays} |"


def written(page: Path = PAGE) -> list[str]:
    """Returns the table's lines as the page has them, without its head.

    Raises:
      ValueError: the page has not the two markers.
    """
    return _parts(page)[1].strip().removeprefix(HEAD).strip().splitlines()


def _parts(page: Path) -> tuple[str, str, str]:
    before, start, rest = page.read_text().partition(START)
    table, end, after = rest.partition(END)
    if not (start and end):
        raise ValueError(f"{page} needs the lines {START!r} and {END!r}, between which the table goes")
    return before, table, after


def main(arguments: list[str] | None = None) -> int:
    """Measures, prints, and writes or compares; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the page, write nothing")
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args(arguments)
    before, _, after = _parts(options.page)
    lines = []
    for name, given in ROWS:
        lines.append(line(measure(name, given)))
        print(lines[-1], flush=True)
    if options.check:
        same = written(options.page) == lines
        print(f"{options.page} {'is as measured' if same else 'differs: python -m benchmarks.solver_table writes it'}")
        return int(not same)
    table = "\n".join([HEAD, *lines])
    options.page.write_text(f"{before}{START}\n{table}\n{END}{after}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
