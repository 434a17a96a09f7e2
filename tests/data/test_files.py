"""Folders of images."""

import numpy as np
import pytest
from PIL import Image

from jaxdiff import data
from jaxdiff.data import files


def write(path, *, mode="RGB", extent=(6, 4), value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = Image.new(mode, extent, value if mode in ("L", "I;16") else (value,) * len(mode))
    bands.save(path)


def test_images_are_sorted_and_unlabelled_without_subfolders(tmp_path):
    for value, name in enumerate(["b.png", "a.BMP", "c.webp"]):
        write(tmp_path / name, value=10 * value)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "._a.png").write_text("what another system leaves behind")
    source = data.folder(str(tmp_path))
    assert len(source) == 3 and source.classes == () and set(source[0]) == {"image"}
    assert source[0]["image"].shape == (4, 6, 3) and source[0]["image"].dtype == np.uint8
    assert [int(source[i]["image"][0, 0, 0]) for i in range(2)] == [10, 0]


def test_classes_are_the_first_subfolders_in_order(tmp_path):
    for value, name in enumerate(["dog/deep/x.png", "cat/y.png", "cat/x.jpg"]):
        write(tmp_path / name, value=50 * value)
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "dog")
    source = data.folder(str(tmp_path))
    assert source.classes == ("cat", "dog", "link")
    assert [int(source[i]["label"]) for i in range(4)] == [0, 0, 1, 2]
    batch = next(data.batches(source, batch=4, shuffle=False)(0))
    np.testing.assert_array_equal(batch["label"], [0, 0, 1, 2])
    assert batch["label"].dtype == np.int32 and batch["image"].shape == (4, 4, 6, 3)


def test_one_channel_only_where_all_are_grayscale(tmp_path):
    write(tmp_path / "a.png", mode="L", value=7)
    assert data.folder(str(tmp_path))[0]["image"].shape == (4, 6, 1)
    assert data.folder(str(tmp_path), size=2)[0]["image"].shape == (2, 2, 1)
    write(tmp_path / "b.png", mode="RGBA")
    source = data.folder(str(tmp_path), size=4)
    assert source[0]["image"].shape == source[1]["image"].shape == (4, 4, 3)
    assert (source[0]["image"] == 7).all()


def test_size_crops_the_centre_and_averages(tmp_path):
    wide = np.zeros((4, 12, 3), np.uint8)
    wide[:, 4:8] = 200  # the central square
    Image.fromarray(wide).save(tmp_path / "a.png")
    assert (data.folder(str(tmp_path), size=4)[0]["image"] == 200).all()
    checks = np.indices((32, 32)).sum(0) % 2 * 255
    resized = files.squared(checks.astype(np.uint8)[..., None], 8)
    assert resized.shape == (8, 8, 1) and abs(resized.astype(int) - 127).max() < 12  # aliasing gives 0 or 255
    assert (files.squared(wide, 5) == 0).mean() < 0.5 and files.squared(wide, None) is wide


def test_many_files_report_progress(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(files, "QUIET", 4)
    for value in range(5):
        write(tmp_path / f"{value}.png", value=value)
    data.folder(str(tmp_path))
    assert capsys.readouterr().err.splitlines()[-1] == f"checked 5 of 5 images in {tmp_path}"


def test_no_such_folder(tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(ValueError, match="no folder '.*imagse'; did you mean 'images'"):
        data.folder(str(tmp_path / "imagse"))
    with pytest.raises(ValueError, match="no folder '.*imagse'; did you mean 'images'"):
        data.folder(str(tmp_path / "imagse" / "train"))
    with pytest.raises(ValueError, match=r"no images in '.*images'; looked for \.bmp, \.jpeg, \.jpg, \.png, \.webp"):
        data.folder(str(tmp_path / "images"))


@pytest.mark.parametrize("damage", ["truncated", "changed", "text", "empty"])
def test_a_broken_image_is_found_when_opened(tmp_path, damage):
    for name in ("a.png", "b.png", "c.png"):
        noise = np.random.RandomState(0).randint(0, 256, (16, 16, 3)).astype(np.uint8)
        Image.fromarray(noise).save(tmp_path / name)
    whole = (tmp_path / "b.png").read_bytes()
    middle = len(whole) // 2
    broken = {"truncated": whole[:middle], "text": b"<html>404</html>", "empty": b"",
              "changed": whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1:]}[damage]
    (tmp_path / "b.png").write_bytes(broken)
    with pytest.raises(ValueError, match=r"cannot decode '.*b\.png'"):
        data.folder(str(tmp_path))


def test_a_truncated_jpeg_is_found_when_opened(tmp_path):
    write(tmp_path / "a.jpg", extent=(64, 64))
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"cannot decode '.*a\.jpg': image file is truncated"):
        data.folder(str(tmp_path))


def test_mixed_sizes_and_modes(tmp_path):
    write(tmp_path / "a.png")
    write(tmp_path / "b.png", extent=(5, 4))
    with pytest.raises(ValueError, match=r"a\.png is 6x4 RGB and .*b\.png is 5x4 RGB; give 'size'"):
        data.folder(str(tmp_path))
    write(tmp_path / "b.png", mode="L")
    with pytest.raises(ValueError, match=r"a\.png is 6x4 RGB and .*b\.png is 6x4 L; give 'size'"):
        data.folder(str(tmp_path))
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        data.folder(str(tmp_path), size=0)


def test_more_than_eight_bits(tmp_path):
    write(tmp_path / "a.png", mode="I;16", value=3000)
    with pytest.raises(ValueError, match=r"a\.png' has mode 'I;16'; images must have 8 bits a channel"):
        data.folder(str(tmp_path))


def test_an_image_beside_the_classes(tmp_path):
    write(tmp_path / "cat" / "a.png")
    write(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"b\.png' lies beside the class folders"):
        data.folder(str(tmp_path))
