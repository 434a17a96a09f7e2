"""Tar shards of examples."""

import io
import itertools
import os
import pickle
import subprocess
import tarfile
import threading

import numpy as np
import pytest
from PIL import Image

from jaxdiff import data
from jaxdiff.data import archives, captions


def png(value, extent=(4, 4), mode="RGB"):
    out = io.BytesIO()
    Image.new(mode, extent, value if mode in ("L", "I;16") else (value,) * len(mode)).save(out, "png")
    return out.getvalue()


def pack(path, members, format=tarfile.PAX_FORMAT):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    os.utime(path, (1e9, 1e9))  # long ago: what was found in it is kept
    return path


def numbered(path, numbers, **options):
    """A shard of gray images whose pixels and label are their number."""
    members = [part for n in numbers for part in ((f"{n:05}.png", png(n)), (f"{n:05}.cls", b"%d\n" % n),
                                                  (f"{n:05}.txt", b"number %d" % n))]
    return pack(path, members, **options)


@pytest.fixture
def remembering(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXDIFF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def three(tmp_path):
    for i in range(3):
        numbered(tmp_path / "set" / f"train-{i:03}.tar", range(5 * i, 5 * i + 5))
    return str(tmp_path / "set" / "train-{000..002}.tar")


def values(source):
    return [(int(one["image"][0, 0, 0]), int(one["label"])) for one in source]


def test_examples_are_in_the_order_of_shards_and_members(three, tmp_path):
    numbered(tmp_path / "set" / "val.tar", [77])
    source = data.shards(three)
    assert len(source) == 15 and values(source) == [(n, n) for n in range(15)]
    assert source[3]["image"].dtype == np.uint8 and source[3]["image"].shape == (4, 4, 3)
    assert source[3]["label"].dtype == np.int32
    batch = next(data.batches(source, batch=6, shuffle=False)(1))
    np.testing.assert_array_equal(batch["label"], range(6, 12))
    np.testing.assert_array_equal(batch["image"][:, 2, 2, 1], range(6, 12))


@pytest.mark.parametrize(("pattern", "names"), [
    ("train-{000..002}.tar", ["train-000", "train-001", "train-002"]),
    ("train-*.tar", ["train-000", "train-001", "train-002"]),
    ("{val,train-00[12]}.tar", ["val", "train-001", "train-002"]),
    ("train-{002..002}.tar", ["train-002"]),
    ("", ["train-000", "train-001", "train-002", "val"]),
])
def test_a_pattern_has_braces_and_wildcards_and_keeps_its_order(three, tmp_path, pattern, names):
    numbered(tmp_path / "set" / "val.tar", [77])
    assert [path.stem for path in archives.matched(str(tmp_path / "set" / pattern))] == names


def test_a_shard_that_is_missing_is_named(three, tmp_path):
    with pytest.raises(ValueError, match=r"no shard '.*train-003\.tar'; did you mean 'train-00\d\.tar'"):
        data.shards(three.replace("..002", "..127"))
    with pytest.raises(ValueError, match=r"no shard '.*tarin-\*\.tar'"):
        data.shards(str(tmp_path / "set" / "tarin-*.tar"))
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match=r"no shards \(\*\.tar\) in '.*none'"):
        data.shards(str(tmp_path / "none"))
    (tmp_path / "set" / "a.tar.gz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"shards are \.tar files, not compressed ones, .* got '.*a\.tar\.gz'"):
        data.shards(str(tmp_path / "set" / "a.tar.gz"))


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_parts_of_an_example_need_not_be_neighbours(tmp_path, format):
    deep = "/".join(["a-rather-long-name-of-a-folder"] * 4)  # more than a name's 100 bytes
    path = pack(tmp_path / "a.tar", [
        ("./b.json", b'{"label": 7, "width": 4}'), (f"{deep}/b.png", png(2)), ("b.seg.png", b"not read"),
        ("b.PNG", png(1)), ("._b.png", b"what another system leaves behind"), (f"{deep}/b.cls", b"-3"),
    ], format=format)
    source = data.shards(str(path))
    assert source.files == ("b", f"{deep}/b") and values(source) == [(1, 7), (2, -3)]


def test_gnu_tar_writes_shards(tmp_path):
    for n in range(3):
        (tmp_path / f"{n}.png").write_bytes(png(n))
    subprocess.run(["tar", "cf", "set.tar", "--sort=name", "0.png", "1.png", "2.png"], cwd=tmp_path, check=True)
    source = data.shards(str(tmp_path / "set.tar"))
    assert [set(one) for one in source] == [{"image"}] * 3 and source[2]["image"].max() == 2


def test_images_are_resized_and_made_gray(tmp_path):
    path = pack(tmp_path / "a.tar", [("a.png", png(9, (12, 8))), ("b.png", png(9, (5, 5), "L")),
                                     ("c.png", png(9, (5, 5), "RGBA"))])
    assert [one["image"].shape for one in data.shards(str(path), size=4)] == [(4, 4, 3)] * 3
    gray = data.shards(str(path), size=4, channels=1)
    assert all((one["image"] == 9).all() and one["image"].shape == (4, 4, 1) for one in gray)
    for options, message in (({"size": 0}, "size must be at least 1"), ({"channels": 4}, "channels must be 3")):
        with pytest.raises(ValueError, match=message):
            data.shards(str(path), **options)


# What is wrong with a shard.


@pytest.mark.parametrize(("members", "message"), [
    ([("a.cls", b"1")], r"example 'a' has no image \(one of jpeg, jpg, png, webp\)"),
    ([("a.png", png(1)), ("a.jpg", b"")], "example 'a' has jpg and png"),
    ([("a.png", png(1)), ("b.png", png(1)), ("a.png", png(1))], r"member 'a\.png' is there twice"),
    ([("a.png", png(1)), ("a.cls", b"cat")], r"the label of 'a' \(a\.cls\): "),
    ([("a.png", png(1)), ("a.json", b'{"label": 1.5}')], r"the label of 'a' \(a\.json\): 1\.5 is not an integer"),
    ([("a.png", png(1)), ("a.cls", b"4294967296")], r"the label of 'a' \(a\.cls\): 4294967296 is not an integer"),
    ([("notes.md", b"")], r"no example in it: members are named KEY\.SUFFIX"),
])
def test_members_that_do_not_fit_are_named_with_their_shard(tmp_path, members, message):
    path = pack(tmp_path / "set.tar", members)
    with pytest.raises(ValueError, match=rf"shard '.*set\.tar': {message}"):
        data.shards(str(path))


def test_labels_are_of_all_or_of_none(tmp_path):
    path = pack(tmp_path / "set.tar", [("a.png", png(1)), ("a.cls", b"1"), ("b.png", png(1)), ("c.png", png(1))])
    with pytest.raises(ValueError, match=r"2 of 3 examples have no label, the first is 'b' in '.*set\.tar'"):
        data.shards(str(path))


def test_a_shard_that_is_cut_off_anywhere_is_refused(tmp_path):
    whole = numbered(tmp_path / "whole.tar", range(3)).read_bytes()
    end = len(whole.rstrip(b"\0")) // 512 * 512 + 512  # the last member's block
    for length in (*range(512, end + 1, 256), 0, 100):
        (tmp_path / "cut.tar").write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"shard '.*cut\.tar': "):
            data.shards(str(tmp_path / "cut.tar"))
    (tmp_path / "cut.tar").write_bytes(whole[:end + 1024])
    assert len(data.shards(str(tmp_path / "cut.tar"))) == 3


