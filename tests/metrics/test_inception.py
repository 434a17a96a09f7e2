"""FID's Inception has the features that the torch tools give it, and would be caught with any one fault.

Weights and images are drawn from their seeds (`inputs.py`), the values are the tools' (`golden/make_fid.py`).  This
random network multiplies rounding a thousandfold: in float32 torch is itself 4e-5 to 3e-4 of the largest feature from
torch in float64.  In float64 the two agree to the rounding of the stored values.
"""

import functools
import pickle
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from metrics import inputs

from jaxdiff import foreign
from jaxdiff.build import build
from jaxdiff.metrics import features
from jaxdiff.metrics.features import agreement, inception_v3, preparation

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "fid_inception.npz"
SINGLE, DOUBLE = 3e-4, 2e-7  # of the largest feature; 2015's files are float32
OUTPUTS = {"features": "feat", "spatial": "sfid", "logits": "logits"}
TOOLS = {"tf1": "torch_fidelity", "half_pixel": "pytorch_fid", "clean": "clean", "legacy_pytorch": "legacy_pytorch"}


@functools.cache
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


@functools.cache
def tensors():
    return inputs.weights(inception_v3.shapes())


@functools.cache
def network():
    return inception_v3.Inception(inception_v3.folded(tensors()))


@functools.cache
def images(size, kind="real"):
    return inputs.images(kind, 2, *map(int, size.split("x")))


def outputs(extract, given):
    return jax.jit(lambda extract, given: extract.outputs(given))(extract, given)


def apart(found, wanted):
    return float(np.abs(np.asarray(found) - wanted).max() / np.abs(wanted).max())


def as_protocol(protocol):
    return inception_v3.Inception(network().params, protocol=protocol)


def test_the_weights_are_those_of_the_specification():
    assert inputs.checksum(tensors()) == inputs.CHECKSUM
    assert (len(tensors()), sum(array.size for array in tensors().values())) == (472, 23_885_392)


@pytest.mark.parametrize("key", [key for key in golden() if key.endswith("feat")])
def test_features_are_those_of_the_tool(key):
    size, tool, _ = key.split("/")
    (protocol,) = [ours for ours, theirs in TOOLS.items() if theirs == tool]
    found = outputs(as_protocol(protocol), images(size))
    for name, theirs in OUTPUTS.items():
        if f"{size}/{tool}/{theirs}" in golden():
            wanted = golden()[f"{size}/{tool}/{theirs}"]
            assert (found[name].shape, found[name].dtype) == (wanted.shape, jnp.float32)
            assert apart(found[name], wanted) < SINGLE, name


@pytest.mark.parametrize("size", ["32x32", "48x80"])
def test_in_double_precision_nothing_is_left_but_the_rounding_of_what_is_stored(size, x64):
    extract = inception_v3.Inception(inception_v3.folded(tensors(), np.float64))
    found = outputs(extract, images(size))
    for name, theirs in OUTPUTS.items():
        assert found[name].dtype == jnp.float64
        assert apart(found[name], golden()[f"{size}/torch_fidelity/{theirs}64"]) < DOUBLE, name


# One fault at a time.


def padding_counted(monkeypatch):
    monkeypatch.setattr(inception_v3, "average", lambda x: jax.lax.reduce_window(
        x, 0.0, jax.lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME") / 9)


def average_in_the_last_block(monkeypatch):
    right, mean = inception_v3.peak, inception_v3.average
    monkeypatch.setattr(inception_v3, "peak", lambda x, stride=2, pad=0: right(x) if stride == 2 else mean(x))


def another_first_padding(monkeypatch):
    right = inception_v3._conv

    def padded(params):
        conv = right(params)
        return lambda name, x, *given, **more: conv(
            name, jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))) if name == "Conv2d_1a_3x3" else x, *given, **more)

    monkeypatch.setattr(inception_v3, "_conv", padded)


def signed_as_pytorch_fid(monkeypatch):
    monkeypatch.setattr(preparation, "signed", lambda x, protocol: 2 * (x / 255) - 1)


def half_pixel_grid(monkeypatch):
    right = preparation.matrix
    monkeypatch.setattr(preparation, "matrix", lambda grid, *given: right("centre", *given))


def rounded_to_bytes(monkeypatch):
    right = preparation.resized
    monkeypatch.setattr(preparation, "resized", lambda *given, **more: jnp.round(right(*given, **more)))


def bgr(monkeypatch):
    right = preparation.resized
    monkeypatch.setattr(preparation, "resized", lambda *given, **more: right(*given, **more)[..., ::-1])


def another_eps(monkeypatch):
    monkeypatch.setattr(inception_v3, "EPS", 1e-5)


FAULTS = [padding_counted, average_in_the_last_block, another_first_padding, signed_as_pytorch_fid, half_pixel_grid,
          rounded_to_bytes, bgr, another_eps]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_is_seen(fault, monkeypatch):
    """FID.md, section 3: each moves the features by 0.29 of the largest and more over 8 images; here are 2."""
    fault(monkeypatch)
    extract = inception_v3.Inception(inception_v3.folded(tensors())) if fault is another_eps else network()
    found = outputs(extract, images("32x32"))["features"]
    assert apart(found, golden()["32x32/torch_fidelity/feat"]) > 0.1


