"""Pieces of transformers: patches, feed-forward parts, norms and blocks are their formulas; depth is a loop."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import layers
from jaxdiff.layers import depth as depths


def random_of(module, *given):
    """Parameters of one size everywhere, drawn without compiling anything."""
    rng, like = np.random.default_rng(0), jax.eval_shape(module.init, jax.random.key(0), *given)
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.standard_normal(leaf.shape), leaf.dtype), like)


def test_patches_are_cut_and_put_together():
    x = jax.random.normal(jax.random.key(0), (2, 4, 6, 3))
    y = layers.patchify(x, 2)
    assert y.shape == (2, 6, 12)
    np.testing.assert_array_equal(y[:, 5].reshape(2, 2, 2, 3), x[:, 2:, 4:])  # the last patch, channels last
    np.testing.assert_array_equal(layers.unpatchify(y, 2, 4, 6), x)
    with pytest.raises(ValueError, match="4x6 does not divide into patches of 4x4"):
        layers.patchify(x, 4)


def test_a_dense_layer_on_patches_is_a_strided_convolution():
    x, conv = jax.random.normal(jax.random.key(0), (2, 8, 8, 3)), nn.Conv(5, (4, 4), 4, padding="VALID")
    params = random_of(conv, x)
    want = conv.apply(params, x).reshape(2, 4, 5)
    got = layers.patchify(x, 4) @ params["params"]["kernel"].reshape(48, 5) + params["params"]["bias"]
    np.testing.assert_allclose(got, want, atol=1e-5)


class Part(nn.Module):
    kind: str

    @nn.compact
    def __call__(self, x):
        return layers.feed_forward(x, 7, self.kind)


@pytest.mark.parametrize("kind", ["gelu", "gelu_tanh", "silu", "swiglu"])
def test_feed_forward(kind):
    x = jax.random.normal(jax.random.key(0), (2, 3, 5))
    params = random_of(Part(kind), x)
    got = jax.jit(Part(kind).apply)(params, x)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["params"])
    dense = lambda name, x: x @ params[name]["kernel"] + params[name]["bias"]
    h = dense("mlp0", np.asarray(x, np.float64))
    sigmoid = lambda a: 1 / (1 + np.exp(-a))
    if kind == "swiglu":
        h = h[..., :7] * sigmoid(h[..., :7]) * h[..., 7:]
    else:
        tanh = lambda a: a / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (a + 0.044715 * a**3)))
        erf = lambda a: a / 2 * (1 + jax.scipy.special.erf(a / np.sqrt(2)))
        h = {"silu": lambda a: a * sigmoid(a), "gelu": erf, "gelu_tanh": tanh}[kind](h)
    np.testing.assert_allclose(got, dense("mlp1", h), atol=1e-5)


def test_feed_forward_of_another_kind():
    with pytest.raises(ValueError, match="no feed-forward 'relu'; it may be gelu, .*quick_gelu or swiglu"):
        Part("relu").init(jax.random.key(0), jnp.ones((1, 2, 3)))


def test_rms_norm():
    x = 300 * jax.random.normal(jax.random.key(0), (2, 3, 16))
    y, params = layers.RMSNorm().init_with_output(jax.random.key(1), x)
    np.testing.assert_allclose(y, x / np.sqrt((np.asarray(x, np.float64) ** 2).mean(-1, keepdims=True)), rtol=1e-5)
    assert params["params"]["scale"].shape == (16,)
    assert layers.RMSNorm().apply(params, x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def blocks(number, **options):
    return layers.stacked(layers.AdaLNBlock, number, heads=2, hidden=16, name="blocks", **options)


def test_stacked_blocks_are_a_loop():
    x, emb = jax.random.normal(jax.random.key(0), (2, 3, 8)), jax.random.normal(jax.random.key(1), (2, 5))
    params = random_of(blocks(3), x, emb)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(params)} == {3}
    got, _ = jax.jit(blocks(3).apply)(params, x, emb)
    block = jax.jit(layers.AdaLNBlock(heads=2, hidden=16).apply)
    for i in range(3):
        x, _ = block(jax.tree.map(lambda leaf, i=i: leaf[i], params), x, emb)
    np.testing.assert_allclose(got, x, atol=1e-5)


def test_every_block_starts_by_itself():
    x, emb = jnp.ones((1, 3, 8)), jnp.ones((1, 5))
    kernel = jax.jit(blocks(2).init)(jax.random.key(0, impl="rbg"), x, emb)["params"]["mlp0"]["kernel"]
    assert np.abs(kernel[0] - kernel[1]).max() > 0.1
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (8 + 16)), rtol=0.1)  # not of the stack's fans


@pytest.mark.parametrize("remat", depths.REMAT)
def test_what_remat_keeps(remat):
    """The bytes kept between the passes, of two blocks: everything, or the inputs, or these and some products."""
    x, emb = jnp.ones((1, 64, 8)), jnp.ones((1, 5))
    params = jax.eval_shape(blocks(2).init, jax.random.key(0), x, emb)
    kept = {}
    for policy in {"none", remat}:
        f = lambda params, policy=policy: blocks(2, remat=policy).apply(params, x, emb)[0]
        backward = jax.eval_shape(lambda params, f=f: jax.vjp(f, params)[1], params)
        kept[policy] = sum(leaf.size for leaf in jax.tree.leaves(backward))
    own = sum(leaf.size for leaf in jax.tree.leaves(params))
    ratio = (kept[remat] - own) / (kept["none"] - own)
    low, high = {"none": (1, 1), "full": (0, 0.12), "dots": (0.05, 0.4), "all_dots": (0.2, 0.9)}[remat]
    assert low <= ratio <= high


def test_errors_of_stacked():
    with pytest.raises(ValueError, match="no remat policy 'half'; it may be none, full, dots, all_dots"):
        blocks(2, remat="half")
    with pytest.raises(ValueError, match="depth of at least 1 and a name, got depth=0"):
        blocks(0)
    with pytest.raises(ValueError, match="name=None"):
        layers.stacked(layers.AdaLNBlock, 2, heads=2, hidden=8)


def test_a_pre_norm_block_is_its_equations():
    block, x = layers.TransformerBlock(heads=2, hidden=16), jax.random.normal(jax.random.key(0), (2, 5, 8))
    params = random_of(block, x)
    got, none = jax.jit(block.apply)(params, x)
    assert none is None
    own = lambda name: {"params": params["params"][name]}
    norm = lambda name, x: layers.LayerNorm(eps=1e-5).apply(own(name), x)
    x = x + layers.SelfAttention(2).apply(own("attention"), norm("norm0", x))
    dense = lambda name, x: x @ params["params"][name]["kernel"] + params["params"][name]["bias"]
    want = x + dense("mlp1", nn.gelu(dense("mlp0", norm("norm1", x)), approximate=False))
    np.testing.assert_allclose(got, want, atol=1e-5)
