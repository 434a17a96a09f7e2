"""The autoencoder is diffusers' weight for weight; its latents have the scale that was measured."""

import json
import re
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import shown

from jaxdiff import convert
from jaxdiff.convert import stable
from jaxdiff.networks import autoencoder

GOLDEN = np.load(Path(__file__).parent.parent / "golden" / "networks_autoencoder.npz")
SMALL = dict(channels=32, mults=(1, 2), blocks=1)
CASES = {
    "sd": autoencoder.Autoencoder(**SMALL),
    "sd3": autoencoder.Autoencoder(**SMALL, latent_channels=16, quant=False),
}
FAST = {"xla_backend_optimization_level": 0}  # compiles in a fraction of the time
PARITY = {"float32": 5e-5, "float64": 2e-6}
X = jnp.asarray(shown.image().transpose(0, 2, 3, 1))


def shapes(network, x=X):
    return jax.eval_shape(network.init, jax.random.key(0), x)


def flat(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree["params"])
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def of_peer(case, source):
    """The peer's {name: value} at the places of our tree; what it does not store is left out."""
    kept = {path: leaf.shape for path, leaf in flat(shapes(CASES[case])).items() if path not in autoencoder.CONSTANTS}
    return convert.convert(source, stable.diffusers_vae_rules(2), kept)


def peer(case):
    return json.loads(str(GOLDEN[f"{case}/peer"]))


def params_of(case, dtype="float32"):
    source = {name: shown.drawn(name, tuple(shape)) for name, (shape, _) in peer(case).items()}
    like = shapes(CASES[case])
    made = {"latent_scale": np.float32(1), "latent_shift": np.float32(0), **of_peer(case, source)}
    value = lambda path, leaf: jnp.broadcast_to(jnp.asarray(made[path], dtype), leaf.shape)
    tree = [value(path, leaf) for path, leaf in flat(like).items()]
    return jax.tree.unflatten(jax.tree.structure(like), tree)


@pytest.mark.parametrize(("network", "count"), [
    (autoencoder.Autoencoder(), 83_653_863),  # AutoencoderKL of Stable Diffusion 1.5
    (autoencoder.Autoencoder(latent_channels=16, quant=False), 83_819_683),  # of Stable Diffusion 3
])
def test_it_has_as_many_parameters_as_published(network, count):
    leaves = flat(shapes(network, jnp.zeros((1, 8, 8, 3))))
    assert sum(leaf.size for path, leaf in leaves.items() if path not in autoencoder.CONSTANTS) == count


def test_names():
    tree = shapes(CASES["sd"])["params"]
    assert set(tree) == {"encoder", "decoder", *autoencoder.CONSTANTS}
    ends = {"conv_in", "middle", "norm_out", "conv_out", "quant"}
    assert set(tree["encoder"]) == ends | {"down0_block0", "down0_resample", "down1_block0"}
    assert set(tree["decoder"]) == ends | {"up1_block0", "up1_block1", "up1_resample", "up0_block0", "up0_block1"}
    assert set(tree["encoder"]["middle"]) == {"block0", "norm", "attn", "block1"}
    assert tree["encoder"]["middle"]["attn"]["qkv"]["kernel"].shape == (64, 3, 1, 64)
    assert "quant" not in shapes(CASES["sd3"])["params"]["encoder"]


@pytest.mark.parametrize("dtype", PARITY)
@pytest.mark.parametrize("case", CASES)
def test_it_is_its_peer_weight_for_weight(case, dtype):
    with jax.enable_x64(dtype == "float64"):
        network, params = CASES[case].clone(dtype=dtype), params_of(case, dtype)
        z = shown.latent(network.latent_channels).transpose(0, 2, 3, 1)
        given = jnp.asarray(X, dtype), jnp.asarray(z, dtype)
        run = jax.jit(lambda params, x, z: (*network.apply(params, x, method="encode"),
                                            network.apply(params, z, method="decode")), compiler_options=FAST)
        for name, value in zip(("mean", "logvar", "image"), run(params, *given), strict=True):
            want = GOLDEN[f"{case}/{name}"]
            assert value.dtype == dtype
            assert np.abs(value - want).max() < PARITY[dtype] * want.std(), name


