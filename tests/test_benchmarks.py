"""The table of solvers is what the code does, and the scripts that measure them run."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import solver_table, solvers
from jaxdiff import denoiser, process, samplers, times

rows = pytest.mark.parametrize(("name", "options"), solver_table.ROWS,
                               ids=[solver_table.label(*row) for row in solver_table.ROWS])


@rows
def test_the_page_says_what_is_measured(name, options):
    assert solver_table.line(solver_table.measure(name, options)) in solver_table.written()


def test_the_page_has_these_rows_and_no_others():
    named = [line.split("`")[1] for line in solver_table.written()]
    assert named == [solver_table.label(name, options) for name, options in solver_table.ROWS]


def test_every_sampler_is_in_the_table_and_in_the_picture():
    assert {name for name, _ in solver_table.ROWS} == set(samplers.__all__)
    drawn = {name for _, members in solvers.FAMILIES.values() for name, *_ in members}
    assert drawn == set(samplers.__all__)


@pytest.mark.parametrize("change", ["| 1 |", "an order of its own"])
def test_check_notices_a_changed_line(change, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(solver_table, "ROWS", (("euler", {}),))
    page = tmp_path / "page.md"
    page.write_text(f"# Page\n\n{solver_table.START}\n{solver_table.END}\n\nMore.\n")
    check = ["--check", "--page", str(page)]
    assert solver_table.main(check) == 1
    assert solver_table.main(["--page", str(page)]) == 0
    assert page.read_text().startswith("# Page\n\n") and page.read_text().endswith("\n\nMore.\n")
    assert solver_table.main(check) == 0
    page.write_text(page.read_text().replace("| 1.0 |", change))
    assert solver_table.main(check) == 1
    assert "differs" in capsys.readouterr().out


def test_a_page_without_markers_is_refused(tmp_path):
    (tmp_path / "page.md").write_text("# Page\n")
    with pytest.raises(ValueError, match="needs the lines"):
        solver_table.written(tmp_path / "page.md")


@pytest.mark.parametrize(("name", "steps", "options"), [("heun", 5, {}), ("pndm", 7, {}), ("ddim", 4, {"eta": 1.0})])
def test_step_by_step_a_sampler_does_what_its_program_does(name, steps, options, x64):
    of, x = process.EDM(), jnp.asarray(80 * np.random.default_rng(0).standard_normal((4, 2)))
    exact, grid = denoiser.from_function(solvers._clean, of), times.karras(of, steps=steps)
    given = exact, None, functools.partial(getattr(samplers, name), **options), x, grid
    whole, calls = solvers.whole(*given)
    stepped, counted = solvers.stepwise(*given, program=jax.jit(lambda made, x, t, cond: made(x, t, cond)))
    np.testing.assert_allclose(stepped, whole, rtol=1e-10, atol=1e-12)
    assert counted == calls


def test_the_reference_is_the_flow_that_fine_steps_follow(x64):
    of, x = process.EDM(), 80 * np.random.default_rng(0).standard_normal((16, 2))
    exact = denoiser.from_function(solvers._clean, of)
    made, _ = solvers.whole(exact, None, samplers.unipc, jnp.asarray(x), times.karras(of, steps=150))
    assert solvers.apart(made, solvers.flow(x)) < 2e-5


def test_the_distance_to_the_mixture_is_that_of_a_shift():
    true = solvers.drawn(np.random.default_rng(0), 20_000)
    assert solvers.wasserstein(true) < 0.012
    moved = solvers.wasserstein(true + np.array([0.5, 0.0]))
    assert moved == pytest.approx(0.5 * 2 / np.pi, abs=0.01)  # the mean of |cos| over the directions


def test_a_short_run_of_the_mixture_draws_and_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(solvers.BUDGETS, "mixture", (10, 20))
    monkeypatch.setattr(solvers, "STARTS", 8)
    monkeypatch.setattr(solvers, "SAMPLES", 200)
    arguments = ["--out", str(tmp_path), "--workdir", str(tmp_path / "none"), "--only", "euler;ddim(eta=1.0)"]
    solvers.main(arguments)
    found = json.loads((tmp_path / "solvers.json").read_text())["mixture"]
    (few, worse), (many, better) = found["path"]["euler"]
    assert (few, many) == (10, 20) and better < 0.7 * worse
    assert list(found["law"]) == ["ddim(eta=1.0)"]
    assert "make demo trains the digits" in capsys.readouterr().out
    (tmp_path / "solvers.png").unlink()
    solvers.main([*arguments, "--redraw"])
    assert (tmp_path / "solvers.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("cost", [cost for cost in solvers.chosen() if cost[2]], ids=lambda cost: cost[0])
def test_a_budget_of_calls_counts_what_a_sampler_makes(cost):
    _, sampler, calls, besides, _ = cost
    of, made = process.EDM(), []
    exact, grid = denoiser.from_function(solvers._clean, of), times.karras(of, steps=9)
    run = lambda x, key: made.append(sampler(exact, x, grid, key)[1]["nfe"])
    jax.eval_shape(run, jnp.ones((2, 2)), jax.random.key(0))
    assert made == [calls * (grid.steps - 1) + 1 + besides]
