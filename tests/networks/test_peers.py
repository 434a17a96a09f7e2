"""The UNets give what their torch peers give with the same weights, and start from the same sizes.

`tests/golden/make_unets.py` ran the peers; here their weights are drawn again from their names.
"""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks.shown import drawn

from jaxdiff import convert, networks
from jaxdiff.convert import guided, snapshots, stable, transforms

GOLDEN = np.load(Path(__file__).parent.parent / "golden" / "networks_unets.npz")
SONG = dict(channels=16, mults=(1, 2), blocks=1, attention=(4,), dropout=0.0)
NCSN = dict(SONG, noise_embedding="fourier", taps=(1, 3, 3, 1))
ADM = dict(SONG, channels=64, num_classes=3)
OPENAI = networks.ADM(**ADM, layout="openai", learned_variance=True)
CASES = {  # the network, its table of names, what it is shown
    "ddpmpp": (networks.SongUNet(**SONG, num_classes=3, augment=9), snapshots.song_rules(8), ("augment", "null")),
    "ncsnpp": (networks.SongUNet(**NCSN, encoder="residual"), snapshots.song_rules(8), ()),
    "skip": (networks.SongUNet(**NCSN, encoder="skip", decoder="skip"), snapshots.song_rules(8), ()),
    "adm_edm": (networks.ADM(**ADM, augment=9), snapshots.dhariwal_rules(), ("augment", "null")),
    "adm_openai": (OPENAI, guided.adm_rules(OPENAI, 8), ("label",)),
    "stable": (networks.StableUNet(channels=32, mults=(1, 2), blocks=1, transformers=(1, 0), heads=4),
               stable.diffusers_unet_rules(2), ("text",)),
}
FAST = {"xla_backend_optimization_level": 0}  # compiles in a fraction of the time
PARITY = {"float32": 5e-5, "float64": 2e-6}
ZERO = "conv1|transformer/out|out_conv"  # the paper's choice; diffusers, which is for finished weights, has none


def inputs(case, shown):
    """What the peer was shown: of no class and of class 1 (EDM), or of 1 and 2 at timesteps (OpenAI)."""
    channels = GOLDEN[f"{case}/out"].shape[-1] if case == "stable" else 3
    x = 12 * drawn("x", (2, channels * 64)).reshape(2, channels, 8, 8).transpose(0, 2, 3, 1)
    c_noise = np.array([-0.7, 0.4], np.float32)
    cond = {}
    if {"null", "label"} & set(shown):
        cond["label"] = np.array([3, 1] if "null" in shown else [1, 2], np.int32)
    if "augment" in shown:
        cond["augment"] = 3 * drawn("augment", (2, 9))
    if "text" in shown:
        cond["text"] = 4 * drawn("text", (2, 5, 16))
        cond["mask"] = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], bool)
    return x, 100 * abs(c_noise) if {"label", "text"} & set(shown) else c_noise, cond


def flat(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree["params"])
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def nested(leaves):
    tree = {}
    for path, value in leaves.items():
        *folders, name = path.split("/")
        here = tree
        for folder in folders:
            here = here.setdefault(folder, {})
        here[name] = value
    return {"params": tree}


def peer(case):
    return json.loads(str(GOLDEN[f"{case}/peer"]))


def params_of(case, network, rules, given):
    shapes = convert.shapes(jax.eval_shape(network.init, jax.random.key(0), *given))
    source = {name: drawn(name, tuple(shape)) for name, (shape, _) in peer(case).items()}
    return convert.convert(source, rules, shapes)


@pytest.mark.parametrize(("case", "dtype"), [
    (case, dtype) for case in CASES for dtype in PARITY if dtype == "float32" or GOLDEN[f"{case}/exact"]])
def test_a_network_is_its_peer_weight_for_weight(case, dtype):
    network, rules, shown = CASES[case]
    with jax.enable_x64(dtype == "float64"):
        given = jax.tree.map(lambda a: jnp.asarray(a, dtype if a.dtype == np.float32 else a.dtype), inputs(case, shown))
        params = params_of(case, network, rules, given)
        params = nested({path: jnp.asarray(value, dtype) for path, value in params.items()})
        options = {"variance": True} if case == "adm_openai" else {}
        network = network.clone(dtype=dtype)
        run = jax.jit(lambda params, given: network.apply(params, *given, **options), compiler_options=FAST)
        out = np.asarray(run(params, given))
    assert out.dtype == dtype
    want = GOLDEN[f"{case}/out"]
    assert np.abs(out - want).max() < PARITY[dtype] * want.std()


@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_leaf_starts_as_large_as_the_peers(case):
    """A kind is a name within a block, and a shape: blocks are of one class, and to draw each takes long to compile."""
    network, rules, shown = CASES[case]
    given = inputs(case, shown)
    like = {path: leaf.shape for path, leaf in flat(jax.eval_shape(network.init, jax.random.key(0), *given)).items()}
    kinds = {(re.sub("^(enc|dec)_[^/]*/", "", path), shape): path for path, shape in like.items()}
    draw = lambda key: {path: leaf for path, leaf in flat(network.init(key, *given)).items() if path in kinds.values()}
    source = {name: np.full(shape, std, np.float32) for name, (shape, std) in peer(case).items()}
    wanted = convert.convert(source, rules, like)
    for path, leaf in jax.device_get(jax.jit(draw, compiler_options=FAST)(jax.random.key(1))).items():
        ours, theirs = float(leaf.std()), float(wanted[path].flat[0])
        if theirs == 0 or (case == "stable" and re.search(ZERO, path)):
            assert ours == 0, path
        elif leaf.size > 8:  # of fewer numbers the deviation says nothing
            assert abs(np.log(ours / theirs)) < 5 / np.sqrt(leaf.size), (path, ours, theirs)


@pytest.mark.parametrize(("transform", "axes"), [
    (transforms.heads, (0, 1, 2)), (transforms.interleaved, (1, 2, 0)), (transforms.legacy, (1, 0, 2))])
def test_packed_rows_find_their_part_their_head_and_their_place(transform, axes):
    """Three orders of rows: OpenAI's new one, EDM's, and OpenAI's old one, of ADM at 128 to 512 pixels."""
    rows = np.arange(3 * 2 * 4).reshape(3, 2, 4)  # of q, k and v, each of two heads
    inputs = 100 * np.arange(5)
    peers = rows.transpose(axes).reshape(-1)
    of_bias = transforms.flat if transform is transforms.heads else transform
    np.testing.assert_array_equal(of_bias.there(peers, (3, 2, 4)), rows)
    want = inputs[:, None, None, None] + rows
    np.testing.assert_array_equal(transform.there((peers[:, None] + inputs)[..., None, None], (5, 3, 2, 4)), want)
