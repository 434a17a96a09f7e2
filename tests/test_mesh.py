"""Where arrays lie: rows of a batch, rules of parameters."""

import jax
import jax.numpy as jnp
import pytest

from jaxdiff import mesh


def test_one_device_is_a_mesh_of_one():
    on = mesh.make_mesh(devices=jax.devices()[:1])
    assert dict(on.shape) == {"data": 1, "fsdp": 1, "tensor": 1}
    assert mesh.rows(on, 5) == (0, 1, 2, 3, 4)


def test_sizes_that_do_not_cover_the_devices_are_named():
    with pytest.raises(ValueError, match="mesh data 2 x fsdp 1 x tensor 1 does not cover 1 devices"):
        mesh.make_mesh(data=2, devices=jax.devices()[:1])
    with pytest.raises(ValueError, match="at most one is -1"):
        mesh.make_mesh(data=-1, fsdp=-1)
    with pytest.raises(ValueError, match="sizes are at least 1"):
        mesh.make_mesh(data=0)


def test_a_rule_that_decides_nothing_is_an_error():
    params = {"a": {"kernel": jnp.zeros((4, 4))}}
    with pytest.raises(ValueError, match="'b/kernel' decides no parameter"):
        mesh.specs(mesh.make_mesh(), params, (("a/kernel", (None, "fsdp")), ("b/kernel", ("fsdp",))))


def test_a_rule_of_an_unknown_axis_or_too_many_axes_is_an_error():
    params = {"kernel": jnp.zeros((4, 4))}
    with pytest.raises(ValueError, match="no axis 'model'; it may be data, fsdp, tensor"):
        mesh.specs(mesh.make_mesh(), params, (("kernel", ("model",)),))
    with pytest.raises(ValueError, match="has more axes than kernel"):
        mesh.specs(mesh.make_mesh(), params, (("kernel", (None, None, "fsdp")),))


def test_on_eight_devices_rows_batches_and_rules_land_where_they_should(run_python):
    run_python("""
        import jax, jax.numpy as jnp, numpy as np, optax, pytest
        from jax.sharding import NamedSharding, PartitionSpec as P
        from jaxdiff import mesh

        on = mesh.make_mesh(data=2, fsdp=2, tensor=2)
        assert dict(on.shape) == {"data": 2, "fsdp": 2, "tensor": 2}
        assert dict(mesh.make_mesh(fsdp=4).shape) == {"data": 2, "fsdp": 4, "tensor": 1}
        assert all(kind == jax.sharding.AxisType.Auto for kind in on.axis_types)
        with pytest.raises(ValueError, match="batch of 10 does not divide over 4 devices .* near it are 8 and 12"):
            mesh.rows(on, 10)

        batch = {"image": np.arange(8 * 3).reshape(8, 3).astype(np.uint8), "label": np.arange(8, dtype=np.int32)}
        put = mesh.put(on, {name: value[list(mesh.rows(on, 8))] for name, value in batch.items()})
        for name in batch:
            assert put[name].sharding.spec == P(("data", "fsdp"))
            np.testing.assert_array_equal(put[name], batch[name])

        params = {"block": {"kernel": jnp.zeros((6, 8)), "bias": jnp.zeros(8)}, "out": {"kernel": jnp.zeros((8, 6))}}
        rules = (("block/kernel", (None, ("fsdp", "tensor"))), ("kernel", ("fsdp", None)))
        lies = mesh.specs(on, params, rules)
        assert lies["block"]["kernel"].spec == P(None, ("fsdp", "tensor"))
        assert lies["out"]["kernel"].spec == P("fsdp", None)  # the first match decides
        assert lies["block"]["bias"].spec == P()
        with pytest.raises(ValueError, match=r"6 of block/kernel \\(6, 8\\) does not divide over 4 devices"):
            mesh.specs(on, params, (("block/kernel", (("fsdp", "tensor"),)),))

        placed = jax.device_put(params, lies)
        for optimizer in (optax.adam(1e-3), optax.chain(optax.clip_by_global_norm(1.0), optax.lion(1e-3)),
                          optax.sgd(1e-3, momentum=0.9)):
            state = jax.eval_shape(optimizer.init, params)
            follow = jax.tree_util.tree_leaves_with_path(mesh.follow(on, state, params, lies))
            moments = [s for path, s in follow if "block" in str(path) and "kernel" in str(path)]
            assert moments and all(s.spec == P(None, ("fsdp", "tensor")) for s in moments)

        lines = {path: (spec, size) for path, _, spec, size in mesh.table(placed)}
        assert lines["block/kernel"][1] == 6 * 8 * 4 // 4 and lines["block/bias"][1] == 32
    """, devices=8)
