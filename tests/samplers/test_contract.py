"""What every sampler owes: the data at the end, an honest count, independence of the batch, every jax transform."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import (
    CALLS, DETERMINISTIC, END_IN_NOISE, MEANS, PARTS, PROCESSES, SAMPLERS, STDS, STOCHASTIC, WEIGHTS, gaussian,
    gaussian_flow, mixture,
)
from scipy.stats import norm

from jaxdiff import denoiser, process, samplers, times, walk

each_sampler = pytest.mark.parametrize("name", PARTS)
each_still = pytest.mark.parametrize("name", [name for name in PARTS if name in DETERMINISTIC])
each_noisy = pytest.mark.parametrize("name", [name for name in PARTS if name in STOCHASTIC])
STEPS = (1, 2, 3, 10)


@functools.partial(jax.jit, static_argnames=("sampler", "steps"))
def sampled(sampler, d, key, steps):
    """1,000 samples on karras's grid for each number of steps, in float32."""
    noise_key, key = jax.random.split(key)
    made = []
    for number in steps:
        grid = times.karras(d.process, steps=number)
        x = process.prior_scale(d.process, np.float64(grid.t[0])) * jax.random.normal(noise_key, (1_000,))
        made.append(sampler(d, x, grid, key)[0])
    return jnp.stack(made)


PLACES = [(name, key) for name in PARTS
          for key in (PROCESSES if name in ("ddim", "heun") else ("stable", "flow", "edm"))]


@pytest.mark.parametrize(("name", "key"), PLACES)
def test_a_point_mass_is_returned_and_few_steps_are_finite(name, key):
    # G01, lllyasviel/ControlNet#587: no sample keeps a trace of noise.  The same program, with another std,
    # then samples N(.3, .25²): grids of 1, 2 and 3 steps have no 0/0 in them (MATHEMATICS 9, T8).
    of = PROCESSES[key]
    points = sampled(SAMPLERS[name], gaussian(of, jnp.float32(0.3), jnp.float32(0)), jax.random.key(0), STEPS)
    assert points.shape == (4, 1_000)
    np.testing.assert_allclose(points, 0.3, atol=1e-5)
    assert float(points.max() - points.min()) < 1e-5
    spread = sampled(SAMPLERS[name], gaussian(of, jnp.float32(0.3), jnp.float32(0.25)), jax.random.key(0), STEPS)
    assert jnp.isfinite(spread).all()
    np.testing.assert_allclose(spread[0], 0.3, atol=2e-2)  # one step from (nearly) pure noise gives the mean
    if not name.startswith("euler_maruyama"):  # which needs more steps than 10
        np.testing.assert_allclose(spread[-1].mean(), 0.3, atol=0.1)


def calls_made(sampler, of, grid):
    """(denoiser calls, nfe): every call is counted, since nothing is compiled."""
    calls = []

    def counted(x, t, cond):
        calls.append(1)
        return 0.1 * x

    with jax.disable_jit():
        _, aux = sampler(denoiser.from_function(counted, of), jnp.ones((2, 1)), grid, jax.random.key(0))
    return len(calls), aux["nfe"]


@each_sampler
@pytest.mark.parametrize("key", ["vp", "flow"])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_nfe_is_the_number_of_calls(name, key, steps):
    calls, nfe = calls_made(SAMPLERS[name], PROCESSES[key], times.karras(PROCESSES[key], steps=steps))
    assert calls == nfe
    if name in ("plms", "pndm", "restart"):  # whose steps differ
        assert nfe >= steps
        return
    # the first step out of pure noise and the last into the data are first-order ones
    edges = 1 if steps == 1 or key not in END_IN_NOISE or name == "heun_angle" else 2
    assert nfe == CALLS[name] * (steps - edges) + edges


@pytest.mark.parametrize(("name", "nfe"), [("plms", 11), ("pndm", 19), ("restart", 19 + 16)])
def test_samplers_whose_steps_differ_count_each(name, nfe):
    of = process.EDM()
    assert calls_made(SAMPLERS[name], of, times.karras(of, steps=10)) == (nfe, nfe)


