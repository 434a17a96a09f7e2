"""Attention: the softmax is float32 whatever comes in, masks hold, projections are packed by head."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import layers


def qkv(std=1.0, dtype=jnp.float32, n=9, heads=2, d=16):
    keys = jax.random.split(jax.random.key(0), 3)
    return [std * jax.random.normal(key, (3, n, heads, d)).astype(dtype) for key in keys]


def exact(q, k, v, mask=True):
    """Attention in float64."""
    q, k, v = (np.asarray(a, np.float64).swapaxes(1, 2) for a in (q, k, v))
    logits = np.where(mask, q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]), -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return (weights / weights.sum(-1, keepdims=True) @ v).swapaxes(1, 2)


@pytest.mark.parametrize("std", [1, 3])
def test_it_is_the_formula(std):
    q, k, v = qkv(std)
    np.testing.assert_allclose(layers.attention.xla(q, k, v), exact(q, k, v), atol=1e-5)


@pytest.mark.parametrize("std", [1, 2.2, 4.5])  # logits of standard deviation 1, 5, 20
def test_bfloat16_loses_no_more_than_its_inputs_and_output(std):
    q, k, v = qkv(std, jnp.bfloat16)
    y = layers.attention.xla(q, k, v)
    assert y.dtype == jnp.bfloat16
    error = np.asarray(y, np.float32) - exact(q, k, v)
    assert np.abs(error).max() < 2**-8 * np.abs(v).max()  # the weights are rounded once, and the output


def test_a_masked_key_is_not_seen():
    q, k, v = qkv()
    mask = jnp.arange(9) < 5
    y = layers.attention.xla(q, k, v, mask[None, None, None])
    np.testing.assert_allclose(y, layers.attention.xla(q, k[:, :5], v[:, :5]), atol=1e-6)
    np.testing.assert_allclose(y, exact(q, k, v, mask), atol=1e-6)


def test_forward_mode_works():
    q, k, v = qkv()
    _, slope = jax.jvp(lambda q: layers.attention.xla(q, k, v), (q,), (jnp.ones_like(q),))
    step = 1e-2
    central = (layers.attention.xla(q + step, k, v) - layers.attention.xla(q - step, k, v)) / (2 * step)
    np.testing.assert_allclose(slope, central, atol=1e-3)


def test_self_attention_is_packed_by_head_and_starts_at_zero():
    module, x = layers.SelfAttention(heads=4), jax.random.normal(jax.random.key(0), (2, 7, 32))
    params = module.init(jax.random.key(1), x)
    assert jax.tree.map(jnp.shape, params["params"]) == {
        "qkv": {"kernel": (32, 3, 4, 8), "bias": (3, 4, 8)}, "out": {"kernel": (4, 8, 32), "bias": (32,)},
    }
    std = params["params"]["qkv"]["kernel"].std()
    np.testing.assert_allclose(std, np.sqrt(2 / (32 + 96)), rtol=0.05)  # of the flat [32, 96], not of four axes
    np.testing.assert_array_equal(module.apply(params, x), 0)


def test_self_attention_reads_q_k_and_v_in_this_order():
    module, x = layers.SelfAttention(heads=4), jax.random.normal(jax.random.key(0), (2, 7, 32))
    params = module.init(jax.random.key(1), x)["params"]
    params["out"]["kernel"] = jax.random.normal(jax.random.key(2), (4, 8, 32))
    q, k, v = np.einsum("bnc,cphd->pbnhd", x, params["qkv"]["kernel"])
    want = np.einsum("bnhd,hdc->bnc", exact(q, k, v), params["out"]["kernel"])
    np.testing.assert_allclose(module.apply({"params": params}, x), want, atol=1e-4)


def test_cross_attention_asks_with_x_and_is_answered_by_the_context():
    module = layers.CrossAttention(heads=4)
    x, context = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(((2, 7, 32), (2, 5, 6))))
    params = module.init(jax.random.key(2), x, context)["params"]
    assert jax.tree.map(jnp.shape, params) == {
        "q": {"kernel": (32, 4, 8)}, "kv": {"kernel": (6, 2, 4, 8)}, "out": {"kernel": (4, 8, 32), "bias": (32,)},
    }
    np.testing.assert_array_equal(module.apply({"params": params}, x, context), 0)
    params["out"]["kernel"] = jax.random.normal(jax.random.key(3), (4, 8, 32))
    q = np.einsum("bnc,chd->bnhd", x, params["q"]["kernel"])
    k, v = np.einsum("bmc,cphd->pbmhd", context, params["kv"]["kernel"])
    want = np.einsum("bnhd,hdc->bnc", exact(q, k, v), params["out"]["kernel"])
    np.testing.assert_allclose(module.apply({"params": params}, x, context), want, atol=1e-4)
    with pytest.raises(ValueError, match="3 heads do not divide 32 channels"):
        layers.CrossAttention(heads=3).init(jax.random.key(0), x, context)


def test_heads_must_divide_the_channels():
    with pytest.raises(ValueError, match="3 heads do not divide 32 channels"):
        layers.SelfAttention(heads=3).init(jax.random.key(0), jnp.ones((1, 2, 32)))
