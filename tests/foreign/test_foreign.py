"""Weight files become numbers, whoever wrote them, and nothing else happens.

`tests/golden/make_foreign.py` had torch write the good files.
"""

import io
import json
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from jaxdiff import foreign

GOLDEN = Path(__file__).parent.parent / "golden" / "foreign"
WHOLE = np.arange(24, dtype=np.float32).reshape(4, 6)
TENSORS = {
    "whole": WHOLE, "turned": WHOLE.T, "part": WHOLE[1:3, ::2], "scalar": np.float32(7), "empty": np.zeros((0, 3)),
    "half": WHOLE[0].astype("f2"), "brain": WHOLE[0].astype(ml_dtypes.bfloat16), "double": WHOLE[0].astype("f8"),
    "long": np.arange(3), "flags": np.array([True, False]), "parameter": WHOLE[0],
}
FILES = sorted(path.name for path in GOLDEN.iterdir())


def written(folder, raw, name="file.pt"):
    (folder / name).write_bytes(raw)
    return folder / name


def refused(folder, raw):
    """Returns what the reader says of a file of these bytes."""
    with pytest.raises(foreign.Refused) as error:
        foreign.read(written(folder, raw))
    return str(error.value)


@pytest.mark.smoke
@pytest.mark.parametrize("name", ["zip.pt", "legacy.ckpt", "plain.safetensors"])
def test_every_form_gives_the_same_tensors(name):
    made = foreign.read(GOLDEN / name)
    made = made["state_dict"] if "state_dict" in made else made
    assert set(made) == set(TENSORS)
    for key, want in TENSORS.items():
        assert made[key].shape == np.shape(want)
        np.testing.assert_array_equal(made[key], want)
        assert key == "empty" or made[key].dtype == np.asarray(want).dtype


def test_what_lies_beside_the_tensors_is_kept():
    for name in ("zip.pt", "legacy.ckpt"):
        made = foreign.read(GOLDEN / name)
        assert (made["step"], made["note"]) == (12, "é")


def test_a_pickled_module_is_a_record_and_its_source_is_left_unread():
    """`module_src` of the file would exit; a buffer that is not persistent is left out, a None is no parameter."""
    net = foreign.read(GOLDEN / "module.pkl")["ema"]
    assert (net.name, net.state["_init_kwargs"], net.state["width"]) == ("Net", {"width": 16, "heads": 2}, 16.0)
    np.testing.assert_array_equal(net.state["freqs"], np.arange(3.0))
    made = foreign.state_dict(net)
    assert {key: value.tolist() for key, value in made.items()} == {
        "layers.first.weight": [[0, 1, 2], [3, 4, 5]], "layers.first.kept": [1, 2]}
    with pytest.raises(foreign.Refused, match="no module: Record"):
        foreign.state_dict(foreign.Record("Config", {"a": 1}))


def test_reading_imports_nothing_that_the_file_names():
    code = ("import sys; from jaxdiff import foreign; "
            f"[foreign.read(f) for f in {[str(GOLDEN / name) for name in FILES]}]; "
            "assert not {'torch', 'torch_utils', 'dnnlib', 'safetensors'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", FILES)
