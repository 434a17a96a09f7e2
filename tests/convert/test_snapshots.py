"""The snapshots of EDM and EDM2 tell all of themselves; the bytes are made here in the form of their `persistence`."""

import pickle
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convert.bringing import UNETS, agrees, brought, drawn_of, output, restored
from networks.shown import drawn

from jaxdiff import convert, experiment, main, networks, parameterization
from jaxdiff.convert import snapshots


def snapshot(monkeypatch, outer, state, inner, kwargs, weights, **beside):
    """Returns the bytes of a snapshot as EDM's `persistence` pickles it, with arrays of numpy for torch's."""
    home = types.ModuleType("torch_utils.persistence")
    home._reconstruct_persistent_obj = lambda meta: pytest.fail("nothing of the file is run")
    home._reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
    home._reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    monkeypatch.setitem(sys.modules, "torch_utils", types.ModuleType("torch_utils"))
    monkeypatch.setitem(sys.modules, "torch_utils.persistence", home)

    class Persistent:
        def __init__(self, name, state):
            self.meta = {"type": "class", "module_src": "raise SystemExit", "class_name": name, "state": state}

        def __reduce__(self):
            return home._reconstruct_persistent_obj, (self.meta,)

    module = lambda parameters: {"_parameters": parameters, "_buffers": {}, "_modules": {}}
    name = {"Precond": "unet"}.get(outer, "model")
    net = Persistent(inner, module(weights) | {"_init_kwargs": kwargs})
    made = Persistent(outer, module({}) | {"_modules": {name: net}} | state)
    return pickle.dumps({"ema": made, **{key: Persistent(*value) for key, value in beside.items()}})


CIFAR = {"img_resolution": 8, "img_channels": 3, "label_dim": 3, "sigma_data": 0.5}
SMALL = {"model_channels": 16, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4], "dropout": 0.0}
NCSN = SMALL | {"embedding_type": "fourier", "channel_mult_noise": 2, "resample_filter": [1, 3, 3, 1],
                "encoder_type": "residual"}
SNAPSHOTS = {  # golden -> (class of the preconditioning, its state, class of the network, its options)
    "ddpmpp": ("EDMPrecond", CIFAR, "SongUNet", SMALL | {"augment_dim": 9}),
    "ncsnpp": ("VEPrecond", CIFAR | {"label_dim": 0, "sigma_min": 0.02, "sigma_max": 100}, "SongUNet", NCSN),
    "adm_edm": ("iDDPMPrecond", CIFAR | {"M": 1000}, "DhariwalUNet",
                SMALL | {"model_channels": 64, "augment_dim": 9}),
}


@pytest.mark.parametrize("case", SNAPSHOTS)
def test_a_snapshot_of_edm_tells_all_of_itself(case, tmp_path, monkeypatch):
    outer, state, inner, kwargs = SNAPSHOTS[case]
    record = snapshot(monkeypatch, outer, state, inner, kwargs, drawn_of(UNETS, case))
    network, params, config, model = restored(brought(tmp_path, None, "edm", record=record))
    assert model.shape == (8, 8, 3) and model.classes == state["label_dim"]
    x = jnp.asarray(12 * drawn("x", (2, 192)).reshape(2, 3, 8, 8).transpose(0, 2, 3, 1))
    cond = {"label": jnp.array([3, 1]), "augment": jnp.asarray(3 * drawn("augment", (2, 9)))}
    got = output(network, params, (x, jnp.array([-0.7, 0.4]), cond if model.classes else None))
    agrees(got if case != "ncsnpp" else -got, UNETS[f"{case}/out"])  # VE's network predicts -ε
    sigma = np.array([0.02, 0.5, 50.0])
    kind = experiment.build(config.parameterization, parameterization)
    shown, c_in = kind.c_noise(-2 * np.log(sigma)), kind.c_in(np.ones(3), sigma)
    wanted = {"ddpmpp": (np.log(sigma) / 4, 1 / np.sqrt(sigma**2 + 0.25)),
              "ncsnpp": (np.log(sigma / 2), np.ones(3)),
              "adm_edm": (None, 1 / np.sqrt(sigma**2 + 1))}[case]
    np.testing.assert_allclose(c_in, wanted[1], rtol=1e-6)
    if wanted[0] is not None:
        np.testing.assert_allclose(shown, wanted[0], rtol=1e-6)


