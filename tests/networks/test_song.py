"""DDPM++: EDM's counts, starting sizes and equations; float32 where it must be; one answer however it is run."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import networks
from jaxdiff.networks import levels, song

TINY = dict(channels=8, mults=(1, 2), blocks=1, attention=(4,), dropout=0.0)
NCSN = dict(noise_embedding="fourier", encoder="residual", taps=(1, 3, 3, 1))
FLAT = dict(TINY, mults=(1,))  # half of the blocks to compile
X = jax.random.normal(jax.random.key(0), (4, 4, 4, 3))
C_NOISE = jnp.array([-1.5, -0.2, 0.4, 1.1])


def shapes(module, *inputs):
    return jax.eval_shape(module.init, jax.random.key(0), *inputs)


def shapes_at(network, shape):
    cond = {"label": jnp.zeros(1, int)} if network.num_classes else None
    return shapes(network, jnp.zeros((1, *shape)), jnp.zeros(1), cond)


def random(tree):
    """Parameters of one size everywhere: at the start the network is zero, and a test would see nothing."""
    rng = np.random.default_rng(0)
    scale = lambda path: float(path[-1].key == "scale")
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.asarray(scale(path) + 0.2 * rng.standard_normal(leaf.shape), leaf.dtype), tree)


def embedding(network, params, cond=None):
    """What the blocks are shown of noise level and class, before the last silu."""
    only = {"capture_intermediates": lambda module, _: module.name == "map_layer1"}
    run = jax.jit(lambda params: network.apply(params, X, C_NOISE, cond, **only)[1])
    return run(params)["intermediates"]["map_layer1"]["__call__"][0]


@pytest.mark.parametrize(("options", "shape", "exact", "published"), [
    # Karras et al. 2022: 55.7 M on CIFAR-10, 61.8 M on 64 x 64, 56.4 M of NCSN++ without its frequencies.
    (dict(mults=(2, 2, 2)), (32, 32, 3), 55_733_891, 55.7),
    (dict(mults=(2, 2, 2), num_classes=10), (32, 32, 3), 55_735_299, 55.7),
    (dict(), (64, 64, 3), 61_805_571, 61.8),
    (dict(NCSN, mults=(2, 2, 2)), (32, 32, 3), 56_397_827, 56.4),
])
def test_it_has_as_many_parameters_as_edms(options, shape, exact, published):
    params = shapes_at(networks.SongUNet(**options, augment=9), shape)
    count = sum(leaf.size for path, leaf in jax.tree_util.tree_leaves_with_path(params) if path[-1].key != "freqs")
    assert count == exact
    assert round(count / 1e6, 1) == published


def test_names_and_shapes():
    params = shapes_at(networks.SongUNet(**TINY, num_classes=5, out_channels=6), (4, 4, 3))["params"]
    assert set(params) == {
        "enc_4x4_conv", "enc_4x4_block0", "enc_2x2_down", "enc_2x2_block0", "dec_2x2_in0", "dec_2x2_in1",
        "dec_2x2_block0", "dec_2x2_block1", "dec_4x4_up", "dec_4x4_block0", "dec_4x4_block1", "map_label",
        "map_layer0", "map_layer1", "out_norm", "out_conv",
    }
    assert set(params["dec_4x4_block1"]) == {"norm0", "conv0", "affine", "norm1", "conv1", "skip", "norm2", "attn"}
    assert set(params["dec_2x2_in1"]) == {"norm0", "conv0", "affine", "norm1", "conv1"}
    assert params["dec_4x4_block1"]["attn"]["qkv"]["kernel"].shape == (8, 3, 1, 8)
    assert params["dec_4x4_block0"]["conv0"]["kernel"].shape == (3, 3, 16 + 8, 8)
    assert params["out_conv"]["kernel"].shape == (3, 3, 8, 6)
    assert params["map_layer0"]["kernel"].shape == (8, 32)
    params = shapes_at(networks.SongUNet(**TINY, noise_embedding="fourier"), (4, 4, 3))["params"]
    assert params["map_noise"]["freqs"].shape == (8,)
    assert params["map_layer0"]["kernel"].shape == (16, 32)


def fans(name, shape):
    if "attn" in name:  # a 1x1 convolution, packed by head
        channels = shape[0] if "qkv" in name else shape[-1]
        return channels, 3 * channels if "qkv" in name else channels
    *field, inner, outer = shape
    return int(np.prod(field)) * inner, int(np.prod(field)) * outer


def test_every_leaf_starts_at_edms_size():
    """Xavier: std = gain √(2/(fan_in + fan_out)); gain 1e-5 for last layers and √0.2 for q, k, v."""
    network = networks.SongUNet(channels=32, mults=(1,), blocks=1, attention=(4,), num_classes=10)
    params = jax.jit(network.init)(jax.random.key(0), X, C_NOISE, {"label": jnp.zeros(4, int)})["params"]
    assert jnp.abs(jax.jit(network.apply)({"params": params}, X, C_NOISE, {"label": jnp.arange(4)})).max() < 1e-3
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        assert leaf.dtype == jnp.float32
        if name.endswith("kernel"):
            gain = 1e-5 if re.search("conv1/|attn/out|out_conv", name) else 0.2**0.5 if "qkv" in name else 1
            np.testing.assert_allclose(leaf.std(), gain * np.sqrt(2 / sum(fans(name, leaf.shape))), rtol=0.12,
                                       err_msg=name)
        else:
            assert (leaf == name.endswith("scale")).all(), name


def conv64(params, x):
    kernel = np.asarray(params["kernel"], np.float64)
    size = kernel.shape[0]
    padded = np.pad(x, ((0, 0), (size // 2,) * 2, (size // 2,) * 2, (0, 0)))
    h, w = x.shape[1:3]
    return sum(padded[:, i:i + h, j:j + w] @ kernel[i, j] for i in range(size) for j in range(size)) + params["bias"]


def norm64(params, x, silu=True):
    groups = x.reshape(*x.shape[:3], x.shape[-1] // 4, 4)
    y = groups - groups.mean((1, 2, 4), keepdims=True)
    y = (y / np.sqrt((y**2).mean((1, 2, 4), keepdims=True) + 1e-6)).reshape(x.shape) * params["scale"] + params["bias"]
    return y / (1 + np.exp(-y)) if silu else y


def block64(params, x, emb, mode):
    """The equations of EDM's block in float64."""
    resample = {
        "keep": lambda x: x,
        "up": lambda x: x.repeat(2, 1).repeat(2, 2),
        "down": lambda x: (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4,
    }[mode]
    h = conv64(params["conv0"], resample(norm64(params["norm0"], x)))
    h = h + (emb @ params["affine"]["kernel"] + params["affine"]["bias"])[:, None, None]
    h = conv64(params["conv1"], norm64(params["norm1"], h))
    h = (h + (conv64(params["skip"], resample(x)) if "skip" in params else x)) / np.sqrt(2)
    tokens = norm64(params["norm2"], h, silu=False).reshape(len(x), -1, h.shape[-1])
    qkv = params["attn"]["qkv"]
    q, k, v = np.einsum("bnc,cphd->pbnd", tokens, qkv["kernel"]) + np.asarray(qkv["bias"])[:, 0][:, None, None]
    weights = np.exp(q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1]))
    a = weights / weights.sum(-1, keepdims=True) @ v @ np.asarray(params["attn"]["out"]["kernel"])[0]
    return ((a + params["attn"]["out"]["bias"]).reshape(h.shape) + h) / np.sqrt(2)