def test_two_archives_in_one_file_are_refused(tmp_path):
    whole = numbered(tmp_path / "whole.tar", range(3)).read_bytes()
    (tmp_path / "two.tar").write_bytes(2 * whole)
    with pytest.raises(ValueError, match=r"shard '.*two\.tar': something follows the end of the archive at byte"):
        data.shards(str(tmp_path / "two.tar"))


def test_all_broken_shards_are_named(three, tmp_path):
    for name in ("train-000.tar", "train-002.tar"):
        (tmp_path / "set" / name).write_bytes(b"<html>404</html>")
    with pytest.raises(ValueError, match=r"shard '.*train-000\.tar': .*\(and 1 more; `jaxdiff data check`") as caught:
        data.shards(three)
    assert len(caught.value.problems) == 2 and "train-002.tar" in caught.value.problems[1]


@pytest.mark.parametrize("content", [b"<html>404</html>", png(3)[:45], png(3000, mode="I;16")],
                         ids=["text", "truncated", "16 bits"])
def test_a_broken_member_is_named_in_the_training_loop(tmp_path, content):
    path = pack(tmp_path / "set.tar", [("a.png", png(1)), ("b.png", content), ("c.png", png(2))])
    source = data.shards(str(path))
    stream = data.batches(source, batch=1, shuffle=False)(0)
    assert next(stream)["image"].max() == 1
    with pytest.raises(ValueError, match=r"cannot read the image of 'b' in '.*set\.tar': "):
        next(stream)


def test_a_check_finds_what_decoding_passes_over(tmp_path):
    damaged = bytearray(png(3))
    damaged[-6] ^= 255  # of the last checksum
    source = data.shards(str(pack(tmp_path / "set.tar", [("a.png", png(1)), ("b.png", bytes(damaged))])))
    assert source[1]["image"].max() == 3 and source.check(0)["image"].max() == 1
    with pytest.raises(ValueError, match=r"cannot read the image of 'b' in '.*set\.tar': "):
        source.check(1)