def test_a_snapshot_without_its_options_names_what_it_lacks(tmp_path, monkeypatch, capsys):
    record = snapshot(monkeypatch, "EDMPrecond", {"img_resolution": 8}, "SongUNet", SMALL, {})
    (tmp_path / "file.pkl").write_bytes(record)
    argv = ["convert", str(tmp_path / "file.pkl"), "--layout=edm", f"--workdir={tmp_path / 'run'}"]
    assert main.main(argv) == 2
    assert "the EDMPrecond in the file has no 'img_channels'; it has" in capsys.readouterr().err


def test_iddpm_is_shown_its_levels():
    """M - 1 - j at EDM's u_j (Karras et al. 2022, table 1 and its footnote)."""
    bar = lambda j: np.sin(np.pi / 2 * j / 1000 / 1.008) ** 2
    u = np.zeros(1001)
    for j in range(1000, 0, -1):
        u[j - 1] = ((u[j] ** 2 + 1) / max(bar(j - 1) / bar(j), 0.001) - 1) ** 0.5
    _, kind, _, _ = snapshots.PRECONDITIONS["iDDPMPrecond"]({"M": 1000})
    made = experiment.build(kind, parameterization)
    j = np.array([200, 500, 900, 999])
    np.testing.assert_allclose(made.c_noise(-2 * np.log(u[j])), 999 - j, atol=1e-6)


def test_vp_is_shown_its_time():
    _, kind, _, _ = snapshots.PRECONDITIONS["VPPrecond"](
        {"M": 1000, "beta_d": 19.9, "beta_min": 0.1})
    made = experiment.build(kind, parameterization)
    t = np.array([0.01, 0.5, 0.9])
    sigma = np.sqrt(np.exp(19.9 * t**2 / 2 + 0.1 * t) - 1)
    np.testing.assert_allclose(made.c_noise(-2 * np.log(sigma)), 999 * t, rtol=1e-9)


def of_edm2(path, value):
    """Returns name and value of one of our parameters as EDM2 publishes it: PyTorch's axes, radians, float16."""
    place, _, leaf = path.rpartition("/")
    side, _, rest = place.partition("_")
    stem = f"{side}.{rest.replace('/', '.')}" if side in ("enc", "dec") else place
    if leaf in ("freqs", "phases"):
        return f"{stem}.{leaf}", 2 * np.pi * value
    if place.endswith("attn_qkv"):  # [c, 3, heads, dim] to rows (heads, dim, 3)
        value = value.transpose(2, 3, 1, 0).reshape(-1, len(value))[..., None, None]
    elif place.endswith("attn_proj"):
        value = value.reshape(-1, value.shape[-1]).T[..., None, None]
    elif leaf == "weight":
        value = np.moveaxis(value, (-1, -2), (0, 1))
    return f"{stem}.{leaf}".lstrip("."), value.astype(np.float16)


def test_edm2_is_its_own_network_after_conversion(tmp_path, monkeypatch):
    """No package has it: its parameters go out by the published names and orders, and come back as they were."""
    net = networks.EDM2(channels=64, mults=(1, 2), blocks=1, attention=(8,), num_classes=3)
    like = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 8, 8, 4)), jnp.zeros(1),
                          {"label": jnp.zeros(1, int)})
    ours = {path: drawn(path, shape) for path, shape in convert.shapes(like).items()}
    theirs = dict(of_edm2(path, value) for path, value in ours.items())
    assert {"out_gain", "emb_fourier.freqs", "enc.8x8_conv.weight", "dec.4x4_in0.attn_qkv.weight"} <= set(theirs)
    kwargs = {"model_channels": 64, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [8]}
    scales = {"scale": np.float32([0.12, 0.108, 0.135, 0.152]), "bias": np.float32([-1, 0, 0, 1])}
    encoder = ("StabilityVAEEncoder", scales)
    record = snapshot(monkeypatch, "Precond", CIFAR | {"img_channels": 4}, "UNet", kwargs, theirs, encoder=encoder)
    network, params, config, model = restored(brought(tmp_path, None, "edm2", record=record))
    assert network.head_channels == 64 and model.shape == (8, 8, 4)
    for path, value in convert.shapes(params).items():
        assert value == ours[path].shape
    leaves = dict(zip(convert.shapes(params), jax.tree.leaves(params), strict=True))
    for path, value in leaves.items():
        np.testing.assert_allclose(value, ours[path], rtol=1e-3, atol=1e-3)
    # z scale + bias of theirs is (z - shift) scale of ours.
    np.testing.assert_allclose(-np.multiply(config.prepare.shift, config.prepare.scale), [-1, 0, 0, 1], atol=1e-6)
