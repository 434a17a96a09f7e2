"""VGG16 has torch-fidelity's features: narrow, with random weights, in float64 (`golden/make_towers.py`)."""

import functools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from metrics import inputs, towers

from jaxdiff import foreign
from jaxdiff.metrics import features
from jaxdiff.metrics.features import vgg

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "towers_vgg.npz"
SINGLE, DOUBLE = 1e-5, 2e-7  # of the largest


@functools.cache
def wanted():
    with np.load(GOLDEN) as file:
        return file["features"]


@functools.cache
def tensors():
    return towers.rectified("vgg16", vgg.shapes(towers.CHANNELS, towers.HIDDEN))


def apart(params):
    images = inputs.images("real", 2, 64, 64)
    found = jax.jit(lambda extract, given: extract(given))(vgg.VGG16(params), images)
    return float(np.abs(np.asarray(found) - wanted()).max() / wanted().max()), found.dtype


def test_features_are_torch_fidelitys():
    found, dtype = apart(vgg.converted(tensors()))
    assert (found < SINGLE, dtype) == (True, jnp.float32)


def test_in_double_precision_nothing_is_left_but_the_rounding_of_what_is_stored(x64):
    found, dtype = apart(vgg.converted(tensors(), np.float64))
    assert (found < DOUBLE, dtype) == (True, jnp.float64)


def test_channels_that_are_not_last_are_found(monkeypatch):
    params = vgg.converted(tensors())
    params["classifier.0"]["kernel"] = tensors()["classifier.0.weight"].T
    assert apart(params)[0] > 100 * SINGLE


def test_it_has_torchvisions_138_million_numbers():
    shapes = vgg.shapes()
    assert sum(map(math.prod, shapes.values())) == 138_357_544 - 1000 * 4097  # without the classes
    assert [name for name in shapes if name.endswith("weight")] == [
        *(f"features.{i}.weight" for i in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)),
        "classifier.0.weight", "classifier.3.weight"]


def test_a_file_is_read_without_its_classes(tmp_path, monkeypatch):
    monkeypatch.setattr(vgg, "shapes", functools.partial(vgg.shapes, towers.CHANNELS, towers.HIDDEN))
    held = {**tensors(), "classifier.6.weight": np.zeros((3, 24), np.float32), "classifier.6.bias": np.zeros(3, "f4")}
    foreign.write(tmp_path / "vgg16.safetensors", held)
    made = features.vgg16(weights=tmp_path / "vgg16.safetensors")
    assert (made.name, made.protocol, len(made.sha256)) == ("vgg16", "tf1", 64)
    jax.tree.map(np.testing.assert_array_equal, made.params, vgg.converted(tensors()))


def test_what_cannot_be_made_is_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("JAXDIFF_WEIGHTS", raising=False)
    with pytest.raises(ValueError, match="put vgg16-397923af.pth, published at https://download.pytorch.org"):
        features.vgg16()
    with pytest.raises(ValueError, match="features 'vgg16' have no protocol 'tf'; did you mean 'tf1'"):
        features.vgg16(protocol="tf")
    foreign.write(tmp_path / "a.safetensors", {"features.0.weight": np.zeros((64, 3, 3, 3), np.float32)})
    with pytest.raises(ValueError, match="not the weights of VGG16: 'features.0.bias' is missing"):
        features.vgg16(weights=tmp_path / "a.safetensors")