# Random access.


def test_threads_and_processes_share_no_place_in_a_file(three, run_python):
    source = data.shards(three)
    again = pickle.loads(pickle.dumps(source))
    assert values(again) == values(source)
    wrong = []

    def read(order):
        wrong.extend(i for i in order if int(source[i]["image"][0, 0, 0]) != i)

    threads = [threading.Thread(target=read, args=(np.random.RandomState(k).permutation(15).tolist() * 20,))
               for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    plain = list(itertools.islice(data.batches(source, batch=4, threads=0)(7), 5))
    forked = list(itertools.islice(data.batches(source, batch=4, workers=2)(7), 5))
    for one, other in zip(plain, forked, strict=True):
        np.testing.assert_array_equal(one["label"], other["label"])
        np.testing.assert_array_equal(one["image"], other["image"])


def test_more_shards_than_may_be_open_at_a_time(tmp_path, monkeypatch):
    for i in range(6):
        numbered(tmp_path / f"{i}.tar", [i])
    archives._opened.cache_clear()
    monkeypatch.setattr(archives, "_opened", archives.functools.lru_cache(maxsize=2)(archives._opened.__wrapped__))
    before = len(os.listdir("/proc/self/fd"))
    source = data.shards(str(tmp_path / "*.tar"))
    assert values(source) == values(source) == [(i, i) for i in range(6)]
    assert len(os.listdir("/proc/self/fd")) <= before + 2


def test_a_shard_that_changes_under_a_run_is_named(three, tmp_path):
    source = data.shards(three)
    archives._opened.cache_clear()
    numbered(tmp_path / "set" / "train-001.tar", range(9))
    assert int(source[0]["label"]) == 0
    with pytest.raises(ValueError, match=r"'00007' in '.*train-001\.tar': the shard has changed since"):
        source[7]


# What is remembered.


def test_a_shard_is_looked_through_once_and_again_when_it_changes(three, tmp_path, remembering, monkeypatch):
    looked = []
    inner = archives._indexed
    monkeypatch.setattr(archives, "_indexed", lambda path, stamp: looked.append(path.name) or inner(path, stamp))
    first = data.shards(three)
    assert sorted(looked) == ["train-000.tar", "train-001.tar", "train-002.tar"]
    looked.clear()
    again = data.shards(three)
    assert not looked and values(again) == values(first) and again.files == first.files
    numbered(tmp_path / "set" / "train-001.tar", [50, 51])
    os.utime(tmp_path / "set" / "train-001.tar", (2e9, 1.1e9))
    changed = data.shards(three)
    assert looked == ["train-001.tar"] and len(changed) == 12 and values(changed)[5:7] == [(50, 50), (51, 51)]


def test_what_is_remembered_may_be_lost_or_damaged(three, remembering):
    first = values(data.shards(three))
    kept = sorted(remembering.rglob("*.npz"))
    assert len(kept) == 3
    for file, content in zip(kept, (b"", b"PK\3\4 nothing", file_middle(kept[2])), strict=True):
        file.write_bytes(content)
    assert values(data.shards(three)) == first


def file_middle(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2:] = bytes(len(content) - len(content) // 2)
    return bytes(content)


def test_without_a_place_to_remember_in_nothing_is_lost_but_time(three, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("JAXDIFF_CACHE", str(tmp_path / "file" / "cache"))
    assert values(data.shards(three)) == values(data.shards(three))


# Captions.


def test_captions_lie_beside_the_images(three):
    read = captions.read(three)
    assert read.texts[7] == "number 7" and read.files[7] == "00007"
    source = data.captioned(data.shards(three), captions=three, length=12)
    row = source[7]
    assert data.tokens.Tokenizer().decode(row["tokens"][None]) == ["number 7"] and int(row["label"]) == 7
    with pytest.raises(ValueError, match="has 5 captions for 15 images"):
        data.captioned(data.shards(three), captions=three.replace("{000..002}", "000"))


def test_captions_that_are_not_there_or_not_text(tmp_path):
    path = pack(tmp_path / "a.tar", [("a.png", png(1)), ("a.txt", b"\xff")])
    with pytest.raises(ValueError, match=r"the caption of 'a' in '.*a\.tar' is not UTF-8"):
        captions.read(str(path))
    path = pack(tmp_path / "a.tar", [("a.png", png(1))])
    with pytest.raises(ValueError, match=r"'a' in '.*a\.tar' has no caption \(a\.txt\)"):
        captions.read(str(path))
