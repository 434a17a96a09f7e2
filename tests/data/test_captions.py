"""Captions meet their images, and embeddings come back from disk as the encoder gave them, whatever interrupted it."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from jaxdiff import data
from jaxdiff.build import build
from jaxdiff.data import captions, embed, tokens

TEXTS = ("a red cube", "", "ein Würfel\u2028", "four", "five", "six", "seven")
ENCODER = """
import os, time
import numpy as np

def encode(texts):
    with open(os.environ["CALLS"], "a") as file:
        file.write(f"{len(texts)}\\n")
    time.sleep(float(os.environ.get("SLOW", 0)))
    drawn = [np.random.default_rng(list(text.encode())).standard_normal((5, 4)) for text in texts]
    text = np.stack(drawn).astype(np.float32)
    return {"text": text, "mask": np.arange(5) < [[1 + len(text) % 5] for text in texts], "pooled": text[:, 0]}
"""


def encode(texts, *, m=3, d=4, pooled=True):
    text = np.arange(len(texts) * m * d, dtype=np.float32).reshape(-1, m, d) + len(texts[0]) + 1
    return {"text": text, "mask": np.ones((len(texts), m), int)} | ({"pooled": text.sum(1)} if pooled else {})


def written(path, **options):
    embed.write(encode, captions.Captions(TEXTS), str(path), encoder="here:encode", **options)
    return str(path)


def images(n=7):
    return data.mock(shape=(2, 2, 3), num=n)


@pytest.fixture
def encoder(tmp_path, monkeypatch):
    (tmp_path / "my_encoder.py").write_text(ENCODER)
    (tmp_path / "captions.txt").write_text("\n".join(TEXTS) + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    return lambda out, batch=2: ["--encoder=my_encoder:encode", "--captions=captions.txt", f"--out={out}",
                                 f"--batch={batch}"]


def test_captions_are_read(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(TEXTS) + "\n")
    assert captions.read(str(tmp_path / "a.txt")) == captions.Captions(TEXTS)
    given = captions.Captions(("a\nb", ""), ("x.png", "y/z.png"))
    (tmp_path / "a.jsonl").write_bytes(captions.as_lines(given))
    assert captions.read(str(tmp_path / "a.jsonl")) == given
    for name, text, message in (
        ("b.jsonl", '{"caption": 1}', "line 1 of .* holds what is no string"),
        ("b.jsonl", '{"caption": "a"}\n{"text": "b"}', "line 2 of .* is no .*'caption'"),
        ("b.jsonl", '{"caption": "a"}\n{"caption": "b", "file": "b"}', "1 of 2 lines .* name a file"),
        ("b.jsonl", "[", "line 1"), ("b.txt", "", "no captions in"), ("b.csv", "a", "a .txt or a .jsonl file"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=message):
            captions.read(str(tmp_path / name))
    (tmp_path / "b.txt").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="not UTF-8"):
        captions.read(str(tmp_path / "b.txt"))
    with pytest.raises(ValueError, match="no captions .*a.tx'; did you mean 'a.txt'"):
        captions.read(str(tmp_path / "a.tx"))


def test_images_and_the_tokens_of_their_captions(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(TEXTS))
    trained = tokens.train(TEXTS * 2, size=265)
    tokens.save(trained, tmp_path / "pairs.json")
    source = build({"name": "captioned", "images": {"name": "mock", "shape": (2, 2, 3), "num": 7}, "length": 9,
                    "captions": str(tmp_path / "a.txt"), "tokenizer": str(tmp_path / "pairs.json")}, data)
    batch = next(data.batches(source, batch=7, shuffle=False)(0))
    np.testing.assert_array_equal(batch["tokens"], trained.encode(TEXTS, 9)[0])
    np.testing.assert_array_equal(batch["token_mask"], batch["tokens"] > 0)
    with pytest.raises(ValueError, match="has 7 captions for 6 images"):
        data.captioned(images(6), captions=str(tmp_path / "a.txt"))


def test_captions_that_name_their_files_are_held_to_them(tmp_path):
    for name in ("a/x.png", "b/y.png"):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    lines = tmp_path / "captions.jsonl"
    lines.write_bytes(captions.as_lines(captions.Captions(("one", "two"), ("x.png", "b/y.png"))))
    source = data.captioned(data.folder(str(tmp_path)), captions=str(lines), length=8)
    assert len(source) == 2 and set(source[1]) == {"image", "label", "tokens", "token_mask"}
    assert tokens.Tokenizer().decode(source[1]["tokens"][None]) == ["two"]
    lines.write_bytes(captions.as_lines(captions.Captions(("two", "one"), ("b/y.png", "x.png"))))
    with pytest.raises(ValueError, match=r"row 0 of .* is of 'b/y.png', and image 0 is .*a/x.png"):
        data.captioned(data.folder(str(tmp_path)), captions=str(lines))


def test_embeddings_come_back(tmp_path):
    source = data.encoded(images(), embeddings=written(tmp_path / "out", batch=3))
    batches = data.batches(source, batch=7, shuffle=False, threads=2)(0)
    batch = next(batches)
    batches.close()
    want = [encode(TEXTS[i:i + 3]) for i in (0, 3, 6)]
    for name in ("text", "mask", "pooled"):
        np.testing.assert_array_equal(batch[name], np.concatenate([part[name] for part in want]))
        assert batch[name].dtype == (bool if name == "mask" else np.float16)
    np.testing.assert_array_equal(batch["image"], images()["image"])
    assert written(tmp_path / "out") == str(tmp_path / "out")  # is whole already: nothing is done
    bare = lambda texts: {"text": encode(texts)["text"]}
    embed.write(bare, captions.Captions(TEXTS), str(tmp_path / "bare"), encoder="bare")
    example = data.encoded(images(), embeddings=str(tmp_path / "bare"))[0]
    assert set(example) == {"image", "text", "mask"} | set(images()) and example["mask"].all()


def test_what_the_mask_hides_is_zero(tmp_path):
    hidden = lambda texts: {**encode(texts), "mask": np.arange(3)[None] < np.ones((len(texts), 1))}
    embed.write(hidden, captions.Captions(TEXTS), str(tmp_path / "out"), encoder="hidden")
    text = data.encoded(images(), embeddings=str(tmp_path / "out"))[2]["text"]
    assert text[0].all() and not text[1:].any()


def test_a_killed_run_goes_on(tmp_path, encoder, capsys):
    assert embed.main(encoder("whole")) == 0
    assert "7 captions are embedded in whole" in capsys.readouterr().out
    (tmp_path / "calls").unlink()
    root = str(Path(__file__).resolve().parent.parent.parent)
    process = subprocess.Popen([sys.executable, "-m", "jaxdiff.data.embed", *encoder("out")], stderr=subprocess.PIPE,
                               env={**os.environ, "SLOW": "0.5", "PYTHONPATH": root})
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None and not done(tmp_path / "out"):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not process.stderr.read()
    before = done(tmp_path / "out")
    assert 0 < before < 7
    with pytest.raises(ValueError, match="are unfinished; the command that began them goes on"):
        data.encoded(images(), embeddings=str(tmp_path / "out"))
    (tmp_path / "calls").unlink()
    assert embed.main(encoder("out", batch=1)) == 0
    assert (tmp_path / "calls").read_text() == "1\n" * (7 - before)  # what was done is not done again
    for file in (tmp_path / "whole").iterdir():
        assert file.read_bytes() == (tmp_path / "out" / file.name).read_bytes(), file.name


def done(folder):
    file = folder / "progress.json"
    return json.loads(file.read_text())["done"] if file.is_file() else 0


def test_what_is_damaged_is_found(tmp_path):
    folder = Path(written(tmp_path / "out"))
    rows = np.lib.format.open_memmap(folder / "text.npy", "r+")
    rows[3, 1, 2] += 1
    rows.flush()
    source = data.encoded(images(), embeddings=str(folder))
    assert source[2]["text"].shape == (3, 4)
    with pytest.raises(ValueError, match="row 3 of .*out' is damaged; remove the folder and embed once more"):
        source[3]
    (folder / "text.npy").write_bytes((folder / "text.npy").read_bytes()[:-8])
    with pytest.raises(ValueError, match="are damaged: .*mmap"):
        data.encoded(images(), embeddings=str(folder))
    np.save(folder / "text.npy", np.zeros((2, 2)))
    with pytest.raises(ValueError, match="are damaged: its files are not what embeddings.json says"):
        data.encoded(images(), embeddings=str(folder))
    (folder / "embeddings.json").write_text("{}")
    with pytest.raises(ValueError, match="embeddings.json' is damaged: 'encoder'"):
        data.encoded(images(), embeddings=str(folder))
    with pytest.raises(ValueError, match="embeddings.json' is damaged: 'encoder'; remove the folder"):
        written(folder)
    (folder / "embeddings.json").unlink()
    with pytest.raises(ValueError, match="no embeddings .embeddings.json. in"):
        data.encoded(images(), embeddings=str(folder))
    with pytest.raises(ValueError, match="holds text.npy, which no run wrote"):
        written(folder)


def test_folders_that_do_not_fit(tmp_path):
    folder = written(tmp_path / "embeddings")
    with pytest.raises(ValueError, match="has 7 captions for 5 images"):
        data.encoded(images(5), embeddings=folder)
    with pytest.raises(ValueError, match="no folder of embeddings .*embedding'; did you mean 'embeddings'"):
        data.encoded(images(), embeddings=str(tmp_path / "embedding"))
    with pytest.raises(ValueError, match="holds embeddings of encoder 'here:encode', this is 'other'"):
        embed.write(encode, captions.Captions(TEXTS), folder, encoder="other")
    with pytest.raises(ValueError, match="holds embeddings of sha256"):
        embed.write(encode, captions.Captions(("other",)), folder, encoder="here:encode")


@pytest.mark.parametrize(("given", "message"), [
    (lambda texts: None, "gives a dict of 'text' .*, got NoneType"),
    (lambda texts: {"words": 1}, "gives a dict of 'text' .*, got words"),
    (lambda texts: {"text": np.ones((len(texts), 4))}, r"text \[k, m, d\].*k=4 .* got text \[4, 4\]"),
    (lambda texts: {"text": np.ones((3, 2, 2))}, r"k=4 captions, got text \[3, 2, 2\]"),
    (lambda texts: {**encode(texts), "mask": np.ones((4, 2))}, r"got mask \[4, 2\] and text \[4, 3, 4\]"),
    (lambda texts: {**encode(texts), "pooled": np.ones((4, 2, 1))}, r"got pooled \[4, 2, 1\]"),
    (lambda texts: {**encode(texts), "text": np.full((4, 3, 4), 1e6)}, "'text' that is not finite in float16"),
    (lambda texts: encode(texts, m=len(texts)), r"'text' was \[4, 4\] and is \[3, 4\] for captions 4 and on; pad"),
    (lambda texts: encode(texts, pooled=len(texts) == 4), "'pooled' was .4. and is missing for captions 4"),
    (lambda texts: encode(texts, pooled=len(texts) == 3), "gives pooled for captions 4 and on, and did not before"),
])
def test_encoders_that_give_something_else(tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        embed.write(given, captions.Captions(TEXTS), str(tmp_path / "out"), encoder="here", batch=4)


def test_errors_of_the_command_are_one_line(tmp_path, encoder, capsys):
    right = encoder("out")
    for argument, message in (
        ("--encoder=my_encoder:encod", "'my_encoder' has no 'encod'; did you mean 'encode'?"),
        ("--encoder=my_encoders:encode", "cannot import 'my_encoders'"),
        ("--encoder=encode", "--encoder is MODULE:FUNCTION, got 'encode'"),
        ("--captions=caption.txt", "no captions 'caption.txt'; did you mean 'captions.txt'?"),
        ("--batch=0", "batch must be at least 1, got 0"), ("--batch=x", "invalid int value: 'x'; see --help"),
        ("--out=captions.txt", "captions.txt"),
    ):
        assert embed.main([*right, argument]) == 2
        said = capsys.readouterr().err
        assert said.startswith("embed: ") and message in said and said.count("\n") == 1
    with pytest.raises(ValueError, match="there are no captions"):
        embed.write(encode, captions.Captions(()), "out", encoder="here")


def test_too_little_room(tmp_path, monkeypatch):
    monkeypatch.setattr(embed.shutil, "disk_usage", lambda folder: mock.Mock(free=0))
    with pytest.raises(ValueError, match="0.0 GiB are needed in .* 0.0 are free"):
        written(tmp_path / "out")


def test_a_worker_is_sent_the_names_of_mapped_files_and_not_what_is_in_them(tmp_path):
    source = data.encoded(images(), embeddings=written(tmp_path / "out"))
    assert isinstance(source.columns["text"], np.memmap)
    again = pickle.loads(pickle.dumps(source))
    assert isinstance(again.columns["text"], np.memmap) and again.columns["text"].filename
    for i in range(7):
        for name, value in source[i].items():
            np.testing.assert_array_equal(again[i][name], value)
