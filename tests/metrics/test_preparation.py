"""Images come to a network's size as each published tool brings them there.

`golden/fid_resizes.npz` is by torch-fidelity and torch (`golden/make_fid.py`); Pillow is run here.  Tolerances are in
grey levels: float32 has 3e-5 of them at 255.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from metrics import inputs
from PIL import Image

from jaxdiff.metrics.features import preparation

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "fid_resizes.npz"
SIZES = [(9, 6, 13), (40, 23, 16), (32, 32, 299), (300, 320, 224), (512, 256, 224), (50, 64, 64)]


@functools.cache
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.mark.parametrize("key", list(golden()))
@pytest.mark.parametrize("how", [jax.jit, lambda resize: resize], ids=["jit", "eager"])
def test_is_what_the_torch_tools_make_of_it(key, how):
    given, size, protocol = key.split("/")
    height, width = map(int, given.split("x"))
    resize = how(lambda images: preparation.resized(images, protocol, int(size)))
    step = 8 if size == "299" else 1
    found = resize(inputs.pattern(height, width))[0, ::step, ::step]
    np.testing.assert_allclose(found, golden()[key], rtol=0, atol=5e-4 if protocol == "edm2" else 7e-5)


def by_pillow(image, size, *, whole):
    """Width first, in two calls: so it is up to Pillow 12, with which figures were published; Pillow 13 begins with
    the height where that shrinks much more (python-pillow/Pillow#9549), by up to 7 grey levels elsewhere."""
    def bicubic(plane):
        return np.asarray(plane.resize((size, plane.height), Image.BICUBIC).resize((size, size), Image.BICUBIC))

    if whole:
        return bicubic(Image.fromarray(image)).astype(float)
    return np.stack([bicubic(Image.fromarray(image[..., c].astype(np.float32))) for c in range(3)], -1)


@pytest.mark.parametrize(("height", "width", "size"), SIZES)
def test_bicubic_on_bytes_is_pillow_to_the_last_bit(height, width, size):
    image = inputs.pattern(height, width)
    found = jax.jit(lambda images: preparation.resized(images, "edm2_pil", size))(image)[0]
    np.testing.assert_array_equal(found, by_pillow(image[0], size, whole=True))


@pytest.mark.parametrize(("height", "width", "size"), SIZES)
def test_clean_is_pillow_in_float_clipped_and_not_rounded(height, width, size):
    image = inputs.pattern(height, width)
    raw = by_pillow(image[0], size, whole=False)
    found = jax.jit(lambda images: preparation.resized(images, "clean", size))(image)[0]
    np.testing.assert_allclose(found, raw.clip(0, 255), rtol=0, atol=1e-4)
    if size > height and size > width:
        assert raw.min() < -1 and raw.max() > 256  # an edge overshoots: the clip is seen
        beyond = preparation.resized(image, "edm2", size)[0]
        np.testing.assert_allclose(beyond, raw, rtol=0, atol=2e-4)


def test_cmmd_takes_the_square_in_the_middle_first():
    image = inputs.pattern(21, 34)
    found = preparation.resized(image, "cmmd", 28)
    np.testing.assert_array_equal(found[0], by_pillow(image[0, :, 6:27], 28, whole=True))


@pytest.mark.parametrize(("protocol", "row"), [
    ("tf1", [0, 127.5, 255, 255]), ("half_pixel", [0, 63.75, 191.25, 255]), ("legacy_pytorch", [0, 63.75, 191.25, 255]),
])
def test_two_pixels_become_four(protocol, row):
    """FID.md, fault 1, `resize_2_to_4_second_pixel`: 127.5 on TF1's grid, 63.75 between centres."""
    image = np.array([0, 255], np.uint8).reshape(1, 1, 2, 1)
    np.testing.assert_array_equal(preparation.resized(image, protocol, 4)[0, 0, :, 0], row)


def test_tf1_shrinks_without_antialiasing():
    """`tf1_8_to_4_no_antialias`: every second pixel is taken."""
    image = np.tile(np.array([0, 255], np.uint8), 4).reshape(1, 1, 8, 1)
    assert not np.any(preparation.resized(image, "tf1", 4))
    assert np.all(np.abs(preparation.resized(image, "clean", 4)[0, 0, 1:-1] - 127.5) < 30)


@pytest.mark.parametrize(("protocol", "value"), [("tf1", 0.9921875), ("clean", 0.9921875), ("half_pixel", 1),
                                                 ("legacy_pytorch", 1)])
def test_white_becomes_what_the_protocol_says(protocol, value):
    """FID.md, fault 3, `normalise_255`."""
    assert float(preparation.signed(jnp.float32(255), protocol)) == value
    assert float(preparation.signed(jnp.float32(0), protocol)) == -1


def test_positions_computed_inside_a_program_would_move_the_image():
    """The trap: XLA fuses i·ratio − floor to one rounding.  Matrices of the host are not touched by it."""
    image = inputs.pattern(64, 64, 1)

    def traced(images):
        x = images.astype(jnp.float32)
        for axis in (2, 1):
            position = jnp.arange(299, dtype=jnp.float32) * jnp.float32(x.shape[axis] / 299)
            low = jnp.floor(position).astype(int)
            high = jnp.minimum(low + 1, x.shape[axis] - 1)
            weight = jnp.expand_dims(position - low, tuple({0, 1, 2, 3} - {axis}))
            x = jnp.take(x, low, axis) + (jnp.take(x, high, axis) - jnp.take(x, low, axis)) * weight
        return x

    exact = traced(image)  # each operation rounds by itself, as in torch-fidelity
    moved = np.abs(jax.jit(traced)(image) - exact).max()
    ours = np.abs(jax.jit(lambda images: preparation.resized(images, "tf1", 299))(image)[..., :1] - exact).max()
    assert ours < 7e-5 < 1e-4 < moved


@pytest.mark.parametrize("protocol", preparation.PROTOCOLS)
def test_a_grey_image_is_three_equal_channels(protocol):
    grey = inputs.pattern(12, 10, 1)
    found = jax.jit(lambda images: preparation.resized(images, protocol, 15))(grey)
    assert (found.shape, found.dtype) == ((1, 15, 15, 3), jnp.float32)
    np.testing.assert_allclose(found, preparation.resized(np.repeat(grey, 3, -1), protocol, 15), atol=1e-4)


@pytest.mark.parametrize("protocol", preparation.PROTOCOLS)
def test_an_image_of_the_right_size_is_left_as_it_is(protocol):
    image = inputs.pattern(33, 33)
    np.testing.assert_array_equal(preparation.resized(image, protocol, 33), image)


@pytest.mark.parametrize("protocol", preparation.PROTOCOLS)
def test_a_flat_image_stays_flat(protocol):
    image = np.full((1, 37, 21, 3), 201, np.uint8)
    np.testing.assert_allclose(preparation.resized(image, protocol, 24), 201, rtol=0, atol=7e-5)


def test_double_precision_is_kept(x64):
    image = inputs.pattern(32, 48)
    found = preparation.resized(image, "clean", 20, dtype=jnp.float64)
    assert found.dtype == jnp.float64
    weights = [preparation.matrix("bicubic", side, 20) for side in (32, 48)]
    exact = np.einsum("bhwc,oh,pw->bopc", image, *weights)
    np.testing.assert_allclose(found, exact.clip(0, 255), rtol=0, atol=1e-11)


def test_mean_and_deviation_are_those_of_imagenet():
    """torchvision's Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) of x/255."""
    found = preparation.standardised(jnp.asarray([255.0, 0.0, 127.5]))
    np.testing.assert_allclose(found, [(1 - 0.485) / 0.229, -0.456 / 0.224, (0.5 - 0.406) / 0.225], rtol=1e-6)


@pytest.mark.parametrize(("shape", "dtype", "problem"), [
    ((2, 8, 8, 4), np.uint8, "of 1 or 3 channels, got .*drop an alpha"), ((2, 8, 8, 2), np.uint8, "of 1 or 3 channels"),
    ((8, 8, 3), np.uint8, "'inception' are of uint8 images"), ((2, 8, 8, 3), np.float32, "uint8 images .*float32"),
])
def test_what_is_no_picture_is_refused(shape, dtype, problem):
    with pytest.raises(ValueError, match=problem):
        preparation.resized(np.zeros(shape, dtype), "tf1", 16, name="inception")


def test_an_unknown_protocol_is_refused_with_the_nearest():
    assert preparation.checked("clean", ("tf1", "clean"), "inception") == "clean"
    with pytest.raises(ValueError, match="'inception' have no protocol 'half-pixel'; did you mean 'half_pixel'"):
        preparation.checked("half-pixel", ("tf1", "half_pixel"), "inception")
