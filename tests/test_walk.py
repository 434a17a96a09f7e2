"""The one scan: its rows are float64 on the host, its edges are first-order steps, its noise is keyed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import END_IN_NOISE, PROCESSES, gaussian

from jaxdiff import process, times, walk

each_process = pytest.mark.parametrize("of", PROCESSES.values(), ids=PROCESSES)
X = jnp.array([[0.5, -1.0], [2.0, 0.3], [-0.2, 0.1]])


def stay(denoiser, x, row, carry, noise):
    return x, carry, denoiser(x, row.t)


def record(row, x, x0):
    return {"row": row, "x": x, "x0": x0}


@each_process
def test_rows_hold_the_grid_and_its_levels(of):
    grid = times.karras(of, steps=5)
    _, aux = walk.walk(stay, gaussian(of), X, grid, None, observe=lambda row, x, x0: row._replace(c=()))
    rows, t = aux["seen"], np.asarray(grid.t)
    np.testing.assert_array_equal(rows.i, np.arange(5))
    np.testing.assert_array_equal(rows.t, t[:-1].astype(np.float32))
    np.testing.assert_array_equal(rows.s, t[1:].astype(np.float32))
    alpha, sigma = process.alpha(of, t[:-1]), process.sigma(of, t[:-1])
    np.testing.assert_array_equal(rows.alpha_t, alpha.astype(np.float32))
    np.testing.assert_array_equal(rows.sigma_t, sigma.astype(np.float32))
    np.testing.assert_array_equal(rows.alpha_s, np.append(alpha[1:], 1).astype(np.float32))  # 0 means the data,
    np.testing.assert_array_equal(rows.sigma_s, np.append(sigma[1:], 0).astype(np.float32))  # whatever σ(0) is
    assert rows.t.dtype == rows.sigma_s.dtype == X.dtype


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_coefficients_are_made_on_the_host_in_float64(wrap):
    seen = []

    def coefficients(rows):
        seen.append(rows)
        return {"twice": 2 * rows.t}

    def double(denoiser, x, row, carry, noise):
        assert row.c["twice"].dtype == x.dtype
        return row.c["twice"] + 0 * x, carry, x

    of = process.RectifiedFlow()
    run = wrap(lambda x: walk.walk(double, gaussian(of), x, times.uniform(of, steps=5), None, coefficients=coefficients,
                                   observe=lambda row, x, x0: x)[1]["seen"])
    states = run(X)
    (rows,) = seen
    # the steps from α = 0 and into σ = 0 are not the sampler's: of five, it makes three
    for values in (rows.t, rows.s, rows.alpha_t, rows.sigma_t, rows.alpha_s, rows.sigma_s):
        assert isinstance(values, np.ndarray)
        assert values.dtype == np.float64
        assert values.shape == (3,)
    np.testing.assert_allclose(states[1:4, 0, 0], 2 * np.array([0.8, 0.6, 0.4]), rtol=1e-6)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_sampler_makes_all_steps_but_the_two_edges(name, steps):
    def counted(denoiser, x, row, carry, noise):
        return x, carry + 1, x

    of, made = PROCESSES[name], []

    def coefficients(rows):
        made.append(len(rows.t))
        return ()

    _, aux = walk.walk(counted, gaussian(of), X, times.karras(of, steps=steps), None, carry=jnp.int32(0), evals=3,
                       coefficients=coefficients)
    middle = max(steps - 1 - (name in END_IN_NOISE), 0)
    assert sum(made) == middle
    assert aux["nfe"] == 3 * middle + (steps - middle)
    assert aux["seen"] is None


def test_a_grid_that_stops_short_of_the_data_has_no_last_edge():
    of = process.EDM()
    _, aux = walk.walk(stay, gaussian(of), X, times.given(of, t=(1.0, 0.5, 0.25)), None, evals=3)
    assert aux["nfe"] == 6


def test_what_a_step_carries_reaches_the_next():
    def remembering(denoiser, x, row, carry, noise):
        return x + carry, row.t, x

    of = process.EDM()
    x, _ = walk.walk(remembering, gaussian(of), X, times.given(of, t=(0.8, 0.4, 0.2, 0.1)), None,
                     carry=jnp.float32(10))
    np.testing.assert_allclose(x, X + 10 + 0.8 + 0.4, rtol=1e-6)


@each_process
def test_the_last_step_returns_the_denoised_estimate_exactly(of):
    d = gaussian(of)
    x, _ = walk.walk(stay, d, X, times.given(of, t=(0.5, 0.0)), None)
    np.testing.assert_allclose(x, d(X, np.float32(0.5)), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", END_IN_NOISE)
def test_the_first_step_out_of_pure_noise_is_ddims(name):
    of = PROCESSES[name]
    x, _ = walk.walk(stay, gaussian(of), X, times.given(of, t=(1.0, 0.25)), None)
    np.testing.assert_allclose(x, process.alpha(of, 0.25) * 0.3 + process.sigma(of, 0.25) / process.sigma(of, 1.0) * X,
                               rtol=1e-5)


@pytest.mark.parametrize("name", END_IN_NOISE)
def test_the_last_step_into_pure_noise_is_ddims(name):
    of = PROCESSES[name]
    d, (alpha, sigma) = gaussian(of), (process.alpha(of, 0.25), process.sigma(of, 0.25))
    x, aux = walk.walk(stay, d, X, times.given(of, t=(0.25, 1.0)), None, evals=3)
    np.testing.assert_allclose(x, process.sigma(of, 1.0) * (X - alpha * d(X, np.float32(0.25))) / sigma, rtol=1e-5)
    assert aux["nfe"] == 1


@each_process
def test_the_first_step_out_of_the_data_keeps_them(of):
    # there ε̂ = -σ ∇ln p vanishes, so that dx̂/dσ̂ = 0, and nothing is asked of the denoiser
    x, aux = walk.walk(stay, gaussian(of), X, times.given(of, t=(0.0, 0.25, 0.5)), None, evals=3,
                       observe=lambda row, x, x0: x)
    np.testing.assert_allclose(aux["seen"][0], process.alpha(of, 0.25) * X, rtol=1e-6)
    assert aux["nfe"] == 3
    assert jnp.isfinite(x).all()


@pytest.mark.parametrize("name", ["vp", "flow"])
def test_observe_sees_every_step_with_the_edges(name):
    of = PROCESSES[name]
    d, grid = gaussian(of), times.uniform(of, steps=4)
    x, aux = jax.jit(lambda x: walk.walk(stay, d, x, grid, None, observe=record))(X)
    seen = aux["seen"]
    assert seen["x"].shape == seen["x0"].shape == (4, *X.shape)
    np.testing.assert_array_equal(seen["x"][-1], x)
    np.testing.assert_allclose(seen["row"].t, grid.t[:-1], rtol=1e-6)
    before = jnp.concatenate([X[None], seen["x"][:-1]])
    for i in range(4):
        np.testing.assert_allclose(seen["x0"][i], d(before[i], np.float32(grid.t[i])), rtol=1e-5, atol=1e-6)


def noisy(denoiser, x, row, carry, noise):
    return noise(noise(x, 1.0), 1.0), carry, x


def drawn(key, of=PROCESSES["edm"], x=X):
    """States after each of three steps that draw twice."""
    grid = times.given(of, t=(0.8, 0.4, 0.2, 0.1))
    return walk.walk(noisy, gaussian(of), x, grid, key, observe=lambda row, x, x0: x)[1]["seen"]


def test_noise_is_a_function_of_the_key_and_never_repeats():
    key = jax.random.key(3)
    np.testing.assert_array_equal(drawn(key), drawn(key))
    assert (drawn(key) != drawn(jax.random.key(4))).all()
    steps = jnp.diff(jnp.concatenate([X[None], drawn(key)]), axis=0)
    assert len(np.unique(np.round(steps, 6))) == steps.size
    # two equal draws within a step would double the noise: variance 4 a step instead of 2
    many = jnp.zeros((20_000, 1))
    assert float(jnp.var(drawn(key, x=many)[0])) == pytest.approx(2, rel=0.05)
    assert float(jnp.var(drawn(key, x=many)[2])) == pytest.approx(6, rel=0.05)


def test_a_key_each_makes_samples_independent_of_their_neighbours():
    keys = jax.random.split(jax.random.key(0), 3)
    together = drawn(keys)
    for i in range(3):
        np.testing.assert_allclose(together[:, i:i + 1], drawn(keys[i:i + 1], x=X[i:i + 1]), rtol=1e-6)
    swapped = drawn(keys[::-1])
    np.testing.assert_allclose(swapped[:, 0] - X[0], together[:, 2] - X[2], atol=1e-6)


def test_draw_may_be_replaced():
    asked = []

    def replay(key, index, mean, std):
        asked.append(index[1])
        return mean + std * (10 * index[0] + index[1])

    of = process.EDM()
    x, _ = walk.walk(noisy, gaussian(of), X, times.given(of, t=(0.8, 0.4, 0.2)), None, draw=replay)
    np.testing.assert_allclose(x, X + (0 + 1) + (10 + 11))
    assert asked == [0, 1]  # the body is traced once


def test_gaussian_draws_its_mean_and_deviation():
    x = walk.gaussian(jax.random.key(0), (jnp.int32(0), 0), jnp.full(40_000, 3.0), 0.5)
    assert float(x.mean()) == pytest.approx(3, abs=0.02)
    assert float(x.std()) == pytest.approx(0.5, abs=0.01)
    fixed = walk.gaussian(jax.random.key(0), (jnp.int32(0), 0), X, 0.0)
    np.testing.assert_array_equal(fixed, X)
    others = [walk.gaussian(jax.random.key(0), index, X, 1.0) for index in [(0, 0), (0, 1), (1, 0), (1, 1)]]
    assert len(np.unique(others)) == 4 * X.size


def test_a_missing_key_is_named():
    with pytest.raises(ValueError, match="this sampler draws noise: give it a key"):
        drawn(None)


def test_equal_grids_and_other_leaves_share_a_trace():
    traces = []

    @jax.jit
    def run(d, x, grid):
        traces.append(1)
        return walk.walk(stay, d, x, grid, None)[0]

    of = process.VP()
    for mean in (0.0, 1.0):
        run(gaussian(of, mean), X, times.karras(of, steps=4))
    assert len(traces) == 1
