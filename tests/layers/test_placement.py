"""`batched` splits the batch on a mesh with both axes, and is nothing anywhere else."""

import jax
import jax.numpy as jnp

from jaxdiff import layers


def test_without_a_mesh_it_is_the_identity():
    x = jnp.ones((3, 2))
    assert layers.batched(x) is x
    assert "sharding_constraint" not in str(jax.make_jaxpr(layers.batched)(x))


def test_where_it_splits_and_where_it_does_not(run_python):
    run_python("""
        import jax, jax.numpy as jnp, numpy as np
        from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
        from jaxdiff import layers

        def on(shape, names, kind=AxisType.Auto):
            return Mesh(np.array(jax.devices()).reshape(shape), names, axis_types=(kind,) * len(names))

        def constrained(x):
            return "sharding_constraint" in str(jax.make_jaxpr(layers.batched)(x))

        three = on((2, 2, 2), ("data", "fsdp", "tensor"))
        x = jnp.arange(24.0).reshape(8, 3)
        with jax.set_mesh(three):
            y = jax.jit(layers.batched)(x)
            assert y.sharding.shard_shape(y.shape)[0] == 2
            np.testing.assert_array_equal(y, x)
            np.testing.assert_array_equal(layers.batched(x), x)                     # outside jit
            np.testing.assert_array_equal(jax.jit(jax.vmap(layers.batched))(x[None]), x[None])
            np.testing.assert_array_equal(jax.grad(lambda x: (layers.batched(x) ** 2).sum())(x), 2 * x)
            assert constrained(x) and not constrained(x[:3])                        # 3 rows do not divide
            inside = jax.shard_map(lambda x: x * (1 - constrained(x)), in_specs=P(("data", "fsdp")),
                                   out_specs=P(("data", "fsdp")))                   # manual axes
            np.testing.assert_array_equal(jax.jit(inside)(x), x)
        with jax.set_mesh(on((4, 2), ("data", "fsdp"))):                            # another mesh, another trace
            assert jax.jit(layers.batched)(x).sharding.shard_shape(x.shape)[0] == 1
        for mesh in (on((8,), ("data",)), on((4, 2), ("data", "fsdp"), AxisType.Explicit)):
            with jax.set_mesh(mesh):
                assert not constrained(x)
        y = jax.pmap(layers.batched, axis_name="data")(x)
        np.testing.assert_array_equal(y, x)
    """)