def test_nfe_counts_the_last_step_only_where_it_leads_to_the_data():
    of = process.EDM()
    assert calls_made(samplers.heun, of, times.given(of, t=(1.0, 0.5, 0.2))) == (4, 4)
    assert calls_made(samplers.ddim, of, times.given(of, t=(1.0, 0.5, 0.2))) == (2, 2)


@each_still
@pytest.mark.parametrize("key", ["vp", "flow"])
def test_nfe_is_the_number_of_calls_when_encoding(name, key):
    up = times.given(PROCESSES[key], t=(0.0, 0.3, 0.6, 1.0))
    calls, nfe = calls_made(DETERMINISTIC[name], PROCESSES[key], up)
    assert calls == nfe > 0


@each_sampler
def test_samples_do_not_see_their_neighbours(name):
    # G03, yang-song/score_sde_pytorch#41: sample i depends on its own key and nothing else
    of = process.RectifiedFlow()
    grid, keys = times.karras(of, steps=4), jax.random.split(jax.random.key(1), 7)
    x = process.prior_scale(of, grid.t[0]) * jax.random.normal(jax.random.key(2), (7, 2))
    run = lambda part: SAMPLERS[name](mixture(of), x[part], grid, keys[part])[0]
    together = run(slice(7))
    for part in (slice(0, 1), slice(1, 7)):
        np.testing.assert_allclose(run(part), together[part], rtol=5e-5, atol=1e-6)


@each_noisy
def test_keys_decide_the_sample(name):
    of = process.RectifiedFlow()
    grid = times.karras(of, steps=8)
    run = jax.jit(lambda key: STOCHASTIC[name](gaussian(of), jnp.zeros((2, 3)), grid, key)[0])
    np.testing.assert_array_equal(run(jax.random.key(0)), run(jax.random.key(0)))
    assert (run(jax.random.key(0)) != run(jax.random.key(1))).all()


@each_noisy
def test_a_missing_key_is_named(name):
    of = process.VP()
    with pytest.raises(ValueError, match="draws noise: give it a key"):
        STOCHASTIC[name](gaussian(of), jnp.zeros(2), times.karras(of, steps=3))


@each_still
def test_a_deterministic_sampler_ignores_its_key(name):
    of = process.VP()
    run = lambda key: DETERMINISTIC[name](gaussian(of), jnp.ones(2), times.karras(of, steps=3), key)[0]
    np.testing.assert_array_equal(run(None), run(jax.random.key(0)))


@each_sampler
@pytest.mark.parametrize("key", ["edm", "cosine"])
def test_observe_records_the_path(name, key):
    of = PROCESSES[key]
    grid = times.karras(of, steps=5)
    observing = functools.partial(walk.walk, observe=lambda row, x, x0: (row.t, x, x0))
    x, aux = SAMPLERS[name](gaussian(of), jnp.ones((3, 2)), grid, jax.random.key(0), walk=observing)
    t, path, clean = aux["seen"]
    if name != "restart":  # which goes back
        np.testing.assert_allclose(t, grid.t[:-1], rtol=1e-6)
    assert path.shape == clean.shape == (len(t), 3, 2)
    np.testing.assert_array_equal(path[-1], x)
    np.testing.assert_array_equal(clean[-1], x)  # the last step returns the denoised estimate
    assert jnp.isfinite(clean).all()


@each_sampler
def test_the_condition_reaches_every_call(name):
    def labelled(x, t, cond):
        return jnp.broadcast_to(cond["label"].astype(x.dtype)[:, None], x.shape)

    of = process.RectifiedFlow()
    label = jnp.array([2, 0, 1])
    x, _ = SAMPLERS[name](denoiser.from_function(labelled, of), jnp.ones((3, 2)), times.karras(of, steps=4),
                          jax.random.key(0), cond={"label": label})
    np.testing.assert_allclose(x, np.repeat(label[:, None], 2, 1), atol=1e-6)


@pytest.mark.parametrize("name", [name for name in STOCHASTIC if "churn" not in name])
def test_only_a_step_without_noise_encodes(name):
    of = process.VP()
    with pytest.raises(ValueError, match="a rising grid encodes, which only a step without noise can do: use "):
        STOCHASTIC[name](gaussian(of), jnp.ones(2), times.given(of, t=(0.1, 0.4, 0.8)), jax.random.key(0))


