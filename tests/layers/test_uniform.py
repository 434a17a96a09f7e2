"""Layers that start and pad as PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxdiff import layers


class One(nn.Module):
    """A layer that is called in a compact method, as networks do."""

    call: callable
    options: dict

    @nn.compact
    def __call__(self, x):
        return self.call(x, name="layer", **self.options)


@pytest.mark.parametrize(("call", "options", "shape", "fan_in"), [
    (layers.uniform_dense, {}, (2, 16), 16), (layers.uniform_conv, {"size": 3}, (2, 4, 4, 16), 144),
])
def test_kernel_and_bias_start_uniform_within_one_over_the_root_of_fan_in(call, options, shape, fan_in):
    """`torch.nn.Linear` and `Conv2d`: U(-1/√fan_in, 1/√fan_in) for both."""
    layer = One(call, {"channels": 600, **options}).init(jax.random.key(0), jnp.ones(shape))["params"]["layer"]
    for leaf in layer.values():
        assert jnp.abs(leaf).max() <= fan_in**-0.5
        assert abs(leaf.std() * (3 * fan_in) ** 0.5 - 1) < 0.1
    zero = One(call, {"channels": 6, "zero": True, **options}).init(jax.random.key(0), jnp.ones(shape))
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(zero))


def test_a_stride_of_two_pads_by_a_pixel_on_every_side():
    """Ones on arange(16): [[10, 24], [51, 90]] in PyTorch, [[45, 39], [66, 50]] under XLA's "SAME"."""
    layer = One(layers.uniform_conv, {"channels": 1, "size": 3, "stride": 2})
    params = {"params": {"layer": {"kernel": jnp.ones((3, 3, 1, 1)), "bias": jnp.zeros(1)}}}
    image = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_allclose(layer.apply(params, image)[0, ..., 0], [[10, 24], [51, 90]])


def test_wide_is_float32_or_more(x64):
    for given, kept in (("bfloat16", "float32"), ("float32", "float32"), ("float64", "float64"), ("int32", "float32")):
        assert layers.wide(jnp.ones(2, given)).dtype == kept, given