def test_every_truncation_is_refused(name, tmp_path):
    raw = (GOLDEN / name).read_bytes()
    for length in {*range(0, len(raw), max(1, len(raw) // 200)), len(raw) - 1}:
        assert refused(tmp_path, raw[:length]).startswith(str(tmp_path / "file.pt"))


class Asks:
    """Pickles as a call of a name that is not allowed."""

    def __init__(self, call, *given):
        self.call, self.given = call, given

    def __reduce__(self):
        return self.call, self.given


def evil(call, *given, protocol=2):
    return pickle.dumps({"state_dict": Asks(call, *given)}, protocol=protocol)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_name_that_is_not_allowed_is_named_and_not_run(protocol, tmp_path):
    import os

    said = refused(tmp_path, evil(os.mkdir, str(tmp_path / "made"), protocol=protocol))
    assert "posix.mkdir" in said and not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["builtins.eval", "builtins.getattr", "os.system", "numpy.load", "torch.load",
                                  "copyreg._reconstructor", "torch.nn.modules.linear.Linear", "builtins.set.__class__"])
def test_other_names_of_allowed_packages_are_refused(name, tmp_path):
    module, _, last = name.rpartition(".")
    raw = b"\x80\x02c" + module.encode() + b"\n" + last.encode() + b"\n."
    assert f"asks for {name}" in refused(tmp_path, raw)


def test_a_dotted_name_reaches_no_attribute(tmp_path):
    """STACK_GLOBAL of `collections` and `OrderedDict.__init__.__globals__`."""
    raw = pickle.PROTO + b"\x04" + b"\x8c\x0bcollections\x8c\x20OrderedDict.__init__.__globals__" + b"\x93."
    assert "OrderedDict.__init__.__globals__" in refused(tmp_path, raw)


@pytest.mark.parametrize("raw", [
    b"\x80\x04B" + struct.pack("<I", 2**31) + b"abc.",       # BINBYTES of 2 GiB
    b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"abc.",    # BINBYTES8
    b"\x80\x04\x8d" + struct.pack("<Q", 2**60) + b"abc.",    # BINUNICODE8
    b"\x80\x04\x96" + struct.pack("<Q", 2**60) + b"abc.",    # BYTEARRAY8
    b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b"N.",      # a frame
    b"\x80\x04\x8b" + struct.pack("<i", 2**31 - 1) + b"\x01.",  # LONG4
    b"\x80\x02Nr" + struct.pack("<I", 2**32 - 1) + b".",     # LONG_BINPUT: room for 4 billion objects
    b"\x80\x02Np4000000000\n.",                              # PUT
    b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".",     # lists in lists
    struct.pack("<Q", 2**40) + b'{"a": 1}',                  # a header of a terabyte
])
def test_counts_are_held_against_the_bytes_present(raw, tmp_path):
    code = ("import resource, sys; from jaxdiff import foreign; peak = lambda: "
            "resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; before = peak()\n"
            "try: foreign.read(sys.argv[1])\n"
            "except foreign.Refused: sys.exit(peak() - before > 100_000)\n"
            "sys.exit(3)")
    subprocess.run([sys.executable, "-c", code, str(written(tmp_path, raw))], check=True)


def tensor(kind="Float", key="0", count=6, offset=0, shape=(2, 3), strides=(3, 1)):
    """Returns torch's zip form with a tensor of the six numbers that are there."""
    put = lambda value: pickle.dumps(value, 2)[2:-1]
    storage = b"(" + put("storage") + f"ctorch\n{kind}Storage\n".encode() + put(key) + put("cpu") + put(count) + b"tQ"
    given = storage + put(offset) + put(shape) + put(strides) + put(False) + put(None)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + given + b"tR.")
        archive.writestr("archive/data/0", np.arange(6, dtype=np.float32).tobytes())
    return out.getvalue()


def test_the_forged_tensor_reads_where_it_is_honest(tmp_path):
    np.testing.assert_array_equal(foreign.read(written(tmp_path, tensor())), np.arange(6).reshape(2, 3))


@pytest.mark.parametrize("asked", [
    dict(shape=(2, 4)), dict(offset=1), dict(strides=(4, 1)), dict(strides=(-1, 1)), dict(shape=(2**40, 3)),
    dict(shape=(2**40,), strides=(0,)), dict(shape=(2, -3)), dict(offset=-1), dict(shape=(2, 3, 1)),
    dict(shape=(2.0, 3)), dict(count=7), dict(count=-6), dict(kind="Double"), dict(key="1"), dict(key="../0"),
])
def test_a_tensor_beyond_its_storage_is_refused(asked, tmp_path):
    refused(tmp_path, tensor(**asked))


def safetensors(**changes):
    entry = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]} | changes
    header = json.dumps({"w": entry}).encode()
    return struct.pack("<Q", len(header)) + header + np.arange(6, dtype=np.float32).tobytes()


def test_safetensors_are_read_within_their_bytes(tmp_path):
    np.testing.assert_array_equal(foreign.read(written(tmp_path, safetensors()))["w"], np.arange(6).reshape(2, 3))
    for changes in ({"shape": [2, 4]}, {"shape": [-2, -3]}, {"data_offsets": [4, 28]}, {"data_offsets": [-24, 0]},
                    {"data_offsets": [24, 0]}, {"shape": [2**62, 3]}, {"more": 1}):
        refused(tmp_path, safetensors(**changes))
    assert "F8_E4M3" in refused(tmp_path, safetensors(dtype="F8_E4M3", data_offsets=[0, 6]))


@pytest.mark.parametrize(("raw", "said"), [
    (b"", "empty"), (b"GIF89a not weights", "neither a pickle"), (b"PK\x03\x04 no archive", "zip"),
    (pickle.dumps({"a": object()}, 4), "builtins.object"),
    (pickle.dumps(np.array([{}, None]), 4), "dtype 'O"),
    (pickle.dumps(b"text", 2).replace(b"latin1", b"rot_13"), "rot_13"),
])
def test_what_is_not_weights_says_what_it_is(raw, said, tmp_path):
    assert said in refused(tmp_path, raw)


def test_a_compressed_archive_is_no_weight_file(tmp_path):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"0" * 10_000_000)
    assert "compressed" in refused(tmp_path, out.getvalue())


def test_arrays_and_scalars_of_numpy(tmp_path):
    kept = {"f": np.arange(6.0).reshape(2, 3, order="F"), "big": np.arange(3, dtype=">i4"), "s": np.float32(1.5)}
    for protocol in (2, 4):
        made = foreign.read(written(tmp_path, pickle.dumps(kept, protocol)))
        np.testing.assert_array_equal(made["f"], kept["f"])
        np.testing.assert_array_equal(made["big"], [0, 1, 2])
        assert made["s"] == 1.5


def test_a_sha256_tells_one_flipped_bit(tmp_path):
    """Most flipped bits of a pickle are numbers and pass: only the hash can tell."""
    raw = bytearray((GOLDEN / "module.pkl").read_bytes())
    before = foreign.sha256(written(tmp_path, bytes(raw)))
    raw[-200] ^= 1
    assert len(before) == 64 and foreign.sha256(written(tmp_path, bytes(raw))) != before