@pytest.mark.parametrize(("mode", "channels"), [("keep", 8), ("keep", 16), ("down", 8), ("up", 8)])
def test_a_block_is_edms_equations(mode, channels):
    block = song.UNetBlock(levels.Block("block", channels, mode, attention=True))
    x, emb = jax.random.normal(jax.random.key(1), (2, 4, 4, 8)), jax.random.normal(jax.random.key(2), (2, 12))
    params = random(shapes(block, x, emb))
    assert ("skip" in params["params"]) == ((mode, channels) != ("keep", 8))
    want = block64(params["params"], np.asarray(x, np.float64), np.asarray(emb, np.float64), mode)
    np.testing.assert_allclose(jax.jit(block.apply)(params, x, emb), want, atol=3e-6)


def test_noise_level_and_class_are_embedded_as_in_edm():
    """silu(layer1(silu(layer0([sin, cos] + label(√n one_hot))))), all in float32."""
    network, cond = networks.SongUNet(**FLAT, num_classes=3, dtype="bfloat16"), {"label": jnp.arange(4)}
    params = random(shapes(network, X, C_NOISE, cond))
    got = embedding(network, params, cond)
    assert got.dtype == jnp.float32
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["params"])
    angles = np.asarray(C_NOISE)[:, None] * 10_000.0 ** (-np.arange(4) / 3)
    y = np.concatenate([np.sin(angles), np.cos(angles)], -1)
    y += np.sqrt(3) * np.eye(4)[:, :3] @ p["map_label"]["linear"]["kernel"] + p["map_label"]["linear"]["bias"]
    y = y @ p["map_layer0"]["kernel"] + p["map_layer0"]["bias"]
    y = (y / (1 + np.exp(-y))) @ p["map_layer1"]["kernel"] + p["map_layer1"]["bias"]
    np.testing.assert_allclose(got, y, atol=1e-6)


