"""The step is a pure function of state, batch and key: it skips what is not finite, splits, donates, compiles once."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from laws import compilations

from jaxdiff import mesh, objective, parameterization, process, train
from jaxdiff.objective import levels, weighting


class Tiny(nn.Module):
    """A perceptron of 2 x 8 units that sees everything a network is given."""

    @nn.compact
    def __call__(self, x, c_noise, cond=None, *, train=False):
        label = nn.Embed(4, 8)(cond["label"])
        h = nn.tanh(nn.Dense(8)(x) + nn.Dense(8)(c_noise[:, None]) + label)
        return nn.Dense(x.shape[-1])(h)


NULL = {"label": np.int32(3)}
LOSS = objective.denoising(Tiny(), process.RectifiedFlow(), parameterization.velocity(), levels=levels.lognormal,
                           weighting=weighting.v, drop=0.3, null=NULL)
EMA = ("decay_0.9", "warmup_0.9999")
OPTIMIZERS = {
    "adam": optax.adam(1e-2), "adamw": optax.adamw(1e-2), "lion": optax.lion(1e-3), "adafactor": optax.adafactor(1e-2),
    "sgd": optax.sgd(1e-2, momentum=0.9), "lamb": optax.lamb(1e-2),
}
KEY = jax.random.key(7)


def batch_of(seed, size=16):
    rng = np.random.default_rng(seed)
    return {"x0": rng.standard_normal((size, 2)).astype(np.float32),
            "cond": {"label": rng.integers(0, 3, size).astype(np.int32)}}


def fresh(optimizer=OPTIMIZERS["adam"], **options):
    return train.init(LOSS, optimizer, batch_of(0), jax.random.key(0), ema=EMA, **options)


def made(optimizer=OPTIMIZERS["adam"], **options):
    return train.make_step(LOSS, optimizer, ema=EMA, **options)


step = jax.jit(made())


def assert_same(one, other):
    for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True):
        np.testing.assert_array_equal(a, b)


def as_numpy(state):
    return jax.tree.map(np.array, state)


def test_the_state_begins_with_copies_in_float32():
    # G09, keras-team/keras-hub#2629: parameters, moments and averages are float32
    state = fresh()
    assert state.step == 0
    assert state.frozen is None
    assert set(state.ema) == set(EMA)
    for ema in state.ema.values():
        assert_same(ema, state.params)
        for mine, theirs in zip(*map(jax.tree.leaves, (ema, state.params)), strict=True):
            assert mine.unsafe_buffer_pointer() != theirs.unsafe_buffer_pointer()
    after, _ = step(state, batch_of(0), KEY)
    for tree in (state, after):
        floats = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        assert {leaf.dtype for leaf in floats} == {jnp.dtype("float32")}
        assert tree.step.dtype == jnp.int32


def test_shapes_are_those_of_the_state():
    state, abstract = fresh(), train.shapes(LOSS, OPTIMIZERS["adam"], batch_of(0), ema=EMA)
    assert jax.tree.structure(state) == jax.tree.structure(abstract)
    for leaf, shape in zip(*map(jax.tree.leaves, (state, abstract)), strict=True):
        assert (leaf.shape, leaf.dtype) == (shape.shape, shape.dtype)


def test_a_step_descends_and_says_how_far():
    state, batch = fresh(), batch_of(0)
    after, metrics = step(state, batch, KEY)
    assert set(metrics) == {"loss", "grad_norm", "skipped"}
    _, loss_key = jax.random.split(jax.random.fold_in(KEY, 0))  # the run's key folded with the step
    context = train.update.Context(state.step, state.ema)
    value, slopes = jax.value_and_grad(lambda p: LOSS(p, batch, loss_key, context)[0])(state.params)
    assert float(metrics["loss"]) == pytest.approx(float(value), rel=1e-5)
    norm = np.sqrt(sum((np.asarray(s, np.float64) ** 2).sum() for s in jax.tree.leaves(slopes)))
    assert float(metrics["grad_norm"]) == pytest.approx(norm, rel=1e-5)
    updates, _ = OPTIMIZERS["adam"].update(slopes, state.opt_state, state.params)
    for p, u, q in zip(*map(jax.tree.leaves, (state.params, updates, after.params)), strict=True):
        np.testing.assert_allclose(q, p + u, atol=1e-4)  # where a slope is 0 up to rounding, adam's sign is chance
    assert after.step == 1
    assert metrics["skipped"] == 0


@pytest.mark.smoke
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])  # 1e30: its square, the loss, is not finite
def test_what_is_not_finite_changes_nothing_but_the_step(bad):
    state, _ = step(fresh(), batch_of(0), KEY)
    poisoned = batch_of(1)
    poisoned["x0"][3, 1] = bad
    after, metrics = step(state, poisoned, KEY)
    assert metrics["skipped"] == 1
    assert not np.isfinite(metrics["loss"])
    assert after.step == 2
    assert_same(after._replace(step=None), state._replace(step=None))
    onwards, metrics = step(after, batch_of(2), KEY)
    assert metrics["skipped"] == 0
    assert onwards.step == 3
    assert np.isfinite(jax.tree.leaves(onwards.params)[0]).all()


class Steep:
    """A loss that is finite and whose gradient is not."""

    def init(self, batch, key):
        return {"p": jnp.zeros(2)}

    def __call__(self, params, batch, key, context):
        return jnp.sqrt(params["p"]).sum(), {"seen": context.step, "average": context.ema["decay_0.9"]["p"].sum()}

    def denoiser(self, params, frozen=None):
        raise NotImplementedError


def test_a_gradient_that_is_not_finite_is_skipped_too():
    state = train.init(Steep(), optax.sgd(1.0), batch_of(0), KEY, ema=("decay_0.9",))
    after, metrics = train.make_step(Steep(), optax.sgd(1.0), ema=("decay_0.9",))(state, batch_of(0), KEY)
    assert metrics["loss"] == 0
    assert metrics["skipped"] == 1
    assert metrics["seen"] == metrics["average"] == 0  # the objective's own metrics, of its context
    assert_same(after.params, state.params)


def run(state, steps, first=0):
    """(state, losses) of the steps from `first` on."""
    losses = []
    for k in range(first, first + steps):
        state, metrics = step(state, batch_of(k), KEY)
        losses.append(float(metrics["loss"]))
    return state, losses


def test_a_run_is_a_function_of_seed_and_step():
    # G16, ByteDance-Seed/VeOmni#1189: after a restart what is drawn at step k is what would have been
    whole, losses = run(fresh(), 10)
    half, before = run(fresh(), 5)
    resumed, after = run(as_numpy(half), 5, first=5)
    assert before + after == losses
    assert_same(resumed, whole)


def test_every_step_and_every_seed_draws_anew():
    state, batch = fresh(), batch_of(0)
    again = [float(step(state._replace(step=jnp.int32(k)), batch, key)[1]["loss"])
             for k in (0, 5) for key in (KEY, jax.random.key(8))]
    assert len(set(again)) == 4


@pytest.mark.smoke
def test_accumulation_changes_nothing_but_the_rounding():
    (one, metrics_one), (four, metrics_four) = (
        jax.jit(made(OPTIMIZERS["sgd"], accumulate=k))(fresh(OPTIMIZERS["sgd"]), batch_of(0), KEY) for k in (1, 4))
    for name in metrics_one:
        np.testing.assert_allclose(metrics_four[name], metrics_one[name], rtol=2e-6)
    for a, b in zip(*map(jax.tree.leaves, (one, four)), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-7)
    assert four.step == 1


def test_accumulation_splits_the_batch_and_not_the_state():
    shapes = []

    class Noting(type(LOSS)):
        def __call__(self, params, batch, key, context):
            shapes.append(batch["x0"].shape)
            return super().__call__(params, batch, key, context)

    noting = Noting(**vars(LOSS))
    jax.eval_shape(train.make_step(noting, optax.sgd(0.1), ema=EMA, accumulate=4), fresh(optax.sgd(0.1)), batch_of(0),
                   KEY)
    assert set(shapes) == {(4, 2)}


@pytest.mark.parametrize(("make", "words"), [
    (lambda: made(accumulate=0), "accumulate must be at least 1, got 0"),
    (lambda: train.make_step(Steep(), optax.sgd(1.0), accumulate=2), r"Steep has no draw\(batch, key\)"),
    (lambda: made(accumulate=3)(fresh(), batch_of(0), KEY), "a batch of 16 does not split into accumulate=3"),
])
def test_batches_that_cannot_be_split_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_compiles_once_and_learns(name):
    optimizer = OPTIMIZERS[name]
    state, whole = fresh(optimizer), batch_of(0)
    before, ready = as_numpy(state.params), train.compiled(made(optimizer), state)
    with compilations() as count:
        for _ in range(3):
            state, metrics = jax.block_until_ready(ready(state, whole, KEY))
    assert count() == 1
    assert state.step == 3
    assert metrics["skipped"] == 0
    moved = [np.abs(np.asarray(new) - old).max() for new, old in
             zip(*map(jax.tree.leaves, (state.params, before)), strict=True)]
    assert max(moved) > 1e-4
    for ema in state.ema.values():
        assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (ema, before)), strict=True))


def test_a_sharded_state_stays_where_it_is_and_compiles_once():
    on = mesh.make_mesh(data=1, fsdp=1, tensor=1)
    state, whole = fresh(mesh=on), mesh.put(on, batch_of(0))
    before = jax.tree.map(lambda leaf: leaf.sharding, state)
    ready = train.compiled(made(), state)
    with compilations() as count:
        for _ in range(3):
            state, _ = jax.block_until_ready(ready(state, whole, KEY))
    assert count() == 1
    assert jax.tree.map(lambda leaf: leaf.sharding, state) == before


def test_the_state_is_donated():
    state = fresh()
    ready = train.compiled(made(), state)
    after, _ = jax.block_until_ready(ready(state, batch_of(0), KEY))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state.params, state.ema, state.opt_state)))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(after))


def test_a_compiled_step_is_the_step():
    state = fresh()
    plain, _ = step(state, batch_of(0), KEY)
    donated, _ = train.compiled(made(), state)(state, batch_of(0), KEY)
    for a, b in zip(*map(jax.tree.leaves, (plain, donated)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_prepare_is_keyed_by_step_and_sees_what_is_frozen():
    def prepare(batch, key, frozen=None):
        return {"x0": batch["x0"] + frozen["shift"] * jax.random.normal(key, batch["x0"].shape), "cond": batch["cond"]}

    options = {"prepare": prepare}
    frozen = {"shift": jnp.float32(2)}
    state = fresh(frozen=frozen, **options)
    moving = jax.jit(made(**options))
    after, metrics = moving(state, batch_of(0), KEY)
    assert after.frozen["shift"] == 2
    still = moving(state._replace(frozen={"shift": jnp.float32(0)}), batch_of(0), KEY)[1]["loss"]
    assert float(metrics["loss"]) != float(still)
    assert float(still) == pytest.approx(float(step(fresh(), batch_of(0), KEY)[1]["loss"]), rel=1e-6)


def test_pmap_over_one_device_is_the_step():
    one = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], (fresh(), batch_of(0)))
    mapped = jax.pmap(made(axis_name="data"), axis_name="data", in_axes=(0, 0, None), devices=jax.devices()[:1])
    after, metrics = mapped(*one, KEY)
    plain, expected = step(fresh(), batch_of(0), KEY)
    np.testing.assert_allclose(metrics["loss"][0], expected["loss"], rtol=1e-6)
    for a, b in zip(*map(jax.tree.leaves, (after.params, plain.params)), strict=True):
        np.testing.assert_allclose(a[0], b, rtol=1e-5, atol=1e-6)


def test_a_run_learns_the_data():
    # a point mass: the exact velocity at x is (x - c)/t, and the loss's floor is 0
    point = {"x0": jnp.full((64, 2), 0.5), "cond": {"label": jnp.zeros(64, jnp.int32)}}
    optimizer = OPTIMIZERS["adam"]

    @functools.partial(jax.jit, static_argnums=1)
    def many(state, steps):
        return jax.lax.scan(lambda s, _: made(optimizer)(s, point, KEY), state, length=steps)

    _, metrics = many(fresh(optimizer), 400)
    assert metrics["loss"][-50:].mean() < 0.35 * metrics["loss"][:20].mean()
    assert (metrics["skipped"] == 0).all()
