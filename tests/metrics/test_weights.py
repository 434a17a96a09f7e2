"""Weights are found, never fetched; and nothing is read of a file but the tensors that are wanted."""

import hashlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from jaxdiff import foreign
from jaxdiff.metrics.features import weights

FOREIGN = Path(__file__).resolve().parent.parent / "golden" / "foreign"
SHAPES = {"fc.weight": (2, 3), "fc.bias": (2,)}
TENSORS = {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}


@pytest.fixture(autouse=True)
def _nothing_given(monkeypatch):
    monkeypatch.delenv(weights.FOLDER, raising=False)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "net-1.pth").write_bytes(b"")
    return tmp_path


def test_the_file_that_is_named_is_taken_whatever_its_name(folder):
    (folder / "mine.bin").write_bytes(b"")
    assert weights.find("net-1.pth", folder / "mine.bin") == folder / "mine.bin"
    assert weights.find("net-1.pth", str(folder / "mine.bin")) == folder / "mine.bin"


def test_a_folder_is_searched_for_the_published_names_in_their_order(folder, monkeypatch):
    assert weights.find(("other.pth", "net-1.pth"), folder) == folder / "net-1.pth"
    monkeypatch.setenv(weights.FOLDER, str(folder))
    assert weights.find("net-1.pth") == folder / "net-1.pth"
    (folder / "other.pth").write_bytes(b"")
    assert weights.find(("other.pth", "net-1.pth")) == folder / "other.pth"


def test_a_file_in_the_environment_stands_for_its_folder(folder, monkeypatch):
    """Several extractors have one environment: the file of one is not taken for another's."""
    (folder / "other.pth").write_bytes(b"")
    monkeypatch.setenv(weights.FOLDER, str(folder / "other.pth"))
    assert weights.find("net-1.pth") == folder / "net-1.pth"
    assert weights.find("other.pth") == folder / "other.pth"


def test_the_option_comes_before_the_environment(folder, monkeypatch, tmp_path_factory):
    monkeypatch.setenv(weights.FOLDER, str(tmp_path_factory.mktemp("empty")))
    assert weights.find("net-1.pth", folder) == folder / "net-1.pth"


def test_without_a_place_it_says_which_file_to_put_where():
    with pytest.raises(ValueError, match=r"nothing is downloaded: put a\.pth or b\.pth, published at https://x\.org/a, "
                                         r"in a folder and name the folder in \$JAXDIFF_WEIGHTS, or the file in "):
        weights.find(("a.pth", "b.pth"), source="https://x.org/a")


@pytest.mark.parametrize("where", ["folder", "nowhere"])
def test_a_place_without_them_is_told_of(tmp_path, where, monkeypatch):
    place = {"folder": tmp_path, "nowhere": tmp_path / "gone" / "a.pth"}[where]
    problem = {"folder": "none of these features in the folder", "nowhere": r"gone/a\.pth is not there"}[where]
    with pytest.raises(ValueError, match=rf"the option 'weights' says .*{problem}.*put a\.pth, there"):
        weights.find("a.pth", place)
    monkeypatch.setenv(weights.FOLDER, str(place))
    with pytest.raises(ValueError, match=rf"\$JAXDIFF_WEIGHTS says .*{problem}"):
        weights.find("a.pth")


# Hashes.


def written(folder, name, tensors=TENSORS):
    foreign.write(folder / name, tensors)
    return folder / name, foreign.sha256(folder / name)


def test_a_file_of_your_own_is_read_and_its_hash_recorded(tmp_path):
    path, digest = written(tmp_path, "mine.safetensors")
    held, found = weights.opened(path)
    assert found == digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert set(held) == set(SHAPES)


