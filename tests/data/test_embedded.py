"""Sources that need no download."""

import numpy as np
import pytest

from jaxdiff import data
from jaxdiff.build import build


def test_digits_are_split_by_class_without_overlap():
    train, test, everything = (data.digits(split=split) for split in ("train", "test", "all"))
    assert train["image"].shape == (1500, 8, 8, 1) and train["image"].dtype == np.uint8
    assert test["image"].shape == (297, 8, 8, 1) and test["label"].dtype == np.int32
    of_class = np.bincount(everything["label"])
    share = np.bincount(test["label"]) / of_class
    np.testing.assert_allclose(share * of_class, of_class * 297 / 1797, atol=1)
    both = np.concatenate([train["image"], test["image"]]).reshape(1797, -1)
    np.testing.assert_array_equal(np.unique(both, axis=0), np.unique(everything["image"].reshape(1797, -1), axis=0))
    assert len(np.unique(both, axis=0)) == 1797  # no digit occurs twice, so the splits are disjoint


def test_digits_levels():
    from sklearn.datasets import load_digits

    expected = np.round(load_digits().data * 255 / 16)
    np.testing.assert_array_equal(data.digits(split="all")["image"].reshape(1797, 64), expected)
    assert expected.max() == 255


def test_the_split_depends_on_its_seed_alone():
    np.testing.assert_array_equal(data.digits(seed=1)["image"], data.digits(seed=1)["image"])
    assert (data.digits(seed=1)["image"] != data.digits(seed=2)["image"]).any()
    assert len(data.digits(split="test", held_out=100)["label"]) == 100


def test_digits_build_from_a_config():
    built = build({"name": "digits", "split": "train"}, data)
    np.testing.assert_array_equal(built["label"], data.digits()["label"])
    with pytest.raises(ValueError, match="'digits' has no option 'spilt'; did you mean 'split'"):
        build({"name": "digits", "spilt": "train"}, data)
    with pytest.raises(ValueError, match="unknown data 'digit'; did you mean 'digits'"):
        build("digit", data)


def test_mixture_has_its_moments():
    x0 = data.mixture(n=100_000, seed=1)["x0"].astype(np.float64)
    weights, means, stds = (np.asarray(values) for values in data.MIXTURE)
    mean = weights @ means
    cov = np.einsum("k,ki,kj->ij", weights, means, means) - np.outer(mean, mean) + weights @ stds**2 * np.eye(2)
    np.testing.assert_allclose(x0.mean(0), mean, atol=4 * np.sqrt(cov.max() / 1e5))
    np.testing.assert_allclose(np.cov(x0.T), cov, atol=0.015)
    assert data.mixture()["x0"].shape == (8192, 2) and data.mixture()["x0"].dtype == np.float32
    np.testing.assert_array_equal(data.mixture(n=5)["x0"], data.mixture(n=5)["x0"])


def test_errors():
    with pytest.raises(ValueError, match="digits has no split 'tran'; did you mean 'train'"):
        data.digits(split="tran")
    with pytest.raises(ValueError, match="digits can hold out 1 to 1796 images, got 1797"):
        data.digits(held_out=1797)
    with pytest.raises(ValueError, match="mixture needs n >= 1, got 0"):
        data.mixture(n=0)


def test_mock_images_have_any_shape_and_classes_in_turn():
    made = data.mock(shape=(4, 6, 3), classes=3, num=7)
    assert made["image"].shape == (7, 4, 6, 3) and made["image"].dtype == np.uint8
    assert list(made["label"]) == [0, 1, 2, 0, 1, 2, 0]
    assert "label" not in data.mock(shape=(4, 4, 1))
    assert (data.mock(shape=(4, 4, 1))["image"] != data.mock(shape=(4, 4, 1), seed=1)["image"]).any()
    with pytest.raises(ValueError, match="mock needs a shape"):
        data.mock(shape=(4, 4))
