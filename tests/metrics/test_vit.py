"""DINOv2 and CLIP have the features that the torch tools give them, and would be caught with any one fault.

Towers are narrow, with weights drawn from the names of the published files (`towers.py`); the values are the peers', in
float64 (`golden/make_towers.py`), and those of the published classes in float32 that came with the specification.
"""

import functools
import re
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from metrics import inputs, towers

from jaxdiff import foreign, layers
from jaxdiff.build import build
from jaxdiff.metrics import features
from jaxdiff.metrics.features import contrastive, dino

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "towers_vit.npz"
SINGLE, DOUBLE = 5e-6, 2e-7  # of the largest feature


@functools.cache
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


@functools.cache
def images():
    return inputs.images("real", 2, 64, 64)


@functools.cache
def tensors(kind):
    """The published names, at our width and depth."""
    width, blocks = np.zeros((1, 1, towers.WIDTH)), range(towers.DEPTH)
    if kind == "clip":
        told = {"visual.conv1.weight": np.zeros((towers.WIDTH, 3, 14, 14)),
                "visual.proj": np.zeros((towers.WIDTH, towers.EMBEDDING))}
        return towers.drawn(kind, contrastive.shapes(told | {
            f"visual.transformer.resblocks.{i}.ln_1.weight": width for i in blocks}))
    told = {"cls_token": width} | {f"blocks.{i}.norm1.weight": width for i in blocks}
    if kind == "gated":
        told["blocks.0.mlp.w3.weight"] = np.zeros((towers.WIDTH, towers.GATED))
    return towers.drawn("dinov2", dino.shapes(told))


def tower(kind, protocol, dtype=np.float32):
    if kind == "clip":
        return contrastive.CLIP(contrastive.converted(tensors(kind), dtype), protocol=protocol)
    return dino.DINOv2(dino.converted(tensors(kind), dtype), protocol=protocol,
                       mlp="swiglu" if kind == "gated" else "gelu")


def outputs(extract, given):
    return jax.jit(lambda extract, given: extract(given))(extract, given)


def apart(found, wanted):
    return float(np.abs(np.asarray(found) - wanted).max() / np.abs(wanted).max())


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def wanted(kind, protocol):
    value = golden()[f"{kind}/{protocol}"]
    return unit(value) if kind == "clip" else value


CASES = [("dinov2", "edm2"), ("dinov2", "edm2_pil"), ("dinov2", "tf1"), ("gated", "edm2"), ("clip", "cmmd"),
         ("clip", "tf1")]


@pytest.mark.parametrize(("kind", "protocol"), CASES)
def test_features_are_those_of_the_peer(kind, protocol):
    found = outputs(tower(kind, protocol), images())
    assert (found.shape, found.dtype) == (wanted(kind, protocol).shape, jnp.float32)
    assert apart(found, wanted(kind, protocol)) < SINGLE


@pytest.mark.parametrize(("kind", "protocol"), [case for case in CASES if case[1] in ("edm2", "cmmd")])
def test_in_double_precision_nothing_is_left(kind, protocol, x64):
    found = outputs(tower(kind, protocol, np.float64), images())
    assert found.dtype == jnp.float64
    assert apart(found, wanted(kind, protocol)) < DOUBLE


@pytest.mark.parametrize(("ours", "theirs"), [("dinov2/edm2", "dinov2/torch"), ("dinov2/edm2_pil", "dinov2/pil"),
                                              ("clip/cmmd", "clip/embedding")])
def test_the_peers_are_the_published_classes(ours, theirs):
    assert apart(golden()[ours], golden()[f"handed/{theirs}"]) < 1e-6


def test_two_protocols_are_told_apart():
    assert apart(golden()["dinov2/edm2"], golden()["dinov2/edm2_pil"]) > 100 * SINGLE


def test_clip_embeds_to_length_1():
    np.testing.assert_allclose(np.linalg.norm(outputs(tower("clip", "cmmd"), images()), axis=-1), 1, rtol=1e-6)


def test_grey_images_are_seen_as_three_equal_channels():
    grey = images()[..., :1]
    extract = tower("dinov2", "edm2")
    np.testing.assert_allclose(outputs(extract, grey), outputs(extract, np.repeat(grey, 3, -1)), atol=1e-5)


def test_the_table_of_positions_is_torchs():
    table = tensors("dinov2")["pos_embed"][0, 1:]
    made = dino.positions(table, 16).reshape(16, 16, -1).transpose(2, 0, 1)[:8]
    assert apart(made, golden()["handed/pos_embed_16"]) < 2e-6
    assert apart(dino.positions(table, 16, offset=0).reshape(16, 16, -1).transpose(2, 0, 1)[:8],
                 golden()["handed/pos_embed_16"]) > 0.1


# One fault at a time.