def test_a_published_name_says_how_its_file_hashes(tmp_path):
    path, digest = written(tmp_path, "mine.safetensors")
    right = tmp_path / f"net-2015-12-05-{digest[:8]}.pth"
    os.rename(path, right)
    assert weights.opened(right)[1] == digest
    path, _ = written(tmp_path, "net-2015-12-05-6726825d.pth")
    with pytest.raises(ValueError, match=r"should begin with 6726825d: damaged, or another file; a file of your own"):
        weights.opened(path)
    assert weights.opened(path, sha256=digest[:10].upper())[1] == digest


def test_a_hash_that_is_known_or_asked_for_is_held_against_the_file(tmp_path):
    path, digest = written(tmp_path, "net.pth")
    assert weights.opened(path, hashes={"net.pth": digest})[1] == digest
    for asked in ({"hashes": {"net.pth": "00"}}, {"sha256": "00"}):
        with pytest.raises(ValueError, match=f"the sha256 {digest}, which should begin with 00"):
            weights.opened(path, **asked)


# What is in it.


@pytest.mark.parametrize("name", ["zip.pt", "legacy.ckpt"])
def test_both_of_torchs_forms_are_read(name):
    held, _ = weights.opened(FOREIGN / name)
    wanted = {"whole": (4, 6), "turned": (6, 4), "half": (6,), "brain": (6,)}
    others = "part|scalar|empty|double|long|flags|parameter"
    found = weights.arrays(held["state_dict"], wanted, of="the net", ignored=others)
    np.testing.assert_array_equal(found["turned"], np.arange(24).reshape(4, 6).T)
    assert list(found) == list(wanted) and {array.dtype for array in found.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(found["brain"], range(6))
    with pytest.raises(ValueError, match="not the weights of the net: 'state_dict|'step' is no tensor but int"):
        weights.arrays(held, wanted, of="the net")


def test_dicts_of_dicts_are_read_by_dotted_names(tmp_path):
    """The layout of jax-fid and MeanFlow."""
    path = tmp_path / "net.pickle"
    path.write_bytes(pickle.dumps({"fc": {"weight": TENSORS["fc.weight"], "bias": TENSORS["fc.bias"]}}))
    assert set(weights.arrays(weights.opened(path)[0], SHAPES, of="the net")) == set(SHAPES)


def test_a_pickle_that_would_run_something_is_refused(tmp_path):
    class Program:
        def __reduce__(self):
            return os.system, ("exit 1",)

    path = tmp_path / "net.pth"
    path.write_bytes(pickle.dumps({"fc.weight": Program()}))
    with pytest.raises(ValueError, match="asks for .*system.*nothing was run"):
        weights.opened(path)


@pytest.mark.parametrize(("change", "problem"), [
    ({"fc.bias": None}, r"'fc\.bias' is missing"),
    ({"fc.bias": np.ones(3, np.float32)}, r"'fc\.bias' has the shape \[3\], not \[2\]"),
    ({"fc.wieght": np.ones(1), "fc.weight": None}, r"'fc\.weight' is missing; did you mean 'fc\.wieght'\?"),
    ({"fc.wait": np.ones(1)}, r"it has no 'fc\.wait'; did you mean 'fc\.weight'\?"),
    ({"fc.bias": np.ones(2, np.int64)}, r"'fc\.bias' are of int64"),
    ({"fc.bias": "text"}, r"'fc\.bias' is no tensor but str"),
])
def test_the_first_wrong_name_or_shape_is_told(change, problem):
    held = {name: value for name, value in {**TENSORS, **change}.items() if value is not None}
    with pytest.raises(ValueError, match=f"these are not the weights of the net: {problem}"):
        weights.arrays(held, SHAPES, of="the net")
    with pytest.raises(ValueError, match="tensors by name are wanted, got list"):
        weights.arrays([1], SHAPES, of="the net")


def test_names_that_mean_nothing_here_may_be_passed_over():
    held = {**TENSORS, "bn.num_batches_tracked": np.array(7), "text.weight": np.ones(2)}
    found = weights.arrays(held, SHAPES, of="the net", ignored=r".*\.num_batches_tracked|text\..*")
    assert list(found) == list(SHAPES)
