"""PSNR, SSIM and LPIPS of pairs, against their formulas written otherwise and cases by hand."""

import numpy as np
import pytest
from metrics import inputs
from scipy import ndimage

from jaxdiff.metrics import perceptual, psnr, ssim

REAL, FAKE = inputs.images("real", 3, 24, 31), inputs.images("fake", 3, 24, 31)


def flat(value, height=12, width=15):
    return np.full((1, height, width, 1), value, np.uint8)


def test_psnr_by_hand():
    assert psnr(flat(10), flat(11))[0] == pytest.approx(20 * np.log10(255))
    assert psnr(flat(0), flat(255))[0] == pytest.approx(0, abs=1e-12)
    one = flat(10).copy()
    one[0, 0, 0, 0] = 40  # one pixel of 180 differs by 30: the mean square is 5
    assert psnr(flat(10), one)[0] == pytest.approx(10 * np.log10(255**2 / 5))


def test_equal_images_have_no_finite_psnr_and_an_ssim_of_one():
    assert np.all(psnr(REAL, REAL) == np.inf)
    np.testing.assert_allclose(ssim(REAL, REAL), 1, rtol=1e-12)


def test_each_pair_has_its_own_value_and_sides_may_change_places():
    for measure in (psnr, ssim):
        found = measure(REAL, FAKE)
        assert found.shape == (3,) and found.dtype == np.float64
        np.testing.assert_array_equal(found, [measure(REAL[i:i + 1], FAKE[i:i + 1])[0] for i in range(3)])
        np.testing.assert_allclose(measure(FAKE, REAL), found, rtol=1e-12)


def test_ssim_is_its_formula_under_scipys_gaussian_filter():
    def windowed(x):
        return ndimage.gaussian_filter(x, (1.5, 1.5, 0), truncate=3.5)[5:-5, 5:-5]  # 3.5·1.5 is cut to 5 on each side

    def similarity(a, b):
        a, b = a.astype(float), b.astype(float)
        mean_a, mean_b = windowed(a), windowed(b)
        var_a, var_b, both = windowed(a * a) - mean_a**2, windowed(b * b) - mean_b**2, windowed(a * b) - mean_a * mean_b
        c1, c2 = 2.55**2, 7.65**2
        return ((2 * mean_a * mean_b + c1) * (2 * both + c2)
                / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean()

    np.testing.assert_allclose(ssim(REAL, FAKE), [*map(similarity, REAL, FAKE)], rtol=1e-10)


def test_ssim_of_flat_images_is_that_of_their_means():
    for a, b in ((0, 255), (100, 150), (0, 0)):
        right = (2 * a * b + 2.55**2) / (a * a + b * b + 2.55**2)
        assert ssim(flat(a), flat(b))[0] == pytest.approx(right, rel=1e-9)


def test_ssim_of_a_negative_is_negative_and_falls_with_noise():
    noise = np.random.default_rng(0).standard_normal(REAL.shape)
    noisy = [ssim(REAL, np.clip(REAL + s * noise, 0, 255).astype(np.uint8)).mean() for s in (2, 10, 50)]
    assert 1 > noisy[0] > noisy[1] > noisy[2] > 0
    stripes = np.tile(np.array([0, 255], np.uint8), (1, 20, 10))[..., None]
    assert ssim(stripes, 255 - stripes)[0] < -0.9


def test_the_smallest_image_for_ssim_is_one_window():
    assert ssim(flat(3, 11, 11), flat(3, 11, 11))[0] == pytest.approx(1)
    with pytest.raises(ValueError, match="window is 11 wide, images 10x15 are smaller"):
        ssim(flat(3, 10), flat(3, 10))


# LPIPS.


def maps(seed, shapes=((4, 6, 3), (2, 3, 5))):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((2, *shape)) for shape in shapes]


def test_lpips_is_its_sum_over_layers():
    a, b, weights = maps(0), maps(1), [np.array([1.0, 0, 2]), np.arange(5) / 5]
    right = np.zeros(2)
    for x, y, w in zip(a, b, weights, strict=True):
        for i, row, column in np.ndindex(x.shape[:3]):
            u, v = x[i, row, column], y[i, row, column]
            u, v = u / (np.sqrt(u @ u) + 1e-10), v / (np.sqrt(v @ v) + 1e-10)
            right[i] += (w * (u - v) ** 2).sum() / (x.shape[1] * x.shape[2])
    np.testing.assert_allclose(perceptual(a, b, weights), right, rtol=1e-12)


def test_lpips_of_directions_by_hand():
    """Vectors at right angles are 2 apart, opposite ones 4, and lengths do not count."""
    x, y = np.zeros((3, 1, 1, 2)), np.zeros((3, 1, 1, 2))
    x[:, 0, 0] = [[5, 0], [1, 0], [2, 0]]
    y[:, 0, 0] = [[0, 1], [-3, 0], [9, 0]]
    np.testing.assert_allclose(perceptual([x], [y]), [2, 4, 0], atol=1e-9)
    np.testing.assert_allclose(perceptual([x], [y], [np.array([1.0, 0])]), [1, 4, 0], atol=1e-9)
    np.testing.assert_array_equal(perceptual([0 * x], [0 * x]), 0)  # no 0/0


def test_errors():
    with pytest.raises(ValueError, match=r"one shape, got \(3, 24, 31, 3\) and \(2, 24, 31, 3\)"):
        psnr(REAL, FAKE[:2])
    with pytest.raises(ValueError, match="compared as uint8, got float64 and uint8"):
        ssim(REAL / 255, FAKE)
    with pytest.raises(ValueError, match="got 2, 1 and 2"):
        perceptual(maps(0), maps(1)[:1])
    with pytest.raises(ValueError, match="got 0, 0 and 0"):
        perceptual([], [])
    with pytest.raises(ValueError, match=r"weights \[c\] >= 0, got \(2, 4, 6, 3\), \(2, 4, 6, 3\), \(4,\)"):
        perceptual(maps(0), maps(1), [np.ones(4), np.ones(5)])
    with pytest.raises(ValueError, match=r"weights \[c\] >= 0"):
        perceptual(maps(0), maps(1), [-np.ones(3), np.ones(5)])
