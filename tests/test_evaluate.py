"""Yardsticks are computed as the samples are, with as many images on each side."""

import numpy as np
import pytest

from jaxdiff import data, evaluate, workdir
from jaxdiff.metrics import features


def test_real_images_are_far_nearer_to_real_images_than_noise_is():
    train, test = data.digits(split="train")["image"], data.digits(split="test")["image"]
    reference = train[np.random.default_rng(0).permutation(len(train))[: len(test)]]
    found = evaluate.yardsticks(reference, test, features.pixels())
    assert 0 < found["floor"] < found["ceiling"] / 5


def test_an_image_set_has_no_distance_from_itself_whatever_its_order():
    images = data.digits(split="test")["image"]
    shuffled = images[np.random.default_rng(0).permutation(len(images))]
    assert evaluate.distance(images, shuffled, features.pixels()) == pytest.approx(0, abs=1e-6)


def test_another_number_on_one_side_is_refused():
    """G19's kind: a distance falls with n, so both sides have the same."""
    images = data.digits(split="test")["image"]
    with pytest.raises(ValueError, match="as many images of one size on each side"):
        evaluate.distance(images, images[:-1], features.pixels())


def test_matched_noise_has_the_mean_and_variance_of_each_pixel_and_nothing_else():
    images = np.random.default_rng(0).integers(80, 170, (4000, 2, 2, 1)).astype(np.uint8)
    images[:, 0, 0] = images[:, 1, 1]  # a correlation that noise must not have
    noise = evaluate.matched_noise(images).astype(float)
    np.testing.assert_allclose(noise.mean(0), images.mean(0), atol=2)
    np.testing.assert_allclose(noise.std(0), images.std(0), rtol=0.05)
    assert abs(np.corrcoef(noise[:, 0, 0, 0], noise[:, 1, 1, 0])[0, 1]) < 0.06


@pytest.mark.parametrize("batch", [1, 7, 512])
def test_features_do_not_depend_on_the_batch(batch):
    images = data.digits(split="test")["image"][:20]
    extract = features.digits()
    np.testing.assert_allclose(evaluate.features_of(images, extract, batch=batch),
                               evaluate.features_of(images, extract, batch=20), rtol=1e-4, atol=1e-4)


def test_the_requested_class_is_recognised_in_real_digits_and_not_in_others():
    test = data.digits(split="test")
    judge = features.digits().classify
    right = evaluate.requested_accuracy(test["image"], test["label"], judge)
    wrong = evaluate.requested_accuracy(test["image"], (test["label"] + 1) % 10, judge)
    assert right["accuracy"] > 0.97 and wrong["accuracy"] < 0.03
    assert right["accuracy_low"] < right["accuracy"] < right["accuracy_high"]


def test_rows_are_appended_whole(tmp_path):
    path = tmp_path / "eval" / "results.jsonl"
    evaluate.append(path, {"n": 3})
    evaluate.append(path, {"n": 4})
    assert [row["n"] for row in workdir.rows(path)] == [3, 4]
    assert list(workdir.rows(tmp_path / "none.jsonl")) == []
