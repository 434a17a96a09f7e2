"""Folders of images."""

import os

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


# What is remembered of a folder.


@pytest.fixture
def decoded(tmp_path, monkeypatch):
    """The names of the files that are decoded, in a world that remembers."""
    monkeypatch.setenv("JAXDIFF_CACHE", str(tmp_path / "cache"))
    seen = []
    inner = files._decoded
    monkeypatch.setattr(files, "_decoded", lambda file: seen.append(file.name) or inner(file))
    return seen


def old(*paths, seconds=1e9):
    for path in paths:
        os.utime(path, (seconds, seconds))


def again(root, decoded):
    """Which files another opening decodes, and what it gives."""
    decoded.clear()
    source = data.folder(str(root))
    return sorted(decoded), source


def test_only_new_and_changed_files_are_decoded_again(tmp_path, decoded):
    root = tmp_path / "images"
    for name in "abc":
        write(root / f"{name}.png", value=ord(name))
        old(root / f"{name}.png")
    assert again(root, decoded)[0] == ["a.png", "b.png", "c.png"]
    seen, source = again(root, decoded)
    assert not seen and source.mode == "RGB" and [int(one["image"].max()) for one in source] == [97, 98, 99]
    write(root / "b.png", value=1)
    old(root / "b.png", seconds=1.1e9)
    write(root / "sub.png", value=2)
    old(root / "sub.png")
    (root / "c.png").unlink()
    seen, source = again(root, decoded)
    assert seen == ["b.png", "sub.png"] and [int(one["image"].max()) for one in source] == [97, 1, 2]
    assert not again(root, decoded)[0]


def test_a_file_that_has_just_been_written_is_decoded_again(tmp_path, decoded):
    write(tmp_path / "images" / "a.png")  # its time may not tell it from another of the same moment
    assert again(tmp_path / "images", decoded)[0] == again(tmp_path / "images", decoded)[0] == ["a.png"]


def test_a_changed_file_is_still_refused(tmp_path, decoded):
    root = tmp_path / "images"
    for name in ("a.png", "b.png", "c.png"):
        write(root / name)
        old(root / name)
    data.folder(str(root))
    for name in ("a.png", "c.png"):
        (root / name).write_bytes(b"<html>404</html>")
    for _ in range(2):  # what is broken is not remembered
        with pytest.raises(ValueError, match=r"cannot decode '.*a\.png': .*\(and 1 more; `jaxdiff data") as caught:
            data.folder(str(root))
        assert len(caught.value.problems) == 2 and "c.png" in caught.value.problems[1]
    write(root / "a.png", extent=(5, 5))
    with pytest.raises(ValueError, match=r"cannot decode '.*c\.png'"):
        data.folder(str(root))
    (root / "c.png").unlink()
    with pytest.raises(ValueError, match=r"a\.png is 5x5 RGB and .*b\.png is 6x4 RGB"):
        data.folder(str(root))


def test_two_folders_of_one_name_are_two(tmp_path, decoded):
    for place, extent in (("one", (6, 4)), ("two", (3, 3))):
        write(tmp_path / place / "train" / "a.png", extent=extent)
        old(tmp_path / place / "train" / "a.png")
    (tmp_path / "link").symlink_to(tmp_path / "one" / "train")
    assert again(tmp_path / "one" / "train", decoded)[0] == again(tmp_path / "two" / "train", decoded)[0] == ["a.png"]
    assert not again(tmp_path / "link", decoded)[0]  # the same folder by another name


def test_another_pillow_looks_anew(tmp_path, decoded, monkeypatch):
    write(tmp_path / "images" / "a.png")
    old(tmp_path / "images" / "a.png")
    data.folder(str(tmp_path / "images"))
    monkeypatch.setattr("PIL.__version__", "999")
    assert again(tmp_path / "images", decoded)[0] == ["a.png"]


@pytest.mark.parametrize("place", ["", "damaged", "file"])
def test_a_cache_that_cannot_be_used_costs_time_alone(tmp_path, decoded, monkeypatch, place):
    write(tmp_path / "images" / "a.png", value=3)
    old(tmp_path / "images" / "a.png")
    if place == "damaged":
        data.folder(str(tmp_path / "images"))
        (kept,) = (tmp_path / "cache").rglob("*.npz")
        kept.write_bytes(kept.read_bytes()[:200])
    else:
        (tmp_path / "file").write_bytes(b"")
        monkeypatch.setenv("JAXDIFF_CACHE", place and str(tmp_path / "file" / "cache"))
    for _ in range(2):
        seen, source = again(tmp_path / "images", decoded)
        assert int(source[0]["image"].max()) == 3
    assert seen == ([] if place == "damaged" else ["a.png"])  # which was written anew


def test_a_file_that_breaks_under_a_run_is_named(tmp_path):
    write(tmp_path / "a.png", extent=(64, 64))
    source = data.folder(str(tmp_path))
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    with pytest.raises(ValueError, match=r"cannot decode '.*a\.png': "):
        next(data.batches(source, batch=2)(0))
