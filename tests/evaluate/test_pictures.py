"""Other people's images are read by a stated rule, or named."""

import numpy as np
import pytest
from PIL import Image

from jaxdiff.evaluate import pictures


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path):
    images = drawn(3, 4, 5, 3)
    for name, image in zip(("b.png", "a.png", "c.png"), images, strict=True):
        Image.fromarray(image).save(tmp_path / name)
    source = pictures.opened(str(tmp_path))
    found = [example["image"] for example in pictures.examples(source)]
    np.testing.assert_array_equal(found, images[[1, 0, 2]])
    assert pictures.first(source) == ((4, 5, 3), False)


def test_an_npz_of_adm_has_images_and_labels(tmp_path):
    images, labels = drawn(4, 6, 6, 3), np.array([3, 1, 2, 0])
    np.savez(tmp_path / "samples.npz", arr_0=images, arr_1=labels)
    source = pictures.opened(str(tmp_path / "samples.npz"))
    found = list(pictures.examples(source))
    np.testing.assert_array_equal([example["image"] for example in found], images)
    assert [int(example["label"]) for example in found] == [3, 1, 2, 0]
    assert [int(example["label"]) for example in pictures.examples(source, 1, 3)] == [1, 2]
    assert pictures.first(source) == ((6, 6, 3), True)


def test_alpha_is_dropped_in_an_npz_as_in_a_folder(tmp_path):
    images = drawn(2, 4, 4, 4)
    np.savez(tmp_path / "a.npz", arr_0=images)
    for i, image in enumerate(images):
        (tmp_path / "folder").mkdir(exist_ok=True)
        Image.fromarray(image, "RGBA").save(tmp_path / "folder" / f"{i}.png")
    for path in (tmp_path / "a.npz", tmp_path / "folder"):
        found = [example["image"] for example in pictures.examples(pictures.opened(str(path)))]
        np.testing.assert_array_equal(found, images[..., :3])


@pytest.mark.parametrize(("arrays", "message"), [
    ({"arr_0": drawn(2, 4, 4, 3).astype(np.float32)}, "uint8, got .2, 4, 4, 3. float32"),
    ({"arr_0": drawn(2, 4, 4)}, "got .2, 4, 4. uint8"),
    ({"arr_0": drawn(2, 3, 4, 4).transpose(0, 1, 3, 2)[..., :2]}, r"\[n, h, w, 1 or 3\]"),
    ({"arr_0": drawn(0, 4, 4, 3)}, "got .0, 4, 4, 3. uint8"),
    ({"mu": np.zeros(3), "sigma": np.eye(3)}, "arr_0 .*should be there .it has mu, sigma"),
])
def test_what_are_no_images_is_said(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        pictures.opened(str(tmp_path / "a.npz"))


def test_broken_and_mixed_images_are_named(tmp_path):
    Image.fromarray(drawn(4, 4, 3)).save(tmp_path / "a.png")
    Image.fromarray(drawn(5, 4, 3)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match="b.png"):
        pictures.opened(str(tmp_path))
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    with pytest.raises(ValueError, match="b.png"):
        pictures.opened(str(tmp_path))


def test_a_file_that_is_not_there_and_a_damaged_one(tmp_path):
    with pytest.raises(ValueError, match="a.npz: an .npz of images"):
        pictures.opened(str(tmp_path / "a.npz"))
    (tmp_path / "a.npz").write_bytes(b"PK but no archive")
    with pytest.raises(ValueError, match="a.npz: an .npz of images"):
        pictures.opened(str(tmp_path / "a.npz"))


def test_latents_are_no_images():
    with pytest.raises(ValueError, match="there are moments; latents are judged as images"):
        pictures.first({"moments": np.zeros((3, 4, 4, 8), np.float16)})
