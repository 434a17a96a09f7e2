"""What a figure is read beside."""

import numpy as np

from jaxdiff import data, evaluate, metrics
from jaxdiff.metrics import features


def test_real_images_are_far_nearer_to_real_images_than_noise_is():
    train, test = data.digits(split="train")["image"], data.digits(split="test")["image"]
    reference = train[np.random.default_rng(0).permutation(len(train))[: len(test)]]
    pixels = features.pixels()
    seen = {name: metrics.moments(np.asarray(pixels(images)))
            for name, images in (("real", reference), ("held out", test), ("noise", evaluate.matched_noise(reference)))}
    floor, ceiling = (metrics.frechet(seen["real"], seen[name]) for name in ("held out", "noise"))
    assert 0 < floor < ceiling / 5


def test_matched_noise_has_the_mean_and_variance_of_each_pixel_and_nothing_else():
    images = np.random.default_rng(0).integers(80, 170, (4000, 2, 2, 1)).astype(np.uint8)
    images[:, 0, 0] = images[:, 1, 1]  # a correlation that noise must not have
    noise = evaluate.matched_noise(images).astype(float)
    np.testing.assert_allclose(noise.mean(0), images.mean(0), atol=2)
    np.testing.assert_allclose(noise.std(0), images.std(0), rtol=0.05)
    assert abs(np.corrcoef(noise[:, 0, 0, 0], noise[:, 1, 1, 0])[0, 1]) < 0.06


def test_the_requested_class_is_recognised_in_real_digits_and_not_in_others():
    test = data.digits(split="test")
    logits = np.asarray(features.digits().logits(test["image"]))
    right = evaluate.requested_accuracy(logits, test["label"])
    wrong = evaluate.requested_accuracy(logits, (test["label"] + 1) % 10)
    assert right["accuracy"] > 0.97 and wrong["accuracy"] < 0.03
    assert right["accuracy_low"] < right["accuracy"] < right["accuracy_high"]
