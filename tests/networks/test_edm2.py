"""EDM2: the published counts, its equations in float64, and magnitudes that nothing in it changes."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import networks
from jaxdiff.networks import edm2, levels

TINY = dict(channels=16, mults=(1, 2), blocks=1, attention=(4,), head_channels=8, num_classes=3)
FLAT = dict(TINY, mults=(1,))  # half of the blocks to compile, on images of 4x4
X = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
C_NOISE = jnp.array([-1.5, -0.2, 0.4, 1.1])
COND = {"label": jnp.array([0, 1, 2, 3])}

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # compiles in less time


def shapes(module, *inputs):
    return jax.eval_shape(module.init, jax.random.key(0), *inputs)


def test_it_starts_with_unit_weights_and_no_gain():
    params = jit(networks.EDM2(**FLAT).init)(
        jax.random.key(1), X[:, :4, :4], C_NOISE, COND)["params"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(params)):
        if path[-1].key == "phases":
            assert leaf.min() >= 0 and 0.5 < leaf.max() < 1
        elif leaf.ndim:
            assert abs(np.square(leaf).mean() - 1) < 6 / leaf.size**0.5, path
        else:
            assert leaf == 0, path


def randomized(tree, gain=0.7, seed=0):
    """Weights of mean squares that differ, and gains that are not zero."""
    rng = np.random.default_rng(seed)
    draw = lambda path, leaf: gain if leaf.ndim == 0 else 1.7 * rng.standard_normal(leaf.shape)
    return jax.tree_util.tree_map_with_path(lambda path, leaf: jnp.asarray(draw(path, leaf), leaf.dtype), tree)


def count(network, depth):
    params = shapes(network, jnp.zeros((1, 64, 64, depth)), jnp.zeros(1), {"label": jnp.zeros(1, int)})
    return sum(leaf.size for path, leaf in jax.tree_util.tree_leaves_with_path(params)
               if path[-1].key not in ("freqs", "phases"))  # which are not trained


@pytest.mark.parametrize(("channels", "latents", "published"), [
    (128, 124_713_125, 125), (192, 280_212_709, 280), (256, 497_807_653, 498), (320, 777_497_957, 777),
    (384, 1_119_283_621, 1119), (448, 1_523_164_645, 1523),
])
def test_it_has_as_many_parameters_as_published(channels, latents, published):
    """Karras et al. 2024, table 2, in millions."""
    assert count(networks.EDM2(channels=channels, num_classes=1000), 4) == latents
    assert abs(latents / 1e6 - published) < 0.5


def test_pixels_take_the_weights_of_one_channel_less():
    """Table 3: 280 million of EDM2-S at 64 x 64 pixels."""
    assert count(networks.EDM2(num_classes=1000), 3) == 280_209_253 == 280_212_709 - 2 * 9 * 192


def test_names_and_shapes():
    params = shapes(networks.EDM2(**TINY), X, C_NOISE, COND)["params"]
    assert set(params) == {
        "emb_fourier", "emb_noise", "emb_label", "out_gain", "out_conv", "enc_8x8_conv", "enc_8x8_block0",
        "enc_4x4_down", "enc_4x4_block0", "dec_4x4_in0", "dec_4x4_in1", "dec_4x4_block0", "dec_4x4_block1",
        "dec_8x8_up", "dec_8x8_block0", "dec_8x8_block1",
    }
    assert set(params["dec_4x4_block1"]) == {"emb_gain", "conv_res0", "emb_linear", "conv_res1", "conv_skip",
                                             "attn_qkv", "attn_proj"}
    assert set(params["enc_4x4_down"]) == {"emb_gain", "conv_res0", "emb_linear", "conv_res1"}
    assert params["enc_4x4_block0"]["attn_qkv"]["weight"].shape == (32, 3, 4, 8)
    assert params["enc_4x4_block0"]["attn_proj"]["weight"].shape == (4, 8, 32)
    assert params["enc_8x8_conv"]["weight"].shape == (3, 3, 4, 16)  # three colours and a one


# The equations of appendix B in float64, channel by channel as the paper has them: [b, c, h, w] and [out, in, h, w].


def unit64(x, axes):
    return x / (1e-4 + np.sqrt((x**2).mean(axes, keepdims=True)))


def silu64(x):
    return x / (1 + np.exp(-np.maximum(x, -700))) / 0.596


def sum64(a, b, t):
    return ((1 - t) * a + t * b) / np.hypot(1 - t, t)


def conv64(weight, x):
    w = np.asarray(weight["weight"], np.float64).transpose(3, 2, 0, 1)
    w = unit64(w, (1, 2, 3)) / np.sqrt(w[0].size)
    pad = w.shape[-1] // 2
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, w.shape[2:], (2, 3))
    return np.einsum("bchwij,ocij->bohw", windows, w)


def attended64(p, x):
    b, c, h, w = x.shape
    qkv = np.asarray(p["attn_qkv"]["weight"], np.float64)  # [c, 3, heads, d]
    qkv = np.einsum("bcn,cphd->pbhdn", x.reshape(b, c, -1), unit64(qkv, 0) / np.sqrt(c))
    q, k, v = unit64(qkv, 3)  # [b, heads, d, n]
    logits = np.exp(np.einsum("bhdn,bhdm->bhnm", q, k) / np.sqrt(q.shape[2]))
    y = np.einsum("bhnm,bhdm->bhdn", logits / logits.sum(-1, keepdims=True), v).reshape(b, c, -1)
    proj = np.asarray(p["attn_proj"]["weight"], np.float64).reshape(c, -1)
    return np.einsum("bcn,co->bon", y, unit64(proj, 0) / np.sqrt(c)).reshape(b, -1, h, w)


def block64(p, x, emb, side, mode):
    if mode == "down":
        x = (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
    if mode == "up":
        x = x.repeat(2, 2).repeat(2, 3)
    if side == "enc":
        x = unit64(conv64(p["conv_skip"], x) if "conv_skip" in p else x, 1)
    linear = np.asarray(p["emb_linear"]["weight"], np.float64)
    scale = 1 + float(p["emb_gain"]) * emb @ (unit64(linear, 0) / np.sqrt(len(linear)))
    y = conv64(p["conv_res1"], silu64(conv64(p["conv_res0"], silu64(x)) * scale[:, :, None, None]))
    if side == "dec" and "conv_skip" in p:
        x = conv64(p["conv_skip"], x)
    x = sum64(x, y, 0.3)
    return np.clip(sum64(x, attended64(p, x), 0.3) if "attn_qkv" in p else x, -256, 256)


@pytest.mark.parametrize(("side", "mode", "channels", "size"), [
    ("enc", "keep", 24, 4), ("enc", "down", 16, 4), ("dec", "keep", 8, 4), ("dec", "up", 16, 4),
    ("dec", "keep", 16, 900),
])
def test_a_block_is_the_papers_equations(side, mode, channels, size, x64):
    """`size` 900 is past the clip at 256."""
    block = edm2.EDM2Block(levels.Block(f"{side}_4x4_block0", channels, mode, attention=True), head_channels=8,
                           dtype="float64")
    rng = np.random.default_rng(1)
    x, emb = size * rng.standard_normal((2, 4, 4, 16)), rng.standard_normal((2, 12))
    params = randomized(shapes(block, x, emb))
    got = jit(block.apply)(params, x, emb)
    want = block64(params["params"], x.transpose(0, 3, 1, 2), emb, side, mode).transpose(0, 2, 3, 1)
    assert (np.abs(want).max() == 256) == (size == 900)
    np.testing.assert_allclose(got, want, atol=2e-6 * want.std())


def test_noise_level_and_class_are_embedded_as_in_the_paper(x64):
    """mp_silu(mp_sum(noise(√2 cos(2π(f c + φ))), label(√n one_hot), 1/2)); no class is the zero vector."""
    network = networks.EDM2(**TINY, dtype="float64")
    params = randomized(shapes(network, X, C_NOISE, COND))
    only = {"capture_intermediates": lambda module, name: name == "_embed"}
    run = jit(lambda params: network.apply(params, X, C_NOISE, COND, **only)[1])
    got = run(params)["intermediates"]["_embed"][0]
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["params"])
    turns = np.outer(C_NOISE, p["emb_fourier"]["freqs"]) + p["emb_fourier"]["phases"]
    layer = lambda x, name: x @ unit64(p[name]["weight"], 0) / np.sqrt(x.shape[1])
    y = layer(np.sqrt(2) * np.cos(2 * np.pi * turns), "emb_noise")
    y = sum64(y, layer(np.sqrt(3) * np.eye(4)[:, :3], "emb_label"), 0.5)
    np.testing.assert_allclose(got, silu64(y), atol=1e-6)


def test_every_block_gives_what_has_unit_mean_square():
    """With gains of 1; branches are not quite uncorrelated, and the zeros beyond the border weigh on small images.

    With gains of 0, as at the start, the output is 0.
    """
    network = networks.EDM2(channels=64, mults=(1, 2), blocks=1, attention=(4,), num_classes=3)
    start = randomized(shapes(network, X, C_NOISE, COND), gain=0.0)
    ones = jax.tree.map(lambda leaf: jnp.ones(()) if leaf.ndim == 0 else leaf, start)
    blocks = {"capture_intermediates": lambda module, _: isinstance(module, edm2.EDM2Block)}
    run = jit(lambda params: network.apply(params, X, C_NOISE, COND, **blocks))
    assert (run(start)[0] == 0).all()
    out, seen = run(ones)
    for name, value in seen["intermediates"].items():
        assert 0.8 < jnp.sqrt(jnp.square(value["__call__"][0]).mean()) < 1.5, name
    assert 0.7 < jnp.sqrt(jnp.square(out).mean()) < 1.5


def test_every_weight_gets_a_gradient_and_the_frequencies_get_none():
    network = networks.EDM2(**FLAT)
    params = randomized(shapes(network, X[:, :4, :4], C_NOISE, COND))
    loss = lambda params: (network.apply(params, X[:, :4, :4], C_NOISE, COND) ** 3).mean()
    gradient = jit(jax.grad(loss))(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(gradient)):
        assert np.isfinite(leaf).all(), path
        assert (np.abs(leaf).max() > 1e-7) == (path[-1].key not in ("freqs", "phases")), path


def test_bfloat16_is_close_and_only_inside():
    pair = [networks.EDM2(**FLAT, dtype=dtype) for dtype in ("float32", "bfloat16")]
    params = randomized(shapes(pair[0], X[:, :4, :4], C_NOISE, COND))
    outputs = [jit(network.apply)(params, X[:, :4, :4], C_NOISE, COND) for network in pair]
    assert {output.dtype for output in outputs} == {jnp.dtype("float32")}
    scale = outputs[0].std()
    assert 1e-5 * scale < jnp.abs(outputs[0] - outputs[1]).max() < 0.1 * scale
    text = str(jax.make_jaxpr(pair[1].apply)(params, X[:, :4, :4], C_NOISE, COND))
    convolutions = re.findall(r"(\w+)\[[\d,]+\] = conv_general_dilated", text)
    assert set(convolutions[:-1]) == {"bf16"}
    assert convolutions[-1] == "f32"
    assert not re.search(r"bf16\[[\d,]*\] = (exp|sqrt|rsqrt|sin|cos|reduce_sum|reduce_max)\b", text)


@pytest.mark.parametrize(("options", "shape", "message"), [
    ({}, (1, 7, 7, 3), "images of 7x7 cannot be halved 1 times"),
    ({}, (1, 8, 4, 3), r"EDM2 takes square images .* got \(1, 8, 4, 3\)"),
    ({"dtype": "float16"}, (), "EDM2 has no dtype 'float16'; it may be float32 or bfloat16"),
    ({"dropout": 1.0}, (), r"dropout must lie in \[0, 1\), got 1.0"),
])
def test_errors(options, shape, message):
    with pytest.raises(ValueError, match=message):
        shapes(networks.EDM2(**{**TINY, **options}), jnp.zeros(shape), jnp.zeros(1), {"label": jnp.zeros(1, int)})