def run_on(name, mean):
    """A few steps of float32, as a function of the data's mean: linear in it, since the flow is."""
    of = process.RectifiedFlow()
    grid, x = times.karras(of, steps=4), 0.7 * jnp.ones((2, 2))
    return SAMPLERS[name](gaussian(of, mean, 0.25), x, grid, jax.random.key(5))[0]


@each_sampler
def test_every_transform_passes_through(name):
    run = functools.partial(run_on, name)
    zero, one = run(0.0), jax.jit(run)(1.0)
    for wrapped in (run, jax.checkpoint(run)):
        np.testing.assert_allclose(wrapped(1.0), one, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(jax.vmap(run)(jnp.array([0.0, 1.0])), [zero, one], rtol=1e-4, atol=1e-5)
    slope = (one - zero).sum()
    for differentiable in (run, jax.checkpoint(run)):
        found = jax.jit(jax.grad(lambda mean, f=differentiable: f(mean).sum()))(0.4)
        np.testing.assert_allclose(found, slope, rtol=1e-3)


@each_sampler
def test_pmap_gives_the_same_sample(name):
    of = process.VP()
    grid, x = times.karras(of, steps=3), jnp.ones((1, 2, 2))
    run = lambda d, x: SAMPLERS[name](d, x, grid, jax.random.key(5))[0]
    made = jax.pmap(run, in_axes=(None, 0), devices=jax.devices()[:1])(gaussian(of), x)
    np.testing.assert_allclose(made[0], run(gaussian(of), x[0]), rtol=1e-4, atol=1e-5)


@each_still
def test_images_are_sampled_as_vectors_are(name):
    of = process.VP()
    grid, x = times.karras(of, steps=30), jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    made, _ = DETERMINISTIC[name](gaussian(of), x, grid)
    assert made.shape == x.shape
    assert made.dtype == jnp.float32
    np.testing.assert_allclose(made, gaussian_flow(of, np.asarray(x), grid.t[0], 0.0), atol=0.2)


@pytest.mark.parametrize(("sampler", "options", "words"), [
    (samplers.ddim, {"eta": 1.5}, r"eta must lie in \[0, 1\], got 1.5"),
    (samplers.ddim, {"eta": -0.1}, "eta"),
    (samplers.ancestral, {"variance": "learned"}, "'small' or 'large', got 'learned'"),
    (samplers.heun, {"s_churn": -1.0}, "s_churn and s_noise must be >= 0, got -1"),
    (samplers.euler, {"s_noise": -1.0}, "s_noise"),
    (samplers.heun, {"s_churn": 1.0, "s_min": 2.0, "s_max": 1.0}, "s_min must not lie above s_max, got 2.0 and 1.0"),
    (samplers.dpm_solver, {"order": 4}, "orders 1, 2 and 3, got 4"),
    (samplers.dpmpp_2s, {"eta": 2.0}, r"eta must lie in \[0, 1\], got 2.0"),
    (samplers.dpmpp_2m, {"form": "hune"}, "'midpoint' or 'heun', got 'hune'"),
    (samplers.dpmpp_3m, {"eta": -1.0}, "eta must be >= 0, got -1.0"),
    (samplers.unipc, {"order": 0}, "orders 1, 2 and 3, got 0"),
    (samplers.unipc, {"b": "bh3"}, "'bh1' or 'bh2', got 'bh3'"),
    (samplers.deis, {"order": 5}, "orders 1 to 4, got 5"),
    (samplers.deis, {"variable": "sigma"}, "one of log_ratio, ratio, time, got 'sigma'"),
    (samplers.lms, {"order": 0}, "orders 1 to 4, got 0"),
    (samplers.euler_maruyama, {"noise": -0.5}, "noise must be >= 0, got -0.5"),
    (samplers.predictor_corrector, {"predictor": "heun"}, "predictor must be one of reverse_diffusion"),
    (samplers.predictor_corrector, {"norms": "mean"}, "norms must be one of expected, own, batch, got 'mean'"),
    (samplers.predictor_corrector, {"corrections": -1}, "corrections must be >= 0"),
    (samplers.predictor_corrector, {"predictor": "none", "corrections": 0}, ">= 1 without a predictor, got 0"),
    (samplers.predictor_corrector, {"snr": 0.0}, "snr must be > 0, got 0.0"),
    (samplers.restart, {"intervals": ((0.1, 0.2, 3),)}, r"is \(low, high, steps, turns\), got \(0.1, 0.2, 3\)"),
    (samplers.restart, {"intervals": ((0.3, 0.2, 3, 1),)}, "low < high <= 152.167, where the grid starts, got low 0.3"),
    (samplers.restart, {"intervals": ((0.1, 200.0, 3, 1),)}, "high 200"),
    (samplers.restart, {"intervals": ((0.1, 0.2, 0, 1),)}, "steps >= 1 and turns >= 1, got 0 and 1"),
    (samplers.adaptive, {"method": "rk45"}, "one of tsit5, dopri5, bosh3, dopri8, got 'rk45'"),
    (samplers.adaptive, {"rtol": 0.0}, "must be > 0, got 0.0"),
])
def test_impossible_options_are_refused(sampler, options, words):
    of = process.VP()
    with pytest.raises(ValueError, match=words):
        sampler(gaussian(of), jnp.zeros(2), times.karras(of, steps=2), jax.random.key(0), **options)


def test_samples_do_not_depend_on_how_many_devices_they_are_mapped_over(run_python):
    # jit with the batch cut over 8, pmap over 8 and one device: sample i comes from its own key
    out = run_python("""
        import jax, jax.numpy as jnp, numpy as np
        from jax.sharding import AxisType, NamedSharding, PartitionSpec
        from laws import PARTS, mixture
        from jaxdiff import process, samplers, times
        of = process.VP()
        grid, keys = times.karras(of, steps=4), jax.random.split(jax.random.key(1), 16)
        x = jax.random.normal(jax.random.key(2), (16, 2))
        mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
        cut = NamedSharding(mesh, PartitionSpec("data"))
        for name, sampler in {**PARTS, "adaptive": samplers.adaptive}.items():
            run = lambda x, keys: sampler(mixture(of), x, grid, keys)[0]
            one = jax.jit(run)(x, keys)
            tolerance = dict(rtol=2e-4, atol=2e-4) if name == "adaptive" else dict(rtol=1e-4, atol=1e-5)
            sharded = jax.jit(run)(jax.device_put(x, cut), jax.device_put(keys, cut))
            assert len(sharded.sharding.device_set) == 8, name
            np.testing.assert_allclose(sharded, one, err_msg=name, **tolerance)
            mapped = jax.pmap(run)(x.reshape(8, 2, 2), keys.reshape(8, 2))
            np.testing.assert_allclose(mapped.reshape(16, 2), one, err_msg=name, **tolerance)
            print(name)
    """)
    assert out.split() == [*PARTS, "adaptive"]


@each_noisy
def test_a_mixture_is_sampled_in_its_proportions(name):
    # 1,024 steps, 4,096 samples, by the component each is nearest to: four standard deviations
    of, n = process.RectifiedFlow(), 4_096
    grid = times.karras(of, steps=1_024)
    x = jax.random.normal(jax.random.key(0), (n, 2))
    made = jax.jit(lambda x: STOCHASTIC[name](mixture(of), x, grid, jax.random.key(1))[0])(x)
    distance = np.linalg.norm(np.asarray(made)[:, None] - MEANS, axis=-1) / STDS
    share = np.bincount(distance.argmin(1), minlength=3) / n
    exact = np.linalg.norm(drawn_from_the_mixture(200_000)[:, None] - MEANS, axis=-1) / STDS
    wanted = np.bincount(exact.argmin(1), minlength=3) / 200_000
    np.testing.assert_array_less(np.abs(share - wanted), 4 * np.sqrt(wanted * (1 - wanted) / n) + 0.005)


def drawn_from_the_mixture(n):
    draw = np.random.default_rng(0)
    part = draw.choice(3, n, p=WEIGHTS)
    return MEANS[part] + STDS[part, None] * draw.standard_normal((n, 2))


@each_sampler
def test_a_bfloat16_network_moves_the_samples_by_no_more_than_its_rounding(name):
    # MATHEMATICS 9, T18: the network rounds, state and arithmetic stay float32
    of = process.RectifiedFlow()
    exact = gaussian(of)
    rounded = denoiser.from_function(lambda x, t, cond: exact(x, t).astype(jnp.bfloat16).astype(jnp.float32), of)
    grid, x = times.karras(of, steps=12), jax.random.normal(jax.random.key(0), (64, 2))
    full, half = (PARTS[name](d, x, grid, jax.random.key(1))[0] for d in (exact, rounded))
    assert half.dtype == jnp.float32
    assert float(jnp.sqrt(((full - half) ** 2).mean())) < 1e-2


# A process that is being learned: its levels are traced, and gradients reach its parameters through every sampler.

LEARNED = process.LearnedGamma(gamma_min=-8.0, gamma_max=3.0, width=8)


@pytest.mark.parametrize("name", [*PARTS, "adaptive"])
def test_a_learned_process_is_sampled_within_jit_and_gradients_reach_it(name):
    sampler = PARTS[name] if name in PARTS else samplers.adaptive
    params = LEARNED.init(jax.random.key(0))
    grid = times.uniform(LEARNED.bind(params), steps=5)
    x = jax.random.normal(jax.random.key(1), (3, 2))

    def mean(params):
        return sampler(gaussian(LEARNED.bind(params)), x, grid, jax.random.key(2))[0].mean()

    if name == "restart":  # which must see the levels to know where to turn
        with pytest.raises(ValueError, match="restart needs a process whose levels are known"):
            jax.jit(mean)(params)
        return
    np.testing.assert_allclose(jax.jit(mean)(params), mean(params), rtol=2e-3)
    if name not in ("ddim", "heun_churn", "unipc_3", "lms", "euler_maruyama"):
        return
    grads = jax.jit(jax.grad(mean))(params)
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(grads))
    assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(grads)) > 0


