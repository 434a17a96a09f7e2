"""ADM in both layouts: published counts, the rows of a learned variance, heads at every resolution."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import networks

TINY = dict(channels=16, mults=(1,), blocks=1, attention=(4,), head_channels=8, dropout=0.0)
X = jax.random.normal(jax.random.key(0), (4, 4, 4, 3))
C_NOISE = jnp.array([-1.5, -0.2, 0.4, 1.1])

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # compiles in less time


def shapes(module, *inputs):
    return jax.eval_shape(module.init, jax.random.key(0), *inputs)


def random(tree):
    """Parameters of one size everywhere: at the start the network is zero, and a test would see nothing."""
    rng = np.random.default_rng(0)
    scale = lambda path: float(path[-1].key == "scale")
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.asarray(scale(path) + 0.2 * rng.standard_normal(leaf.shape), leaf.dtype), tree)


@pytest.mark.parametrize(("options", "exact"), [
    (dict(), 295_899_267), (dict(layout="openai", learned_variance=True), 295_904_454),
])
def test_it_has_as_many_parameters_as_published(options, exact):
    """Dhariwal & Nichol 2021, table 4: 296 million for ImageNet 64; the layouts differ by the rows of the variance."""
    network = networks.ADM(num_classes=1000, **options)
    params = shapes(network, jnp.zeros((1, 64, 64, 3)), jnp.zeros(1), {"label": jnp.zeros(1, int)})
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == exact
    assert round(exact / 1e6) == 296


def test_names_and_shapes():
    network = networks.ADM(channels=128, mults=(1, 2), blocks=1, attention=(2,), num_classes=5, augment=9)
    cond = {"label": jnp.arange(4)}
    params = shapes(network, X, C_NOISE, cond)["params"]
    assert set(params) == {
        "enc_4x4_conv", "enc_4x4_block0", "enc_2x2_down", "enc_2x2_block0", "dec_2x2_in0", "dec_2x2_in1",
        "dec_2x2_block0", "dec_2x2_block1", "dec_4x4_up", "dec_4x4_block0", "dec_4x4_block1", "map_label",
        "map_layer0", "map_layer1", "map_augment", "out_norm", "out_conv",
    }
    # Every block attends at its resolutions, one head for 64 channels; to resample costs no convolution.
    assert set(params["dec_2x2_block0"]) == {"norm0", "conv0", "affine", "norm1", "conv1", "skip", "norm2", "attn"}
    assert params["dec_2x2_block0"]["attn"]["qkv"]["kernel"].shape == (256, 3, 4, 64)
    assert set(params["enc_2x2_down"]) == set(params["dec_4x4_up"]) == {"norm0", "conv0", "affine", "norm1", "conv1"}
    assert params["dec_4x4_up"]["affine"]["kernel"].shape == (512, 2 * 256)
    four = networks.ADM(channels=32, mults=(0.5, 1), blocks=1, attention=(4,), heads=4)
    params = shapes(four, X, C_NOISE)["params"]
    assert params["enc_4x4_block0"]["attn"]["qkv"]["kernel"].shape == (16, 3, 4, 4)
    assert params["enc_4x4_conv"]["kernel"].shape == (3, 3, 3, 16)


def test_the_rows_of_the_variance_come_last_and_on_request():
    learns, plain = networks.ADM(**TINY, learned_variance=True), networks.ADM(**TINY)
    params = random(shapes(learns, X, C_NOISE))
    half = jit(learns.apply)(params, X, C_NOISE)
    both = jit(lambda params: learns.apply(params, X, C_NOISE, variance=True))(params)
    assert (half.shape, both.shape) == ((4, 4, 4, 3), (4, 4, 4, 6))
    np.testing.assert_allclose(both[..., :3], half, atol=1e-5)
    assert jnp.abs(both[..., 3:] - half).max() > 0.1
    with pytest.raises(ValueError, match="a network with learned_variance=False has not"):
        plain.apply(params, X, C_NOISE, variance=True)
    assert jax.eval_shape(networks.ADM(**TINY, learned_variance=True, out_channels=1).init_with_output,
                          jax.random.key(0), X, C_NOISE)[0].shape == (4, 4, 4, 1)


def test_openais_layout_has_no_null_class():
    """In EDM's, label `num_classes` is the zero vector; in OpenAI's it is NaN, as for any row that is not there."""
    for layout in ("edm", "openai"):
        network, cond = networks.ADM(**TINY, num_classes=3, layout=layout), {"label": jnp.array([0, 1, 2, 3])}
        params = random(shapes(network, X, C_NOISE, cond))
        finite = jnp.isfinite(jit(network.apply)(params, X, C_NOISE, cond)).all((1, 2, 3))
        assert finite.tolist() == [True, True, True, network.null_class]
        assert network.null_class == (layout == "edm")


def test_augmentation_starts_without_effect_and_is_zero_where_it_is_missing():
    network = networks.ADM(**TINY, augment=9)
    params = random(shapes(network, X, C_NOISE))
    apply = jit(network.apply)
    none, zero = apply(params, X, C_NOISE), apply(params, X, C_NOISE, {"augment": jnp.zeros((4, 9))})
    np.testing.assert_allclose(none, zero, atol=1e-6)
    assert jnp.abs(apply(params, X, C_NOISE, {"augment": jnp.ones((4, 9))}) - none).max() > 0.01
    start = jit(network.init)(jax.random.key(0), X, C_NOISE)
    assert (start["params"]["map_augment"]["kernel"] == 0).all()


def test_bfloat16_is_close_and_only_inside_and_every_parameter_gets_a_gradient():
    pair = [networks.ADM(**TINY, dtype=dtype) for dtype in ("float32", "bfloat16")]
    params = random(shapes(pair[0], X, C_NOISE))
    loss = lambda params: (lambda y: ((y**2).mean(), y))(pair[0].apply(params, X, C_NOISE))
    (_, want), gradient = jit(jax.value_and_grad(loss, has_aux=True))(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(gradient)):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 1e-6, path
    got = jit(pair[1].apply)(params, X, C_NOISE)
    assert got.dtype == want.dtype == jnp.float32
    assert 1e-5 * want.std() < jnp.abs(got - want).max() < 0.1 * want.std()
    text = str(jax.make_jaxpr(pair[1].apply)(params, X, C_NOISE))
    convolutions = re.findall(r"(\w+)\[[\d,]+\] = conv_general_dilated", text)
    assert set(convolutions[:-1]) == {"bf16"}
    assert convolutions[-1] == "f32"
    assert not re.search(r"bf16\[[\d,]*\] = (exp|rsqrt|sin|cos|reduce_sum|reduce_max)\b", text)


@pytest.mark.parametrize(("options", "shape", "message"), [
    ({"mults": (1, 2)}, (1, 7, 7, 3), "images of 7x7 cannot be halved 1 times"),
    ({}, (1, 8, 4, 3), r"ADM takes square images .* got \(1, 8, 4, 3\)"),
    ({"layout": "google"}, (), "ADM has no layout 'google'; it may be edm or openai"),
    ({"dropout": 1.0}, (), r"dropout must lie in \[0, 1\), got 1.0"),
    ({"channels": 10}, (), "multiple of 4, got 10"),
    ({"heads": 3}, (1, 4, 4, 3), "3 heads do not divide 16 channels"),
    ({"augment": 9}, (1, 4, 4, 3), r"'augment' is \[1, 9\] here, got \[1, 8\]"),
])
def test_errors(options, shape, message):
    cond = {"augment": jnp.zeros((1, 8))} if "augment" in options else None
    with pytest.raises(ValueError, match=message):
        shapes(networks.ADM(**{**TINY, **options}), jnp.zeros(shape), jnp.zeros(1), cond)
