"""A rule says what it means or is refused in one line that names the nearest right one; copies may be cut further."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import ShapeDtypeStruct as Shape
from jax.sharding import Mesh

from jaxdiff import mesh, networks, objective, parameterization, process, train

PARAMS = {"params": {"blocks": {"qkv": {"kernel": jnp.zeros((2, 6, 8))}, "out": {"bias": jnp.zeros((2, 6))}},
                     "head": {"kernel": jnp.zeros((6, 8))}}}
STACKS = {"params": {"blocks": {"qkv": {"kernel": True}, "out": {"bias": True}}, "head": {"kernel": False}}}


class Device(NamedTuple):
    """A mesh of these is looked at and not used."""

    id: int


WIDE = Mesh(np.fromiter(map(Device, range(32)), object).reshape(4, 4, 2), mesh.AXES)


@pytest.mark.parametrize(("rules", "words"), [
    ((("block/kqv/kernel", (None, "fsdp")),), "'block/kqv/kernel' decides no parameter; did you mean 'blocks/qkv/kern"),
    ((("blocks/.*qvk/kernel", (None, "fsdp")),), "decides no parameter; did you mean 'blocks/qkv/kernel'"),
    ((("zzz", (None, "fsdp")),), "'zzz' decides no parameter; paths are such as params/blocks/out/bias, "),
    ((("kernel", ()), ("head", ())), "'head' decides no parameter: a rule before it decides params/head/kernel"),
    ((("head", ("fdsp",)),), "head/kernel: no axis 'fdsp'; did you mean 'fsdp'"),
    ((("head", ("model",)),), "no axis 'model'; it may be data, fsdp, tensor"),
    ((("head", (None, "fsdp", None)),), r"has more axes than params/head/kernel \(6, 8\)"),
    ((("head", "fsdp"),), r"sharding rule 'fsdp' of params/head/kernel: a spec is a tuple, such as \(None, 'fsdp'\)"),
    ((("head", ("tensor", "tensor")),), "names 'tensor' twice"),
    ((("head", ("fsdp",)),), r"6 of params/head/kernel \(6, 8\) does not divide over 4 devices; axis 1 does"),
    ((("head", (None, ("data", "fsdp"))),), "does not divide over 16 devices; no axis does"),
    ((("qkv", ("tensor",)),), r"blocks/qkv/kernel \(2, 6, 8\): axis 0 is a stack of 2 scanned blocks"),
    ((("qkv", (None, "fsdp")),), "6 of .* does not divide over 4 devices; axis 2 does"),
    ((("qkv(", ()),), r"'qkv\(' is no regular expression"),
])
def test_rules_that_cannot_be_meant_are_refused_in_one_line(rules, words):
    with pytest.raises(ValueError, match=words) as caught:
        mesh.specs(WIDE, PARAMS, rules, STACKS)
    assert "\n" not in str(caught.value)


NETWORKS = {  # the modules that are scanned, and where their parameters lie
    "DiT": (networks.DiT(width=16, heads=2, depth=2), ("blocks",)),
    "JiT": (networks.JiT(width=16, heads=2, depth=3, start=1, bottleneck=4, patch=2, num_classes=3), ("early", "late")),
    "UViT": (networks.UViT(width=16, heads=2, depth=3), ("first", "second")),
    "SongUNet": (networks.SongUNet(channels=8, mults=(1,), blocks=1, attention=()), ()),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_stack_is_known_from_how_it_is_made_and_a_rule_that_cuts_it_is_refused(name):
    network, stacked = NETWORKS[name]
    loss = objective.denoising(network, process.RectifiedFlow(), parameterization.velocity())
    cond = {"label": np.zeros(4, np.int32)} if name == "JiT" else None
    batch, on = {"x0": np.zeros((4, 4, 4, 1), np.float32), "cond": cond}, mesh.make_mesh(devices=jax.devices()[:1])
    shapes = lambda *rules: train.shapes(loss, optax.adam(1e-3), batch, mesh=on, rules=rules)
    tops = shapes().params["params"]
    for top, tree in tops.items():
        path = jax.tree_util.tree_leaves_with_path(tree)[0][0]
        leaf = jax.tree_util.keystr(path, simple=True, separator="/")
        rule = (f"params/{top}/{leaf}".rstrip("/") + "$", ("fsdp",))
        if top in stacked:
            with pytest.raises(ValueError, match="is a stack of . scanned blocks"):
                shapes(rule)
        else:
            shapes(rule)
    assert set(stacked) <= set(tops)


def test_what_zero_cuts_is_the_longest_axis_that_is_free_and_never_a_stacks_first(run_python):
    run_python("""
        import jax, jax.numpy as jnp
        from jax.sharding import PartitionSpec as P
        from jaxdiff import mesh
        on = mesh.make_mesh(data=4, fsdp=2)
        params = {"plain": jnp.zeros((4, 8)), "ruled": jnp.zeros((4, 8)), "stack": jnp.zeros((64, 3, 4)),
                  "odd": jnp.zeros((3, 5)), "scalar": jnp.zeros(()), "taken": jnp.zeros((8, 4))}
        stacks = {name: name == "stack" for name in params}
        lies = mesh.specs(on, params, (("ruled", (None, "fsdp")), ("taken", (("data", "fsdp"),))), stacks)
        found = {name: lie.spec for name, lie in mesh.spread(on, params, lies, stacks).items()}
        assert found == {"plain": P(None, "data"), "ruled": P("data", "fsdp"), "stack": P(None, None, "data"),
                         "odd": P(), "scalar": P(), "taken": P(("data", "fsdp"))}, found
        assert mesh.spread(mesh.make_mesh(data=1, fsdp=8), params, lies, stacks) == lies
    """)


def test_the_overview_says_what_a_device_holds(run_python):
    out = run_python("""
        import jax, optax
        from mesh.sharded import BATCH, DIT, EMA, RULES, on_mesh
        from jaxdiff import mesh, train
        print(mesh.overview(train.shapes(DIT, optax.adam(1e-3), BATCH, mesh=on_mesh((2, 4, 1)), rules=RULES["DiT"],
                                         zero=True, ema=EMA)))
    """)
    lines = out.splitlines()
    assert lines[0].split() == ["parameter", "shape", "spec", "a", "device"]
    (qkv,) = [line for line in lines if "qkv/kernel" in line]
    assert qkv.split("  ")[0] == "params/blocks/attention/qkv/kernel"
    assert "2 x 16 x 3 x 2 x 8" in qkv and "(-, fsdp)" in qkv and qkv.endswith("1.5 KiB")  # 1,536 numbers in 4 parts
    totals = dict(line.split(": ") for line in lines[-4:])
    assert list(totals) == ["parameters", "averages (decay_0.9, power_0.1)", "optimizer", "in all"]
    numbers = {name: int(text.split(" ")[0].replace(",", "")) for name, text in totals.items()}
    parameters = numbers["parameters"]
    assert numbers["averages (decay_0.9, power_0.1)"] == 2 * parameters
    assert numbers["optimizer"] == 2 * parameters + 1  # two moments and a count
    assert numbers["in all"] == 5 * parameters + 1


TRAINED = {  # network -> (x, condition)
    "MLP": (networks.MLP(width=16), (2,), None),
    "DiT": (networks.DiT(width=16, heads=2, depth=1), (4, 4, 1), None),
    "JiT": (NETWORKS["JiT"][0], (4, 4, 1), {"label": Shape((3,), "int32")}),
    "UViT": (NETWORKS["UViT"][0], (4, 4, 1), None),
    "MMDiT": (networks.MMDiT(width=16, heads=2, depth=2), (4, 4, 1),
              {"text": Shape((3, 5, 8), "float32"), "pooled": Shape((3, 8), "float32")}),
    "SongUNet": (NETWORKS["SongUNet"][0], (4, 4, 1), None),
    "ADM": (networks.ADM(channels=32, mults=(1,), blocks=1, attention=()), (4, 4, 1), None),
    "EDM2": (networks.EDM2(channels=8, mults=(1,), blocks=1, attention=()), (4, 4, 1), None),
    "StableUNet": (networks.StableUNet(channels=32, mults=(1,), transformers=(1,), blocks=1), (4, 4, 4),
                   {"text": Shape((3, 5, 8), "float32")}),
}
ELSEWHERE = {  # by their own arguments
    "Autoencoder": (networks.Autoencoder(channels=32, mults=(1,), blocks=1), [Shape((3, 8, 8, 3), "float32")]),
    "PatchDiscriminator": (networks.PatchDiscriminator(channels=8), [Shape((3, 32, 32, 3), "float32")]),
    "TextTransformer": (networks.TextTransformer(length=4, width=8, depth=1, heads=2),
                        [Shape((3, 4), "int32"), Shape((3, 4), "bool")]),
}


@pytest.mark.parametrize("name", [*TRAINED, *ELSEWHERE])
def test_every_network_says_where_its_batch_lies(name):
    """Without it a sharded network moves activations where it should move weights (DiT-XL/2: five times as much)."""
    if name in TRAINED:
        network, shape, cond = TRAINED[name]
        given = [Shape((3, *shape), "float32"), Shape((3,), "float32"), cond]
    else:
        network, given = ELSEWHERE[name]
    params = jax.eval_shape(network.init, jax.random.key(0), *given)
    with jax.set_mesh(mesh.make_mesh(devices=jax.devices()[:1])):
        traced = str(jax.make_jaxpr(network.apply)(params, *given))
    assert "sharding_constraint" in traced


def test_every_network_is_looked_at():
    inside = {"Conditioned"}  # a network around two of these
    assert {*TRAINED, *ELSEWHERE, *inside} == {name for name in networks.__all__ if callable(getattr(networks, name))}