# Log-densities of what was drawn.


@each_noisy
def test_densities_are_those_of_what_was_drawn(name):
    # by the definition: every draw's normal density, from the mean and the deviation that the step asked for
    of, asked = process.EDM(), []
    grid, x = times.karras(of, steps=4), jax.random.normal(jax.random.key(0), (3, 2)) * 80

    def draw(key, index, mean, std):
        drawn = walk.gaussian(key, index, mean, std)
        jax.debug.callback(lambda *a: asked.append(a), drawn, mean, jnp.broadcast_to(std, mean.shape), ordered=True)
        return drawn

    noted = functools.partial(walk.walk, draw=draw, densities=True)
    _, aux = STOCHASTIC[name](mixture(of), x, grid, jax.random.key(3), walk=noted)
    jax.effects_barrier()
    if name == "predictor_corrector":
        assert aux["log_density"].shape == (4, 3)
    total = sum(norm.logpdf(drawn, mean, std).sum(1) for drawn, mean, std in asked if np.all(std > 0))
    np.testing.assert_allclose(aux["log_density"].sum(0), total, rtol=1e-5)


@pytest.mark.parametrize("name", ["ddim_one", "sde_dpmpp_2m", "euler_maruyama"])
def test_the_gradient_of_a_replayed_paths_density_is_its_finite_difference(name, x64):
    # Black et al. 2023, eq. 6: the path is fixed, the denoiser that may have drawn it changes
    of = process.EDM()
    grid, x = times.karras(of, steps=6), 80 * jax.random.normal(jax.random.key(0), (3, 2))
    sampler = STOCHASTIC[name]
    _, aux = sampler(gaussian(of), x, grid, jax.random.key(1),
                     walk=functools.partial(walk.walk, observe=lambda row, x, x0: x))
    replay = lambda key, index, mean, std: aux["seen"][index[0]]
    again = functools.partial(walk.walk, draw=replay, densities=True)
    density = jax.jit(lambda mean: sampler(gaussian(of, mean), x, grid, walk=again)[1]["log_density"].sum())
    h = 1e-5
    np.testing.assert_allclose(jax.grad(density)(0.3), (density(0.3 + h) - density(0.3 - h)) / (2 * h), rtol=1e-6)
    assert abs(float(jax.grad(density)(0.3))) > 1e-3
    assert density(0.3) > density(3.0)  # the denoiser that drew it finds it more likely