def test_every_kind_of_leaf_starts_as_large_as_the_peers():
    """A kind is a name within a block, and a shape, as in `test_peers`."""
    network, like = CASES["sd"], flat(shapes(CASES["sd"]))
    kinds = {(re.sub("(down|up)._block.|block.", "", path), leaf.shape): path for path, leaf in like.items()}
    draw = lambda key: {path: leaf for path, leaf in flat(network.init(key, X)).items() if path in kinds.values()}
    source = {name: np.full(shape, std, np.float32) for name, (shape, std) in peer("sd").items()}
    wanted = {"latent_scale": np.zeros(1), "latent_shift": np.zeros(1), **of_peer("sd", source)}
    for path, leaf in jax.device_get(jax.jit(draw, compiler_options=FAST)(jax.random.key(1))).items():
        ours, theirs = float(leaf.std()), float(wanted[path].flat[0])
        if theirs == 0:
            assert ours == 0, path
        elif leaf.size > 8:  # of fewer numbers the deviation says nothing
            assert abs(np.log(ours / theirs)) < 5 / np.sqrt(leaf.size), (path, ours, theirs)


def test_a_level_is_halved_with_zeros_below_and_to_the_right():
    """google/flax#963: a kernel of ones of stride 2 on 0..15; padded on every side it were [[10, 24], [51, 90]]."""

    class Halved(nn.Module):
        @nn.compact
        def __call__(self, x):
            return autoencoder._halved(x, "conv", "float32")

    params = {"params": {"conv": {"kernel": jnp.ones((3, 3, 1, 1)), "bias": jnp.zeros(1)}}}
    y = Halved().apply(params, jnp.arange(16.0).reshape(1, 4, 4, 1))
    np.testing.assert_array_equal(y[0, :, :, 0], [[45, 39], [66, 50]])


# Latents.


class Scale(nn.Module):
    """The scale and shift of an `Autoencoder` whose code is the image, and whose deviation is 1/2."""

    def setup(self):
        self.latent_scale = self.param("latent_scale", nn.initializers.ones, (2,))
        self.latent_shift = self.param("latent_shift", nn.initializers.zeros, (2,))

    def encode(self, x):
        return x, jnp.full_like(x, -2 * np.log(2))

    def decode(self, z):
        return z

    latents, images, __call__ = (getattr(autoencoder.Autoencoder, name) for name in ("latents", "images", "__call__"))


CODES = jnp.array([3.0, -5.0]) + jnp.array([0.5, 2.0]) * jax.random.normal(jax.random.key(3), (64, 4, 4, 2))


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("per_channel", [True, False])
def test_scale_and_shift_are_measured(center, per_channel):
    start = Scale().init(jax.random.key(0), CODES)
    options = dict(center=center, per_channel=per_channel)
    params = autoencoder.standardized(start, jnp.split(CODES, [10, 11, 40]), **options)
    whole = autoencoder.standardized(start, CODES, **options)  # a stream of single codes
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), params, whole)
    latents = Scale().apply(params, CODES, method="latents")
    axes = (0, 1, 2) if per_channel else None
    np.testing.assert_allclose(latents.std(axes), 1, rtol=1e-5)
    if center:
        np.testing.assert_allclose(latents.mean(axes), 0, atol=1e-5)
    else:
        assert not np.any(params["params"]["latent_shift"])
    np.testing.assert_allclose(Scale().apply(params, latents, method="images"), CODES, rtol=1e-5, atol=1e-5)
    assert not np.any(start["params"]["latent_shift"])  # was not changed in place


@pytest.mark.parametrize("stream", [[], [jnp.ones((1, 1, 1, 2))]])
def test_latents_that_do_not_vary_have_no_scale(stream):
    with pytest.raises(ValueError, match="must vary"):
        autoencoder.standardized(Scale().init(jax.random.key(0), CODES), stream)


