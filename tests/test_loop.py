"""The loop: where it starts, when it stops, how far ahead of the device it runs."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiff import data, loop, networks, objective, parameterization, process, train

LOSS = objective.denoising(networks.MLP(width=16, depth=1), process.RectifiedFlow(), parameterization.velocity())
ADAM = optax.adam(1e-3)
STEP = train.make_step(LOSS, ADAM)
BATCHES = data.batches(data.mixture(), batch=32)
INIT, FIT = jax.random.split(jax.random.key(0))


def fresh():
    return train.init(LOSS, ADAM, next(BATCHES(0)), INIT)


def recorder(into):
    return lambda step, state, metrics: into.append((step, float(metrics["loss"])))


def test_a_run_in_two_parts_is_the_run_in_one_to_the_bit():
    whole, parts = [], []
    final, _ = loop.fit(STEP, fresh(), BATCHES, FIT, steps=8, hooks=[recorder(whole)])
    half, _ = loop.fit(STEP, fresh(), BATCHES, FIT, steps=5, hooks=[recorder(parts)])
    assert int(half.step) == 5
    again, _ = loop.fit(STEP, half, BATCHES, FIT, steps=8, hooks=[recorder(parts)])
    assert parts == whole and [step for step, _ in whole] == list(range(1, 9))
    jax.tree.map(np.testing.assert_array_equal, final, again)


def test_a_finished_run_does_nothing():
    state, _ = loop.fit(STEP, fresh(), BATCHES, FIT, steps=2)
    again, reason = loop.fit(STEP, state, BATCHES, FIT, steps=2, hooks=[lambda *_: pytest.fail("a step was made")])
    assert int(again.step) == 2 and reason is None


def test_a_hook_stops_the_run_with_its_reason():
    seen = []
    state, reason = loop.fit(STEP, fresh(), BATCHES, FIT, steps=9,
                             hooks=[lambda step, *_: "enough" if step == 3 else None, recorder(seen)])
    assert reason == "enough" and int(state.step) == 3 and [step for step, _ in seen] == [1, 2]


def test_the_loop_is_never_more_than_two_steps_ahead(monkeypatch):
    waited, made = [], itertools.count(1)
    monkeypatch.setattr(loop.jax, "block_until_ready", lambda metrics: waited.append(int(metrics["number"])))
    monkeypatch.setattr(loop.train, "compiled", lambda step, state: lambda state, batch, key: (
        state, {"number": next(made)}))
    state = train.State(jnp.int32(0), {}, {}, ())
    ahead = []
    loop.fit(print, state, lambda start: itertools.repeat({}), FIT, steps=7,
             hooks=[lambda step, *_: ahead.append(step - len(waited))])
    assert max(ahead) == 2 and waited == [1, 2, 3, 4, 5]


def test_losses_are_those_of_one_device_on_any_mesh_again_and_again(run_python):
    """The shape of the mesh is not part of the experiment; a loop that ran ahead would deadlock here."""
    run_python("""
        import jax, numpy as np, optax
        from jaxdiff import data, loop, mesh, networks, objective, parameterization, process, train
        flow, kind = process.RectifiedFlow(), parameterization.velocity()
        loss = objective.denoising(networks.MLP(width=16, depth=1), flow, kind)
        optimizer, source = optax.adam(1e-3), data.mixture()
        init_key, fit_key = jax.random.split(jax.random.key(0))

        def losses(on, rules=()):
            rows = mesh.rows(on, 32)
            batches = data.batches(source, batch=32, rows=rows)
            seen = []
            state = train.init(loss, optimizer, next(batches(0)), init_key, mesh=on, rules=rules)
            state, _ = loop.fit(train.make_step(loss, optimizer), state, batches, fit_key, steps=40,
                                hooks=[lambda step, state, metrics: seen.append(metrics["loss"])],
                                put=lambda batch: mesh.put(on, batch))
            return np.array([float(value) for value in seen]), state

        alone, _ = losses(mesh.make_mesh(devices=jax.devices()[:1]))
        for _ in range(3):
            np.testing.assert_allclose(losses(mesh.make_mesh())[0], alone, rtol=1e-5)
        split, state = losses(mesh.make_mesh(data=2, fsdp=4), rules=(("hidden0/kernel", (None, "fsdp")),))
        np.testing.assert_allclose(split, alone, rtol=1e-5)
        for tree in (state.params, state.ema["decay_0.999"], state.opt_state[0].mu):  # and it stays where it was put
            assert tree["params"]["hidden0"]["kernel"].sharding.spec == jax.P(None, "fsdp")
    """, devices=8)


def test_pmap_on_a_replicated_batch_gives_the_losses_of_one_device(run_python):
    run_python("""
        import jax, numpy as np, optax
        from jaxdiff import data, networks, objective, parameterization, process, train
        flow, kind = process.RectifiedFlow(), parameterization.velocity()
        loss = objective.denoising(networks.MLP(width=16, depth=1), flow, kind)
        optimizer = optax.adam(1e-3)
        batches = data.batches(data.mixture(), batch=32)
        key = jax.random.key(1)
        state = train.init(loss, optimizer, next(batches(0)), jax.random.key(0))
        alone, spread = jax.jit(train.make_step(loss, optimizer)), jax.pmap(
            train.make_step(loss, optimizer, axis_name="data"), axis_name="data", in_axes=(0, None, None))
        many = jax.tree.map(lambda a: np.broadcast_to(a, (4, *a.shape)), state)
        for batch, _ in zip(batches(0), range(3)):
            state, one = alone(state, batch, key)
            many, four = spread(many, batch, key)
            np.testing.assert_allclose(four["loss"], np.full(4, one["loss"]), rtol=1e-5)
    """, devices=4)