FAULTS = {
    "eps of 1e-5": (dino, "EPS", 1e-5, "dinov2"),
    "positions at 16/37": (dino, "positions", functools.partial(dino.positions, offset=0.0), "dinov2"),
    "gelu by tanh": (layers, "ACTIVATIONS", {"gelu": layers.ACTIVATIONS["gelu_tanh"]}, "dinov2"),
    "eps of 1e-6": (contrastive, "EPS", 1e-6, "clip"),
    "exact gelu": (layers, "ACTIVATIONS", {"quick_gelu": layers.ACTIVATIONS["gelu"]}, "clip"),
    "ImageNet's mean": (contrastive, "STANDARD", features.preparation.IMAGENET, "clip"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault, monkeypatch):
    module, name, value, kind = FAULTS[fault]
    monkeypatch.setattr(module, name, value)
    protocol = "cmmd" if kind == "clip" else "edm2"
    assert apart(outputs(tower(kind, protocol), images()), wanted(kind, protocol)) > 4 * SINGLE


# Files.


def in_hugging_face_names(arrays):
    made = {}
    for name, array in arrays.items():
        for theirs, ours in contrastive.OPENAI.items():
            plain = re.sub(r"\(.*?\)", "{}", theirs.replace("\\.", "."))
            pattern = re.escape(ours).replace(r"\\1", r"(\d+)").replace(r"\\2", "([12])")
            if match := re.match(pattern, name):
                made[plain.format(*match.groups()) + name[match.end():]] = array
        if match := re.search(r"resblocks\.(\d+)\.attn\.in_proj_(\w+)", name):
            for part, third in zip("qkv", np.split(array, 3), strict=True):
                made[f"vision_model.encoder.layers.{match[1]}.self_attn.{part}_proj.{match[2]}"] = third
    return made | {"visual_projection.weight": arrays["visual.proj"].T}


def test_dinov2_is_read_from_a_file(tmp_path):
    held = {**tensors("dinov2"), "mask_token": np.zeros((1, 128), "f4")}
    foreign.write(tmp_path / "dinov2_vitl14_pretrain.pth", held)
    made = build({"name": "dinov2", "weights": str(tmp_path), "protocol": "tf1"}, features)
    assert (made.name, made.protocol, made.mlp, len(made.sha256)) == ("dinov2", "tf1", "gelu", 64)
    jax.tree.map(np.testing.assert_array_equal, made.params, tower("dinov2", "tf1").params)


def test_vit_g_is_known_by_its_gates(tmp_path):
    foreign.write(tmp_path / "g.safetensors", tensors("gated"))
    assert features.dinov2(weights=tmp_path / "g.safetensors").mlp == "swiglu"


@pytest.mark.parametrize("names", ["openai", "hugging face"])
def test_clip_is_read_from_a_file_in_half_precision_too(names, tmp_path):
    arrays = {name: array.astype(np.float16) for name, array in tensors("clip").items()}
    held = in_hugging_face_names(arrays) if names == "hugging face" else arrays
    text = {"hugging face": "text_model.final_layer_norm.weight", "openai": "ln_final.weight"}[names]
    foreign.write(tmp_path / "model.safetensors", {**held, text: np.ones(4, np.float16)})
    made = features.clip(weights=tmp_path)
    assert made.size == 336
    right = contrastive.converted({name: array.astype(np.float32) for name, array in arrays.items()})
    jax.tree.map(np.testing.assert_array_equal, made.params, right)


@pytest.mark.parametrize(("make", "arrays", "message"), [
    ("dinov2", {"cls_token": np.zeros((1, 1, 128), "f4")}, "not the weights of DINOv2: 'pos_embed' is missing"),
    ("dinov2", {"register_tokens": np.zeros((1, 4, 8), "f4")}, "with registers, and FD-DINOv2 is without"),
    ("clip", {"visual.proj": np.zeros((8, 4), "f4")}, "not the weights of CLIP's image tower: .* is missing"),
    ("clip", {"visual.proj": np.zeros((8, 4), "f4"), "visual.proj.bias": np.zeros(4, "f4")}, "is missing"),
])
def test_another_file_is_refused(make, arrays, message, tmp_path):
    foreign.write(tmp_path / "other.safetensors", arrays)
    with pytest.raises(ValueError, match=message):
        getattr(features, make)(weights=tmp_path / "other.safetensors")


def test_a_program_is_refused_and_the_way_out_is_told(tmp_path):
    with zipfile.ZipFile(tmp_path / "ViT-L-14-336px.pt", "w") as archive:
        archive.writestr("ViT-L-14-336px/data.pkl", b"")
        archive.writestr("ViT-L-14-336px/constants.pkl", b"")
    with pytest.raises(ValueError, match=r"is TorchScript, a program.*torch\.jit\.load\('ViT-L-14-336px\.pt'"):
        features.clip(weights=tmp_path / "ViT-L-14-336px.pt")


@pytest.mark.parametrize(("make", "protocol", "message"), [
    ("dinov2", "edm", "features 'dinov2' have no protocol 'edm'; did you mean 'edm2'"),
    ("clip", "clean", "features 'clip' have no protocol 'clean'"),
])
def test_another_protocol_is_refused(make, protocol, message):
    with pytest.raises(ValueError, match=message):
        getattr(features, make)(protocol=protocol)


@pytest.mark.parametrize("make", ["dinov2", "clip"])
def test_weights_that_are_not_there_are_asked_for(make, monkeypatch):
    monkeypatch.delenv("JAXDIFF_WEIGHTS", raising=False)
    with pytest.raises(ValueError, match="published at https://"):
        getattr(features, make)()