def test_fourier_frequencies_are_not_trained():
    network = networks.SongUNet(**FLAT, noise_embedding="fourier")
    params = random(shapes(network, X, C_NOISE))
    gradient = jax.grad(lambda params: embedding(network, params).sum())(params)["params"]
    assert (gradient["map_noise"]["freqs"] == 0).all()
    assert (gradient["map_layer0"]["kernel"] != 0).all()


def test_every_parameter_gets_a_gradient():
    network, cond = networks.SongUNet(**TINY, num_classes=5), {"label": jnp.arange(4)}
    params = random(shapes(network, X, C_NOISE, cond))
    gradient = jax.jit(jax.grad(lambda params: (network.apply(params, X, C_NOISE, cond) ** 2).mean()))(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert jnp.isfinite(leaf).all(), path
        assert jnp.abs(leaf).max() > 1e-6, path


def test_bfloat16_is_close_and_only_inside():
    pair = [networks.SongUNet(**FLAT, dtype=dtype) for dtype in ("float32", "bfloat16")]
    params = random(shapes(pair[0], X, C_NOISE))
    outputs = [jax.jit(network.apply)(params, X, C_NOISE) for network in pair]
    assert {output.dtype for output in outputs} == {jnp.dtype("float32")}
    scale = outputs[0].std()
    assert scale > 0.1
    assert 1e-5 * scale < jnp.abs(outputs[0] - outputs[1]).max() < 0.1 * scale

    assert {leaf.dtype for leaf in jax.tree.leaves(shapes(pair[1], X, C_NOISE))} == {jnp.dtype("float32")}
    text = str(jax.make_jaxpr(pair[1].apply)(params, X, C_NOISE))
    convolutions = re.findall(r"(\w+)\[[\d,]+\] = conv_general_dilated", text)
    assert set(convolutions[:-1]) == {"bf16"}
    assert convolutions[-1] == "f32"
    assert not re.search(r"bf16\[[\d,]*\] = (exp|rsqrt|sin|cos|reduce_sum|reduce_max)\b", text)


@pytest.mark.parametrize(("field", "value"), [("augment", jnp.ones((4, 9))), ("span", jnp.full(4, 0.3))])
def test_augmentation_and_span_are_zero_where_they_are_missing(field, value):
    network = networks.SongUNet(**FLAT, **{field: 9 if field == "augment" else True})
    params = random(shapes(network, X, C_NOISE))
    none = embedding(network, params)
    np.testing.assert_allclose(embedding(network, params, {field: jnp.zeros_like(value)}), none, atol=1e-6)
    assert jnp.abs(embedding(network, params, {field: value}) - none).max() > 0.1
    with pytest.raises(ValueError, match=rf"'{field}' is \[4.* here, got \[2"):
        shapes(network, X, C_NOISE, {field: value[:2]})
    with pytest.raises(ValueError, match=f"the condition has {field}, but a network with num_classes=0 reads none;"):
        shapes(networks.SongUNet(**FLAT), X, C_NOISE, {field: value})


def test_a_span_changes_no_checkpoint():
    """The weights of a network without one, and zeros, which is how it starts, give the same output for every span."""
    plain, spanned = networks.SongUNet(**FLAT), networks.SongUNet(**FLAT, span=True)
    params = random(shapes(plain, X, C_NOISE))
    like = shapes(spanned, X, C_NOISE)["params"]
    assert set(like) == {*params["params"], "map_span"}
    start = jax.jit(spanned.init, compiler_options={"xla_backend_optimization_level": 0})(
        jax.random.key(0), X, C_NOISE)["params"]["map_span"]
    assert (start["kernel"] == 0).all()
    more = {"params": {**params["params"], "map_span": start}}
    cond = {"span": jnp.linspace(0, 1, 4)}
    np.testing.assert_array_equal(embedding(spanned, more, cond), embedding(plain, params))


def test_pyramids_have_their_names():
    residual = shapes_at(networks.SongUNet(**{**TINY, **NCSN}), (4, 4, 3))["params"]
    assert residual["enc_2x2_aux_residual"]["kernel"].shape == (3, 3, 3, 8)
    skips = shapes_at(networks.SongUNet(**TINY, encoder="skip", decoder="skip"), (4, 4, 3))["params"]
    assert skips["enc_2x2_aux_skip"]["kernel"].shape == (1, 1, 3, 8)
    assert skips["dec_2x2_aux_conv"]["kernel"].shape == (3, 3, 16, 3)
    assert {"dec_2x2_aux_norm", "out_norm", "out_conv"} < set(skips)


def test_dropout_is_in_training_only():
    network = networks.SongUNet(**{**FLAT, "dropout": 0.5})
    params = random(shapes(network, X, C_NOISE))
    run = jax.jit(lambda key, train: network.apply(params, X, C_NOISE, train=train, rngs={"dropout": key}),
                  static_argnums=1)
    first, second = jax.random.split(jax.random.key(3))
    np.testing.assert_array_equal(run(first, False), run(second, False))
    assert jnp.abs(run(first, True) - run(second, True)).max() > 0.01
    np.testing.assert_array_equal(run(first, True), run(first, True))


def test_samples_do_not_see_each_other_and_jit_and_vmap_change_nothing():
    network, label = networks.SongUNet(**FLAT, num_classes=5, out_channels=2), jnp.arange(4)
    params = random(shapes(network, X, C_NOISE, {"label": label}))
    plain = lambda params, x, c, label: network.apply(params, x, c, {"label": label})
    apply = jax.jit(plain)
    want = apply(params, X, C_NOISE, label)
    assert want.shape == (4, 4, 4, 2)
    np.testing.assert_allclose(plain(params, X, C_NOISE, label), want, atol=1e-5)
    np.testing.assert_allclose(apply(params, X[::-1], C_NOISE[::-1], label[::-1])[::-1], want, atol=1e-5)
    changed = apply(params, X.at[1:].set(0), C_NOISE, label)
    np.testing.assert_allclose(changed[0], want[0], atol=1e-5)
    assert jnp.abs(changed[1:] - want[1:]).max() > 0.1
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.9 * leaf]), params)
    both = jax.jit(jax.vmap(plain, in_axes=(0, None, None, None)))(stacked, X, C_NOISE, label)
    np.testing.assert_allclose(both[0], want, atol=1e-5)
    assert jnp.abs(both[1] - want).max() > 0.1


