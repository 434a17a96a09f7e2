"""The judge of digits: what its file says of it is true, and a damaged file is not believed."""

import jax
import numpy as np
import pytest

from benchmarks import digits_classifier
from jaxdiff import data
from jaxdiff.metrics import convnet, features


def right(images, labels):
    return int((features.digits().classify(images) == labels).sum())


def test_judges_as_well_as_its_file_says():
    about = convnet.load()[1]
    for split in ("train", "test"):
        examples = data.digits(split=split)
        assert len(examples["label"]) == about[split]
        assert right(examples["image"], examples["label"]) == about[f"{split}_correct"]
    assert about["test_correct"] / about["test"] >= 0.985


def test_is_not_much_surer_than_it_is_right():
    test = data.digits(split="test")
    probability = np.asarray(jax.nn.softmax(features.digits().logits(test["image"]), -1))
    assert probability.shape == (297, 10)
    sure, accuracy = probability.max(-1).mean(), (probability.argmax(-1) == test["label"]).mean()
    assert abs(sure - accuracy) < 0.01
    assert -np.log(probability[np.arange(297), test["label"]]).mean() < 0.06


@pytest.mark.parametrize("move", [(0, 1), (0, -1), (1, 0), (-1, 0)])
def test_recognises_digits_that_are_moved_by_a_pixel(move):
    test = data.digits(split="test")
    padded = np.pad(test["image"], ((0, 0), (1, 1), (1, 1), (0, 0)))
    moved = padded[:, 1 + move[0]:9 + move[0], 1 + move[1]:9 + move[1]]
    assert right(np.ascontiguousarray(moved), test["label"]) / 297 > 0.96


def test_recognises_digits_in_noise():
    test = data.digits(split="test")
    noisy = test["image"] + 16 * np.random.default_rng(0).standard_normal(test["image"].shape)  # 1/8 of the half range
    assert right(noisy.round().clip(0, 255).astype(np.uint8), test["label"]) / 297 > 0.97


def test_labels_are_whole_numbers():
    label = features.digits().classify(data.digits(split="test")["image"][:5])
    assert (label.shape, label.dtype) == ((5,), np.int32)


def test_other_sizes_are_refused():
    with pytest.raises(ValueError, match=r"images \[b, 8, 8, 1\], got \(2, 32, 32, 3\)"):
        features.digits()(np.zeros((2, 32, 32, 3), np.uint8))


# The file.


def test_missing_weights_say_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"are not at .*missing\.npz: put back .*python -m benchmarks\.digits"):
        convnet.load(tmp_path / "missing.npz")


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "changed", "header"])
def test_damaged_weights_are_refused(tmp_path, damage):
    whole = convnet.WEIGHTS.read_bytes()
    changed, header = bytearray(whole), bytearray(whole)
    changed[len(whole) // 2] ^= 1
    header[70] ^= 1
    bad = {"empty": b"", "cut": whole[:-1000], "text": b"version https://git-lfs", "changed": changed, "header": header}
    path = tmp_path / f"{damage}.npz"
    path.write_bytes(bytes(bad[damage]))
    with pytest.raises(ValueError, match=r"is damaged .*put back"):
        convnet.load(path)


def test_weights_of_another_network_are_refused(tmp_path):
    with np.load(convnet.WEIGHTS) as file:
        arrays = dict(file)
    path = tmp_path / "other.npz"
    np.savez(path, **{**arrays, "Dense_0/bias": np.zeros(3)})
    with pytest.raises(ValueError, match="another network"):
        convnet.load(path)


# The script that makes it.


def test_a_short_training_learns_and_is_repeatable(tmp_path, capsys):
    first, second = tmp_path / "a.npz", tmp_path / "b.npz"
    for path in (first, second):
        digits_classifier.main(["--steps", "30", "--seed", "3", "--out", str(path)])
    assert first.read_bytes() == second.read_bytes()
    params, about = convnet.load(first)
    assert about["seed"] == 3
    assert about["test_correct"] > 297 / 2
    assert "test: " in capsys.readouterr().out
    test = data.digits(split="test")
    logits = digits_classifier.logits(params, test["image"])
    assert (logits.argmax(-1) == test["label"]).sum() == about["test_correct"]


def test_augmentation_moves_by_at_most_a_pixel_and_stays_in_range():
    x = -np.ones((200, 8, 8, 1), np.float32)
    x[:, 3, 4] = 1
    out = np.asarray(digits_classifier.augment(jax.random.key(0), jax.numpy.asarray(x)))
    assert np.abs(out).max() <= 1
    rows, columns = np.unravel_index(out.reshape(200, -1).argmax(-1), (8, 8))
    assert (set(rows), set(columns)) == ({2, 3, 4}, {3, 4, 5})
