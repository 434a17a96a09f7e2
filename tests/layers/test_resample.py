"""Resampling by two: the alignment of EDM, one filter seen from both sides."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import layers

TAPS = [(1, 1), (1, 3, 3, 1), (1, 2), (1, 5, 10, 10, 5, 1)]


def image(c=3):
    return jax.random.normal(jax.random.key(0), (2, 8, 6, c))


def test_the_box_averages_and_repeats():
    x = image()
    np.testing.assert_allclose(layers.down(x)[:, 1, 2], x[:, 2:4, 4:6].mean((1, 2)), atol=1e-6)
    np.testing.assert_array_equal(layers.up(x)[:, 2:4, 4:6], np.tile(x[:, 1:2, 2:3], (1, 2, 2, 1)))


@pytest.mark.parametrize("taps", TAPS)
def test_they_are_strided_convolutions(taps):
    x = image(c=1)
    f = np.outer(taps, taps)[:, :, None, None] / sum(taps) ** 2
    pad = (len(taps) - 1) // 2
    spec = dict(dimension_numbers=("NHWC", "HWIO", "NHWC"))
    want = jax.lax.conv_general_dilated(x, f.astype(np.float32), (2, 2), [(pad, pad)] * 2, **spec)
    np.testing.assert_allclose(layers.down(x, taps), want, atol=1e-6)
    # PyTorch's transposed convolution: the flipped filter over the image with zeros between.
    edge = len(taps) - 1 - pad
    want = jax.lax.conv_general_dilated(x, 4 * f[::-1, ::-1].astype(np.float32), (1, 1), [(edge, edge)] * 2,
                                        lhs_dilation=(2, 2), **spec)
    np.testing.assert_allclose(layers.up(x, taps), want, atol=1e-6)


@pytest.mark.parametrize("taps", TAPS)
def test_up_is_four_times_the_transpose_of_down(taps):
    x = image()
    transpose = jax.linear_transpose(lambda x: layers.down(x, taps), x)(layers.down(x, taps))[0]
    np.testing.assert_allclose(layers.up(layers.down(x, taps), taps), 4 * transpose, atol=1e-5)


@pytest.mark.parametrize("taps", [(1, 1), (1, 3, 3, 1)])
def test_nothing_shifts(taps):
    """A ramp stays a ramp about the same centre, away from the border."""
    at = (jnp.arange(16) + 0.5) / 16
    ramp = jnp.broadcast_to(at[None, :, None, None], (1, 16, 16, 1))
    np.testing.assert_allclose(layers.down(ramp, taps)[0, 2:-2, 4, 0], ((np.arange(8) + 0.5) / 8)[2:-2], atol=1e-6)
    np.testing.assert_allclose(layers.up(ramp, taps)[0, 4:-4, 9, 0], ((np.arange(32) + 0.5) / 32)[4:-4],
                               atol=0 if len(taps) == 4 else 1 / 64 + 1e-6, rtol=1e-5)


def test_zeros_may_be_there_before_the_filter():
    """A convolution that goes over the border leaves them, or other numbers, to a filter without padding."""
    wide = jnp.pad(image(), ((0, 0), (1, 1), (1, 1), (0, 0)))
    np.testing.assert_array_equal(layers.down(wide, (1, 3, 3, 1), pad=0), layers.down(image(), (1, 3, 3, 1)))
    np.testing.assert_allclose(layers.down(image(), pad=1), layers.down(wide), atol=1e-6)


@pytest.mark.parametrize("taps", TAPS)
def test_the_dtype_stays(taps):
    x = image().astype(jnp.bfloat16)
    assert layers.down(x, taps).dtype == layers.up(x, taps).dtype == jnp.bfloat16


def test_errors():
    with pytest.raises(ValueError, match="image of 7x8 cannot be halved"):
        layers.down(jnp.ones((1, 7, 8, 1)))
    for taps in ((1, 2, 1), (), (1, -1)):
        with pytest.raises(ValueError, match="even number of taps"):
            layers.up(jnp.ones((1, 8, 8, 1)), taps)