def test_a_split_batch_changes_nothing(run_python):
    run_python("""
        import jax, jax.numpy as jnp, numpy as np
        from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
        from jaxdiff import networks

        network = networks.SongUNet(channels=8, mults=(1,), blocks=1, attention=(4,), dropout=0.0)
        x, c_noise = jax.random.normal(jax.random.key(0), (8, 4, 4, 3)), jnp.linspace(-1, 1, 8)
        like, rng = jax.eval_shape(network.init, jax.random.key(0), x, c_noise), np.random.default_rng(0)
        params = jax.tree.map(lambda leaf: 0.3 * rng.standard_normal(leaf.shape).astype(leaf.dtype), like)
        want = jax.jit(network.apply)(params, x, c_noise)

        devices = np.array(jax.devices()).reshape(2, 2, 2)
        mesh = Mesh(devices, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
        rows, cut = NamedSharding(mesh, P(("data", "fsdp"))), NamedSharding(mesh, P(None, None, None, "fsdp"))
        lies = lambda leaf: cut if leaf.ndim == 4 and leaf.shape[3] % 2 == 0 else NamedSharding(mesh, P())
        params = jax.tree.map(lambda leaf: jax.device_put(leaf, lies(leaf)), params)
        with jax.set_mesh(mesh):
            got = jax.jit(network.apply)(params, *jax.device_put((x, c_noise), rows))
        assert got.sharding.shard_shape(got.shape)[0] == 2
        np.testing.assert_allclose(got, want, atol=1e-5)
    """)


@pytest.mark.parametrize(("options", "shape", "message"), [
    ({}, (1, 7, 7, 3), "images of 7x7 cannot be halved 1 times"),
    ({}, (1, 8, 4, 3), r"square images .* got \(1, 8, 4, 3\)"),
    ({}, (4, 4, 3), "square images"),
    ({"noise_embedding": "sinusoidal"}, (), "'sinusoidal'; it may be positional or fourier"),
    ({"encoder": "pyramid"}, (), "'pyramid'; it may be standard or skip or residual"),
    ({"decoder": "residual"}, (), "'residual'; it may be standard or skip"),
    ({"dtype": "float16"}, (), "'float16'; it may be float32 or bfloat16"),
    ({"dropout": 1.0}, (), r"dropout must lie in \[0, 1\), got 1.0"),
    ({"channels": 10}, (), "multiple of 4, got 10"),
])
def test_errors(options, shape, message):
    with pytest.raises(ValueError, match=message):
        shapes(networks.SongUNet(**{**TINY, **options}), jnp.zeros(shape), jnp.zeros(1))
