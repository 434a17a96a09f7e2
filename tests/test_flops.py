"""Multiply-adds: known products and convolutions, what holds a jaxpr, and XLA's own count where it has one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import flops, layers, networks

A, B = jax.ShapeDtypeStruct((3, 5, 7), jnp.float32), jax.ShapeDtypeStruct((3, 7, 11), jnp.float32)
SQUARE = jax.ShapeDtypeStruct((4, 4), jnp.float32)
IMAGE = jax.ShapeDtypeStruct((2, 8, 8, 6), jnp.float32)


def conv(x, *, stride=1, groups=1, out=4):
    kernel = jnp.ones((3, 3, 6 // groups, out))
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", feature_group_count=groups,
                                        dimension_numbers=("NHWC", "HWIO", "NHWC"))


def turns(a):
    return jax.lax.scan(lambda c, _: (c @ c, None), a, length=9)[0]


@pytest.mark.parametrize(("f", "shapes", "number"), [
    (jnp.matmul, (A, B), 3 * 5 * 7 * 11),
    (lambda a, b: jnp.einsum("bij,bjk->ik", a, b), (A, B), 3 * 5 * 7 * 11),
    (lambda a, b: jnp.tanh(a).sum() + b.max(), (A, B), 0),
    (conv, (IMAGE,), 2 * 64 * 9 * 6 * 4),
    (lambda x: conv(x, stride=2), (IMAGE,), 2 * 16 * 9 * 6 * 4),
    (lambda x: conv(x, groups=2), (IMAGE,), 2 * 64 * 9 * 3 * 4),
    (jax.jit(jnp.matmul), (A, B), 3 * 5 * 7 * 11),
    (jax.checkpoint(jnp.matmul), (A, B), 3 * 5 * 7 * 11),
    (turns, (SQUARE,), 9 * 64),
    (lambda a: jax.lax.cond(a[0, 0] > 0, turns, lambda a: a @ a, a), (SQUARE,), 9 * 64),
    (lambda a: jax.lax.while_loop(lambda a: a[0, 0] < 1, lambda a: a @ a, a),
     (SQUARE,), 64),
    (jax.grad(lambda a, b: ((a @ b) ** 2).sum(), argnums=(0, 1)), (A, B), 3 * 3 * 5 * 7 * 11),
])
def test_known_numbers(f, shapes, number):
    assert flops.count(f, *shapes) == number


def test_zeros_between_samples_are_no_work():
    """The gradient of a strided convolution costs what the convolution does, for the image and for the kernel."""
    kernel = jax.ShapeDtypeStruct((3, 3, 6, 4), jnp.float32)
    f = lambda x, kernel: jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME",
                                                       dimension_numbers=("NHWC", "HWIO", "NHWC"))
    forward = flops.count(f, IMAGE, kernel)
    both = flops.count(jax.grad(lambda *given: (f(*given) ** 2).sum(), argnums=(0, 1)), IMAGE, kernel)
    np.testing.assert_allclose(both, 3 * forward, rtol=0.02)


def test_splash_counts_as_attention_does():
    q = jax.ShapeDtypeStruct((2, 256, 4, 64), jnp.float32)
    want = flops.count(layers.attention.xla, q, q, q)
    assert want == 2 * 2 * 4 * 256**2 * 64
    assert flops.count(layers.attention.splash, q, q, q) == want


def test_it_is_xlas_count_where_nothing_is_scanned():
    """Blocks of DiT-S in a loop, whose lowered module XLA can count."""
    x, emb = jax.ShapeDtypeStruct((1, 256, 384), jnp.float32), jax.ShapeDtypeStruct((1, 384), jnp.float32)
    block = layers.AdaLNBlock(heads=6, hidden=1536)
    params = jax.eval_shape(block.init, jax.random.key(0), x, emb)

    def loop(params, x, emb):
        for _ in range(3):
            x, _ = block.apply(params, x, emb)
        return x

    xla = jax.jit(loop).lower(params, x, emb).cost_analysis()["flops"] / 2
    ours = flops.count(loop, params, x, emb)
    np.testing.assert_allclose(xla, ours, rtol=0.01)
    stack = layers.stacked(layers.AdaLNBlock, 3, heads=6, hidden=1536, name="blocks")
    stacked = jax.eval_shape(stack.init, jax.random.key(0), x, emb)
    assert flops.count(stack.apply, stacked, x, emb) == ours


def test_xla_leaves_border_taps_out():
    """DDPM++ on CIFAR-10: XLA counts a convolution's taps where there are pixels, we count all of them."""
    network, x, c_noise = networks.SongUNet(mults=(2, 2, 2)), jnp.zeros((1, 32, 32, 3)), jnp.zeros(1)
    params = jax.eval_shape(network.init, jax.random.key(0), x, c_noise, None)
    ours = flops.count(network.apply, params, x, c_noise, None)
    xla = jax.jit(network.apply).lower(params, x, c_noise, None).cost_analysis()["flops"] / 2
    assert round(ours / 1e9, 2) == 21.19
    assert 0.94 < xla / ours < 0.96
