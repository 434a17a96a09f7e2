"""Images seen through a map of the plane: the filters there and back, and what lies between."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxdiff.data import warp


def test_a_map_that_moves_nothing_gives_the_image_back():
    x = np.random.RandomState(0).uniform(-1, 1, (8, 16, 12, 3)).astype(np.float32)
    np.testing.assert_allclose(warp.warped(x, jnp.eye(3)[None].repeat(8, 0)), x, atol=3e-6)


@pytest.mark.parametrize("n", [1, 2, 3, 8, 33])
def test_the_filter_back_inverts_the_filter_there(n):
    up, down = warp._filters(n)
    np.testing.assert_allclose(down @ up, np.eye(n), atol=1e-6)
    np.testing.assert_allclose(up.sum(1), 1, atol=1e-6)  # a constant stays one


def test_the_filter_is_the_least_asymmetric_wavelet_of_six_vanishing_moments():
    """Of the spectral factors of the shortest halfband filter the nearest to symmetry (Daubechies 1992, sec. 8.1)."""
    taps = np.array(warp.SYM6)
    np.testing.assert_allclose([taps @ np.roll(taps, 2 * k) for k in range(6)], [1, 0, 0, 0, 0, 0], atol=1e-10)
    k = np.arange(12)
    assert max(abs((-1.0) ** k @ (taps * k**power)) / (k**power @ abs(taps)) for power in range(6)) < 1e-8

    def phase_error(h):
        at = np.linspace(0.01, 0.5, 50) * np.pi
        angle = np.unwrap(np.angle(np.exp(-1j * np.outer(at, k)) @ h))
        return np.ptp(angle - at * np.polyfit(at, angle, 1)[0])

    factors = np.roots([math.comb(5 + j, j) for j in range(5, -1, -1)])  # of P(y), y = (2 - z - 1/z)/4
    pairs = [np.roots([1, 4 * y - 2, 1]) for y in factors if y.imag >= 0]
    errors = []
    for inside in range(2 ** len(pairs)):
        zeros = [-1.0] * 6
        for i, pair in enumerate(pairs):
            zero = sorted(pair, key=abs)[inside >> i & 1]
            zeros += [zero] if abs(zero.imag) < 1e-9 else [zero, zero.conjugate()]
        h = np.poly(zeros).real
        errors.append((phase_error(h), h * math.sqrt(2) / h.sum()))
    best = min(errors, key=lambda pair: pair[0])[1]
    assert min(np.abs(best - taps).max(), np.abs(best - taps[::-1]).max()) < 1e-6


def test_half_a_pixel_to_the_right_is_pillow_s():
    y, x = np.indices((32, 32)) / 31
    image = (0.5 * np.cos(3 * x + 2 * y) + 0.3 * np.sin(5 * y)).astype(np.float32)
    ours = warp.warped(image[None, :, :, None], jnp.array([[[1, 0, -0.5], [0, 1, 0], [0, 0, 1]]]))[0, :, :, 0]
    theirs = Image.fromarray(image).transform((32, 32), Image.Transform.AFFINE, (1, 0, -0.5, 0, 1, 0),
                                              Image.Resampling.BICUBIC)
    np.testing.assert_allclose(ours[3:-3, 3:-3], np.asarray(theirs)[3:-3, 3:-3], atol=2e-3)


def test_small_images_made_smaller_do_not_alias():
    """Stripes of two pixels' period, at half their size, are gray; read pixel by pixel they would be stripes again."""
    stripes = np.broadcast_to(np.where(np.arange(32) % 2, 1.0, -1.0), (1, 32, 32))[..., None].astype(np.float32)
    half = np.asarray(warp.warped(stripes, jnp.diag(jnp.array([2.0, 2.0, 1.0]))[None]))
    assert np.abs(half[0, 10:22, 10:22]).max() < 0.05