def test_latents_are_drawn_from_the_posterior_each_from_its_own_key():
    params = Scale().init(jax.random.key(0), CODES)
    params["params"].update(latent_scale=jnp.array([2.0, 4.0]), latent_shift=jnp.array([1.0, 0.0]))
    draw = jax.jit(lambda x, key: Scale().apply(params, x, key, method="latents"), compiler_options=FAST)
    mean = draw(CODES, None)
    np.testing.assert_allclose(mean, (CODES - jnp.array([1.0, 0.0])) * jnp.array([2.0, 4.0]), rtol=1e-6)
    eps = (draw(CODES, jax.random.key(1)) - mean) / jnp.array([1.0, 2.0])  # the deviation 1/2, scaled
    assert abs(float(eps.mean())) < 5 / np.sqrt(eps.size)
    assert abs(float(eps.std()) - 1) < 5 / np.sqrt(2 * eps.size)
    keys = jax.random.split(jax.random.key(2), 64)
    np.testing.assert_array_equal(draw(CODES, keys)[5:7], draw(CODES[5:7], keys[5:7]))


def test_the_scale_gets_no_gradient_and_every_other_parameter_does():
    network, params = CASES["sd"], params_of("sd")

    def loss(params):
        latents = network.apply(params, X, jax.random.key(0), method="latents")
        return (network.apply(params, latents, method="images") ** 2).mean()

    for path, leaf in flat(jax.device_get(jax.jit(jax.grad(loss), compiler_options=FAST)(params))).items():
        assert np.isfinite(leaf).all()
        assert (np.abs(leaf).max() == 0) == (path in autoencoder.CONSTANTS), path


def test_bfloat16_is_close_and_only_inside():
    network = autoencoder.Autoencoder(channels=32, mults=(1,), blocks=1)
    half, params = network.clone(dtype="bfloat16"), jax.jit(network.init, compiler_options=FAST)(jax.random.key(0), X)
    want, got = (jax.jit(n.apply, compiler_options=FAST)(params, X) for n in (network, half))
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype == jnp.float32
        assert 1e-5 * b.std() < jnp.abs(a - b).max() < 0.2 * b.std()
    text = str(jax.make_jaxpr(half.apply)(params, X))
    convolutions = re.findall(r"(\w+)\[[\d,]+\] = conv_general_dilated", text)
    assert convolutions.count("f32") == 4  # the last of each side, and the two of 1x1
    assert not re.search(r"bf16\[[\d,]*\] = (exp|rsqrt|reduce_sum|reduce_max)\b", text)


def test_logvar_is_bounded():
    params = params_of("sd3")
    params["params"]["encoder"]["conv_out"]["bias"] = jnp.repeat(jnp.array([0.0, 1e3, -1e3]), jnp.array([16, 8, 8]))
    encode = jax.jit(lambda params: CASES["sd3"].apply(params, X, method="encode"), compiler_options=FAST)
    _, logvar = encode(params)
    assert set(np.unique(logvar)) == {-30.0, 20.0}


@pytest.mark.parametrize(("method", "shape", "message"), [
    ("encode", (1, 8, 7, 3), r"images \[b, h, w, 3\] of sizes that are multiples of 2, got \(1, 8, 7, 3\)"),
    ("encode", (1, 8, 8, 1), r"images \[b, h, w, 3\]"),
    ("decode", (1, 8, 8, 3), r"latents \[b, h, w, 4\], got \(1, 8, 8, 3\)"),
])
def test_shapes_that_do_not_fit_are_refused(method, shape, message):
    with pytest.raises(ValueError, match=message):
        CASES["sd"].apply(shapes(CASES["sd"]), jnp.zeros(shape), method=method)
    with pytest.raises(ValueError, match="Autoencoder has no dtype 'float16'"):
        autoencoder.Autoencoder(dtype="float16")
