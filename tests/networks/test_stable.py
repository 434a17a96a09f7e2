"""Stable Diffusion's UNet: the published count, images of any size, text under a mask."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import networks

TINY = dict(channels=64, mults=(1, 1), blocks=1, transformers=(1, 0), heads=2)
X = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
C_NOISE = jnp.array([3.0, 400.0])
TEXT = jax.random.normal(jax.random.key(1), (2, 5, 6))
MASK = jnp.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]], bool)

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # compiles in less time


def shapes(module, *inputs):
    return jax.eval_shape(module.init, jax.random.key(0), *inputs)


def random(tree):
    """Parameters of one size everywhere: at the start the network is zero, and a test would see nothing."""
    rng = np.random.default_rng(0)
    scale = lambda path: float(path[-1].key == "scale")
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.asarray(scale(path) + 0.1 * rng.standard_normal(leaf.shape), leaf.dtype), tree)


NETWORK = networks.StableUNet(**TINY)
PARAMS = random(shapes(NETWORK, X, C_NOISE, {"text": TEXT}))
APPLY = jit(NETWORK.apply)


def test_it_has_as_many_parameters_as_published():
    """Stable Diffusion 1.5: 859.5 million; its VAE and its text encoder are networks of their own."""
    params = shapes(networks.StableUNet(), jnp.zeros((1, 64, 64, 4)), jnp.zeros(1), {"text": jnp.zeros((1, 77, 768))})
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 859_520_964


def test_names_do_not_follow_the_size_of_the_image():
    tall = shapes(NETWORK, jnp.zeros((1, 8, 6, 3)), jnp.zeros(1), {"text": TEXT[:1]})
    assert jax.tree.structure(tall) == jax.tree.structure(PARAMS)
    assert set(PARAMS["params"]) == {
        "enc_0_conv", "enc_0_block0", "enc_0_block0_transformer", "enc_1_down", "enc_1_block0", "dec_1_in0",
        "dec_1_in0_transformer", "dec_1_in1", "dec_1_block0", "dec_1_block1", "dec_0_up", "dec_0_block0",
        "dec_0_block0_transformer", "dec_0_block1", "dec_0_block1_transformer", "map_layer0", "map_layer1", "out_norm",
        "out_conv",
    }
    block = PARAMS["params"]["enc_0_block0_transformer"]["block0"]
    assert set(block) == {"norm0", "self", "norm1", "cross", "norm2", "mlp0", "mlp1"}
    assert block["cross"]["kv"]["kernel"].shape == (6, 2, 2, 32)
    sixty_four = networks.StableUNet(**{**TINY, "channels": 128, "heads": 0})
    params = shapes(sixty_four, X, C_NOISE, {"text": TEXT})["params"]
    assert params["dec_1_in0_transformer"]["block0"]["self"]["qkv"]["kernel"].shape == (128, 3, 2, 64)


def test_masked_tokens_are_not_seen():
    want = APPLY(PARAMS, X, C_NOISE, {"text": TEXT, "mask": MASK})
    changed = TEXT.at[1, 2:].set(9.0)
    np.testing.assert_array_equal(APPLY(PARAMS, X, C_NOISE, {"text": changed, "mask": MASK}), want)
    assert jnp.abs(APPLY(PARAMS, X, C_NOISE, {"text": TEXT.at[1, 1].set(9.0), "mask": MASK})[1] - want[1]).max() > 0.01
    whole = APPLY(PARAMS, X, C_NOISE, {"text": TEXT, "mask": jnp.ones_like(MASK)})
    np.testing.assert_allclose(whole[0], want[0], atol=1e-5)
    none = {"text": jnp.zeros_like(TEXT), "mask": jnp.zeros_like(MASK)}  # the null condition: no token at all
    assert jnp.isfinite(APPLY(PARAMS, X, C_NOISE, none)).all()


def test_bfloat16_is_close_and_only_inside_and_every_parameter_gets_a_gradient():
    network = networks.StableUNet(**{**TINY, "mults": (1,), "transformers": (1,)})  # half of the blocks to compile
    cond = {"text": TEXT, "mask": MASK}
    params = random(shapes(network, X, C_NOISE, cond))
    loss = lambda params: (lambda y: ((y**2).mean(), y))(network.apply(params, X, C_NOISE, cond))
    (_, want), gradient = jit(jax.value_and_grad(loss, has_aux=True))(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(gradient)):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 1e-7, path
    half = network.clone(dtype="bfloat16")
    got = jit(half.apply)(params, X, C_NOISE, cond)
    assert got.dtype == want.dtype == jnp.float32
    assert 1e-5 * want.std() < jnp.abs(got - want).max() < 0.1 * want.std()
    text = str(jax.make_jaxpr(half.apply)(params, X, C_NOISE, cond))
    convolutions = re.findall(r"(\w+)\[[\d,]+\] = conv_general_dilated", text)
    assert set(convolutions[:-1]) == {"bf16"}
    assert convolutions[-1] == "f32"
    assert not re.search(r"bf16\[[\d,]*\] = (exp|rsqrt|sin|cos|reduce_sum|reduce_max)\b", text)


@pytest.mark.parametrize(("options", "shape", "cond", "message"), [
    ({}, (1, 4, 5, 3), {}, r"sizes that are multiples of 2, got \(1, 4, 5, 3\)"),
    ({}, (1, 4, 4, 3), {}, r"reads 'text' .* got none"),
    ({}, (1, 4, 4, 3), {"text": 0, "label": 0}, "got label, text"),
    ({"dtype": "float16"}, (), {}, "StableUNet has no dtype 'float16'; it may be float32 or bfloat16"),
    ({"transformers": (1,)}, (), {}, r"a number for each level, got \(1,\) and \(1, 1\)"),
    ({"dropout": 1.0}, (), {}, r"dropout must lie in \[0, 1\), got 1.0"),
])
def test_errors(options, shape, cond, message):
    with pytest.raises(ValueError, match=message):
        shapes(networks.StableUNet(**{**TINY, **options}), jnp.zeros(shape), jnp.zeros(1), cond)
