"""A folder of moments is read where it lies, and written on from where an interruption left it."""

import json

import numpy as np
import pytest

from jaxdiff import data

EXAMPLES = {"moments": np.random.RandomState(0).randn(10, 4, 4, 8).astype(np.float32),
            "label": np.arange(10, dtype=np.int32), "text": np.ones((10, 3, 2), np.float16)}


def encoder(begun=None, chunk=3, until=10):
    """Gives the examples from `start` on; notes where it was begun; breaks off before `until`."""
    def encode(start):
        if begun is not None:
            begun.append(start)
        for at in range(start, len(EXAMPLES["label"]), chunk):
            if at >= until:
                raise KeyboardInterrupt
            yield {name: column[at:at + chunk] for name, column in EXAMPLES.items()}

    return encode


def test_what_is_written_is_read(tmp_path):
    assert data.write_latents(str(tmp_path / "a"), encoder(), total=10) == tmp_path / "a"
    source = data.latents(str(tmp_path / "a"))
    assert set(source) == set(EXAMPLES)
    assert source["moments"].dtype == np.float16 and isinstance(source["moments"], np.memmap)
    for name, column in EXAMPLES.items():
        np.testing.assert_allclose(source[name], column, atol=2e-3)
    batch = next(data.batches(source, batch=4)(0))
    assert batch["moments"].shape == (4, 4, 4, 8)
    np.testing.assert_array_equal(batch["moments"], source["moments"][batch["label"]])
    assert data.fingerprint(source, seed=0, batch=4)["examples"] == 10


def test_an_interrupted_folder_goes_on_and_ends_the_same(tmp_path):
    begun = []
    with pytest.raises(KeyboardInterrupt):
        data.write_latents(str(tmp_path / "a"), encoder(begun, until=6), total=10)
    with pytest.raises(ValueError, match="holds 6 of 10 latents: call `write_latents` again"):
        data.latents(str(tmp_path / "a"))
    data.write_latents(str(tmp_path / "a"), encoder(begun), total=10)
    data.write_latents(str(tmp_path / "a"), encoder(begun), total=10)  # nothing is left to do
    assert begun == [0, 6]
    data.write_latents(str(tmp_path / "b"), encoder(chunk=10), total=10)
    for name in EXAMPLES:
        assert (tmp_path / "a" / f"{name}.npy").read_bytes() == (tmp_path / "b" / f"{name}.npy").read_bytes()


def test_more_than_asked_for_is_cut_off(tmp_path):
    data.write_latents(str(tmp_path), encoder(chunk=8), total=9)
    assert len(data.latents(str(tmp_path))["label"]) == 9


def test_a_kill_between_columns_is_written_over(tmp_path):
    data.write_latents(str(tmp_path), encoder(), total=10)
    (tmp_path / "progress.json").write_text(json.dumps({"written": 3, "total": 10}))
    np.load(tmp_path / "label.npy", mmap_mode="r+")[3:] = -1
    data.write_latents(str(tmp_path), encoder(), total=10)
    np.testing.assert_array_equal(data.latents(str(tmp_path))["label"], np.arange(10))


def test_a_folder_of_another_origin_needs_no_progress(tmp_path):
    np.save(tmp_path / "moments.npy", np.zeros((5, 2, 2, 4), np.float16))
    assert data.latents(str(tmp_path))["moments"].shape == (5, 2, 2, 4)


@pytest.mark.parametrize(("columns", "message"), [
    ({}, r"no latents in .*: put moments.npy there, \[n, height, width, 2 channels\] .* and label.npy"),
    ({"moments": np.zeros((3, 2, 2, 5))}, r"means and then standard deviations, got \[3, 2, 2, 5\]"),
    ({"moments": np.zeros((3, 4))}, r"got \[3, 4\]"),
    ({"moments": np.zeros((3, 2, 2, 4)), "label": np.zeros(2)}, "equally long, got {'label': 2, 'moments': 3}"),
])
def test_a_folder_that_will_not_do_says_why(columns, message, tmp_path):
    for name, column in columns.items():
        np.save(tmp_path / f"{name}.npy", column)
    with pytest.raises(ValueError, match=message):
        data.latents(str(tmp_path))


def test_a_folder_that_is_not_there_is_looked_for_beside(tmp_path):
    (tmp_path / "imagenet_256").mkdir()
    with pytest.raises(ValueError, match="did you mean 'imagenet_256'"):
        data.latents(str(tmp_path / "imagenet_265"))


def changing(start):
    yield {"moments": EXAMPLES["moments"][:4]}
    yield {"moments": EXAMPLES["moments"][:4, :2]}


@pytest.mark.parametrize(("encode", "total", "message"), [
    (encoder(), 11, "gave 10 examples, and 11 were to be written"),
    (changing, 8, r"column 'moments' was float16 \[4, 4, 8\] before row 4 and is float16 \[2, 4, 8\] from there on"),
])
def test_a_writer_that_cannot_go_on_says_why(encode, total, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        data.write_latents(str(tmp_path), encode, total=total)


def test_a_folder_begun_for_another_number_is_refused(tmp_path):
    data.write_latents(str(tmp_path), encoder(), total=10)
    with pytest.raises(ValueError, match="was begun for 10 latents, not 12"):
        data.write_latents(str(tmp_path), encoder(), total=12)


def test_mock_latents_have_the_shapes_of_real_ones():
    made = data.mock(shape=(4, 4, 2), classes=3, num=5, moments=True, conditions={"text": (7, 8), "mask": (7,)})
    assert {name: (column.shape, str(column.dtype)) for name, column in made.items()} == {
        "moments": ((5, 4, 4, 4), "float16"), "label": ((5,), "int32"), "text": ((5, 7, 8), "float32"),
        "mask": ((5, 7), "bool")}
    assert (made["moments"][..., 2:] > 0).all() and made["mask"].all()
