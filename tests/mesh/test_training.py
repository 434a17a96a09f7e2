"""Training on any mesh is training on one device: the losses, the place of the state, one compile, less memory."""

import pytest

# Little for LLVM to do, since these programs run three steps; and one collective after the other, since eight devices
# that wait for one another in two collectives at once can use up the threads of two cores.
FAST = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
                     "--xla_cpu_enable_concurrency_optimized_scheduler=false"}


@pytest.mark.parametrize("name", ["DiT", "SongUNet"])
def test_losses_are_those_of_one_device_on_every_mesh_with_and_without_zero(name, run_python):
    run_python(f"""
        import jax, numpy as np
        from mesh.sharded import Runs, SHAPES, on_mesh, shardings
        runs = Runs({name!r})
        alone, final, _ = runs.run(on_mesh((1, 1, 1)))
        for shape in SHAPES:
            on = on_mesh(shape)
            cut = {{}}
            for zero in (False, True):
                if zero and shape[0] == 1:  # nothing to spread over: the same program
                    assert shardings(runs.state(on, True)) == shardings(runs.state(on, False))
                    continue
                losses, state, cut[zero] = runs.run(on, zero)
                np.testing.assert_allclose(losses, alone, rtol=1e-5)
                assert shardings(state) == shardings(runs.state(on, zero))
                for a, b in zip(*map(jax.tree.leaves, (state.ema, final.ema)), strict=True):
                    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
            if shape == (8, 1, 1):  # two averages and two moments of five float32 copies are cut by 8
                held = [cut[zero].argument_size_in_bytes for zero in (False, True)]
                print(held, [cut[zero].temp_size_in_bytes for zero in (False, True)])
                assert held[1] < (1 / 5 + 4 / 5 / 8 + 0.15) * held[0]
    """, env=FAST)


def test_pmap_on_a_replicated_batch_is_one_device(run_python):
    run_python("""
        import jax, numpy as np, optax
        from jaxdiff import train
        from mesh.sharded import BATCH, DIT, EMA, KEY, Runs
        runs = Runs("DiT")
        alone = jax.jit(runs.step)
        spread = jax.pmap(train.make_step(DIT, runs.optimizer, ema=EMA, axis_name="data"), axis_name="data",
                          in_axes=(0, None, None))
        one, many = runs.start, jax.tree.map(lambda a: np.broadcast_to(a, (8, *np.shape(a))), runs.start)
        for _ in range(3):
            one, expected = alone(one, BATCH, KEY)
            many, metrics = spread(many, BATCH, KEY)
            np.testing.assert_allclose(metrics["loss"], np.full(8, expected["loss"]), rtol=1e-5)
    """, env=FAST)


def test_six_optimizers_compile_once_stay_where_they_were_put_and_give_their_buffers_away(run_python):
    """EDM2's schedule with its projection is the sixth; with and without ZeRO in turn."""
    run_python("""
        import jax, optax
        from configs.parents import rates
        from jaxdiff import build, mesh, train
        from mesh.sharded import KEY, Runs, on_mesh, shardings

        edm2 = optax.chain(optax.adam(rates.inverse_root(peak=1e-2, rise=2, hold=4), b2=0.99), train.project("kernel"))
        named = [{"name": "adam"}, {"name": "adamw"}, {"name": "lion"}, {"name": "optax.contrib:muon"},
                 {"name": "adafactor", "min_dim_size_to_factor": 8}]
        made = [build.build(spec | {"learning_rate": 1e-3}, optax) for spec in named]
        on = on_mesh((2, 4, 1))
        for number, optimizer in enumerate([*made, optax.sgd(1e-2, momentum=0.9), edm2]):
            runs = Runs("MLP", optimizer)
            state = runs.state(on, zero=bool(number % 2))
            before, batch = shardings(state), mesh.put(on, runs.batch)
            key = jax.device_put(KEY, mesh.replicated(on))
            step = train.compiled(runs.step, state)
            with jax.set_mesh(on):
                for _ in range(3):
                    old = state
                    state, metrics = jax.block_until_ready(step(state, batch, key))
                    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old))
            assert metrics["skipped"] == 0
            assert step._cache_size() == 1
            assert shardings(state) == before
    """, env=FAST)