def test_the_wrong_layer_for_sfid_is_seen(monkeypatch):
    """FID.md, fault 21: Mixed_6e in place of Mixed_6d."""
    monkeypatch.setattr(inception_v3, "TAP", "Mixed_6e.branch1x1")
    found = outputs(network(), images("32x32"))["spatial"]
    assert apart(found, golden()["32x32/torch_fidelity/sfid"]) > 0.5


def test_an_average_divides_by_the_pixels_that_are_there():
    """FID.md, fault 2, `avgpool_corner_of_ones`."""
    np.testing.assert_array_equal(inception_v3.average(jnp.ones((1, 4, 5, 2))), 1)


# An extractor like others.


def test_weights_are_an_argument_of_the_program_and_their_precision_is_the_highest():
    shown = jax.jit(lambda extract, given: extract.outputs(given)).lower(network(), images("32x32")).as_text()
    products = [line for line in shown.splitlines() if "stablehlo.convolution" in line or "dot_general" in line]
    assert len(products) > 94 and all("HIGHEST" in line for line in products)
    assert len(shown) < 1_000_000  # 24 million numbers would be 190 MB of text


def test_other_weights_and_an_equal_extractor_compile_nothing():
    traces = []

    @jax.jit
    def features_of(extract, given):
        traces.append(1)
        return extract.params["fc"].sum() + preparation.resized(given, extract.protocol, 20).sum()

    for extract in (network(), as_protocol("tf1"), jax.tree.map(lambda leaf: 2 * leaf, network())):
        features_of(extract, images("32x32"))
    assert len(traces) == 1
    features_of(as_protocol("clean"), images("32x32"))
    assert len(traces) == 2


def test_an_image_has_the_same_features_in_any_company():
    given = np.concatenate([images("32x32"), images("32x32", "fake")])
    whole = outputs(network(), given)["features"]
    assert apart(outputs(network(), given[2:3])["features"], np.asarray(whole)[2:3]) < SINGLE


def test_a_grey_image_is_three_equal_channels():
    grey = images("32x32")[..., :1]
    found = outputs(network(), grey)["features"]
    assert apart(found, np.asarray(outputs(network(), np.repeat(grey, 3, -1))["features"])) < SINGLE


# Files.


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    foreign.write(path, tensors())
    return path


def test_is_built_by_name_from_a_file(file, monkeypatch):
    extract = build({"name": "inception", "weights": str(file), "protocol": "clean"}, features)
    assert (extract.name, extract.protocol, extract.sha256) == ("inception", "clean", foreign.sha256(file))
    jax.tree.map(np.testing.assert_array_equal, extract.params, network().params)
    monkeypatch.delenv("JAXDIFF_WEIGHTS", raising=False)
    with pytest.raises(ValueError, match=r"put pt_inception-2015-12-05-6726825d\.pth or .*published at https://github"):
        features.inception()
    with pytest.raises(ValueError, match="sha256 .*should begin with 6726825d"):
        features.inception(weights=file, sha256="6726825d")
    with pytest.raises(ValueError, match="'inception' have no protocol 'tf2'; did you mean 'tf1'"):
        features.inception(weights=file, protocol="tf2")


def test_the_layout_of_jax_fid_is_read(tmp_path):
    nested = {}
    for name, array in tensors().items():
        *path, part, leaf = name.split(".")
        leaf = {"conv.weight": "kernel", "fc.weight": "kernel", "bn.weight": "scale", "bn.running_mean": "mean",
                "bn.running_var": "var"}.get(f"{part}.{leaf}", leaf)
        inner = functools.reduce(lambda inner, key: inner.setdefault(key, {}), [*path, part], nested)
        inner[leaf] = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
    path = tmp_path / "inception_v3_weights_fid.pickle"
    path.write_bytes(pickle.dumps(nested))
    jax.tree.map(np.testing.assert_array_equal, features.inception(weights=tmp_path).params, network().params)


def test_another_network_is_refused(tmp_path):
    """torchvision's Inception has 1,000 classes; fault 2."""
    path = tmp_path / "torchvision.safetensors"
    foreign.write(path, {**tensors(), "fc.weight": np.zeros((1000, 2048), np.float32)})
    with pytest.raises(ValueError, match=r"weights of FID's Inception: 'fc\.weight' has the shape \[1000, 2048\]"):
        features.inception(weights=path)


# The guard.


def test_a_device_is_held_against_the_cpu():
    assert agreement.verify(network(), images("32x32")) < SINGLE
    pictures = agreement.pictures()
    assert (pictures.shape, pictures.dtype) == ((2, 64, 64, 3), np.uint8)
    assert pictures.std() > 50 and not np.array_equal(*pictures)


def test_a_device_that_multiplies_in_bfloat16_is_refused():
    class Obedient:
        """Multiplies as an accelerator does that is not told otherwise."""
        name = "inception"

        def __call__(self, given):
            exact = jax.config.jax_default_matmul_precision == "highest"
            x = given.reshape(len(given), -1) / 255.0
            return x if exact else x.astype(jnp.bfloat16).astype(jnp.float32)

    jax.tree_util.register_static(Obedient)
    with pytest.raises(ValueError, match=r"'inception' on .*cpu.* are \d\.\de-03 of the largest .*bfloat16.*highest"):
        agreement.verify(Obedient())
