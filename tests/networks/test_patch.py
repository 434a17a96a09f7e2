"""The discriminator has the published size, and each of its logits sees a patch of the published size."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import networks
from jaxdiff.networks import patch

X = jax.random.normal(jax.random.key(0), (2, 24, 32, 3))
FAST = {"xla_backend_optimization_level": 0}


def made(x=X, **options):
    network = networks.PatchDiscriminator(**{"channels": 8, **options})
    return network, jax.jit(network.init, compiler_options=FAST)(jax.random.key(1), x)


def test_it_has_as_many_parameters_as_published():
    """pix2pix prints "[Network D] Total number of parameters : 2.769 M" for image and condition, 6 channels."""
    network = networks.PatchDiscriminator()
    x = jnp.zeros((1, 256, 256, 6))
    params = jax.eval_shape(network.init, jax.random.key(0), x)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 2_768_705
    assert jax.eval_shape(network.apply, params, x).shape == (1, 30, 30)  # as there


@pytest.mark.parametrize(("layers", "seen"), [(1, 16), (2, 34), (3, 70)])
def test_a_logit_sees_a_patch(layers, seen):
    """16, 34 and 70 pixels: Isola et al. 2017, appendix 6.1.2."""
    size = 96
    network, params = made(jnp.zeros((1, size, size, 1)), layers=layers, norm="none", channels=2)
    centre = size // 2**layers // 2 - 1
    gradient = jax.grad(lambda x: network.apply(params, x)[0, centre, centre])(jnp.ones((1, size, size, 1)))
    for axis in (1, 2):
        touched = np.flatnonzero(np.any(np.asarray(gradient), axis=tuple({0, 1, 2, 3} - {axis})))
        assert len(touched) == touched[-1] - touched[0] + 1 == seen


@pytest.mark.parametrize("norm", ["group", "instance", "none"])
def test_each_image_is_judged_by_itself(norm):
    network, params = made(norm=norm, layers=2)
    run = jax.jit(network.apply, compiler_options=FAST)
    logits = run(params, X)
    assert logits.shape == (2, 4, 6)
    np.testing.assert_allclose(run(params, X[1:]), logits[1:], rtol=0, atol=1e-5)
    assert ("norm1" in params["params"]) == (norm != "none")
    assert ("bias" in params["params"]["conv1"]) == (norm == "none")


def test_an_instance_norm_takes_each_channel_apart():
    def normalized(norm):
        network, params = made(norm=norm, layers=1, channels=32)
        _, seen = network.apply(params, X, capture_intermediates=True)
        return seen["intermediates"]["norm1"]["__call__"][0].reshape(2, -1, 32, 2)

    np.testing.assert_allclose(normalized("instance").mean(1), 0, atol=1e-5)
    groups = normalized("group")  # 32 of 2 channels
    np.testing.assert_allclose(groups.mean((1, 3)), 0, atol=1e-5)
    assert np.abs(groups.mean(1)).max() > 1e-3


def test_kernels_start_as_published():
    _, params = made(channels=32)
    for name, layer in params["params"].items():
        if "kernel" in layer:
            assert float(layer["kernel"].std()) == pytest.approx(0.02, rel=5 / np.sqrt(2 * layer["kernel"].size)), name
        if "bias" in layer:
            assert not np.any(layer["bias"])


def test_bfloat16_is_close_and_only_inside():
    network, params = made(norm="group")
    half = network.clone(dtype="bfloat16")
    want, got = (jax.jit(n.apply, compiler_options=FAST)(params, X) for n in (network, half))
    assert got.dtype == want.dtype == jnp.float32
    assert 0 < jnp.abs(got - want).max() < 0.2 * jnp.abs(want).max()
    text = str(jax.make_jaxpr(half.apply)(params, X))
    assert re.findall(r"(\w+)\[[\d,]+\] = conv_general_dilated", text) == ["bf16"] * 4 + ["f32"]


@pytest.mark.parametrize(("options", "shape", "message"), [
    ({}, (1, 23, 24, 3), "of 24 pixels or more, got"),
    ({"layers": 0}, (), "at least once, got layers=0"),
    ({"norm": "batch"}, (), "no norm 'batch'; it may be group or instance or none"),
    ({"dtype": "float16"}, (), "no dtype 'float16'"),
])
def test_errors(options, shape, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(patch.PatchDiscriminator(**options).init, jax.random.key(0), jnp.zeros(shape))
