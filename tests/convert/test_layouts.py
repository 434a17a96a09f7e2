"""A file in a published layout becomes a folder that gives what the peer gave: sizes, processes and clocks included.

The goldens are those of `tests/networks`: the peers' outputs with weights that are drawn from their names.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convert.bringing import GOLDEN, TRANSFORMERS, UNET, UNETS, agrees, brought, drawn_of, of_dit, output, restored
from networks import shown
from networks.shown import drawn

from jaxdiff import convert, experiment, foreign, main, networks, parameterization, process
from jaxdiff.convert import guided, stable
from jaxdiff.layers import sincos

# Transformers.

X = jnp.asarray(shown.patched(4, 8).transpose(0, 2, 3, 1))
LABEL = {"label": jnp.asarray(shown.LABELS)}


@pytest.mark.parametrize("named", [lambda source: source, of_dit], ids=["diffusers", "authors"])
def test_dit_tells_its_sizes_and_its_heads_are_asked_for(named, tmp_path):
    weights = named(drawn_of(TRANSFORMERS, "dit"))
    flags = ["--config.network.heads=2"] + ([] if "pos_embed" in weights else ["--resolution=8"])
    network, params, config, model = restored(brought(tmp_path, weights, "dit", *flags))
    assert (network.width, network.depth, network.patch, network.num_classes, network.learned_variance) == (
        32, 3, 2, 5, True)
    assert model.shape == (8, 8, 4) and model.null == {"label": 5}
    given = (X, jnp.asarray(shown.TIMES["dit"], jnp.float32), LABEL)
    agrees(output(network, params, given, variance=True), TRANSFORMERS["dit/out"])
    kind = experiment.build(config.parameterization, parameterization)
    logsnr = process.logsnr(process.Discrete(), np.array([1.0, 0.731, 0.001]))
    np.testing.assert_allclose(kind.c_noise(logsnr), [999, 730, 0], atol=1e-9)


def test_dit_goes_back_as_it_came(tmp_path):
    weights = of_dit(drawn_of(TRANSFORMERS, "dit"))
    folder = brought(tmp_path, weights, "dit", "--config.network.heads=2")
    for layout, again in (("dit", weights), ("diffusers_dit", drawn_of(TRANSFORMERS, "dit"))):
        out = tmp_path / f"{layout}.safetensors"
        assert main.main(["export", f"--workdir={folder}", f"--layout={layout}", f"--out={out}"]) == 0
        made = foreign.read(out)
        for name, value in again.items():
            if name != "pos_embed":
                np.testing.assert_array_equal(made[name], value)
        extra = {name for name in set(made) - set(again) if ".norm1.emb." not in name}
        assert not extra
    positions = foreign.read(tmp_path / "dit.safetensors")["pos_embed"]
    np.testing.assert_allclose(positions[0], sincos(np.arange(4), np.arange(4), 32), atol=1e-6)


def test_sit_is_turned_round_at_the_border(tmp_path):
    """Its time is 1 at data, and its velocity runs there; ours is 1 at noise."""
    weights = of_dit(drawn_of(TRANSFORMERS, "dit"))
    config = restored(brought(tmp_path, weights, "sit", "--config.network.heads=2"))[2]
    kind = experiment.build(config.parameterization, parameterization)
    flow = process.RectifiedFlow()
    t = np.array([0.25, 0.5, 0.9])
    np.testing.assert_allclose(kind.c_noise(process.logsnr(flow, t)), 1 - t, atol=1e-12)
    a, b = kind.coefficients(1 - t, t, -np.ones(3), np.ones(3))
    np.testing.assert_array_equal((a, b), (np.ones(3), -np.ones(3)))  # x0 - eps
    np.testing.assert_array_equal(kind.c_in(1 - t, t), np.ones(3))


def test_jit_tells_its_class_tokens(tmp_path):
    weights = drawn_of(TRANSFORMERS, "jit") | {"pos_embed": np.zeros((1, 16, 32), np.float32)}
    folder = brought(tmp_path, weights, "jit", "--config.network.heads=2", "--config.network.start=1")
    network, params, _, model = restored(folder)
    assert model.shape == (16, 16, 3) and network.class_tokens == 3
    x = jnp.asarray(shown.patched(3, 16).transpose(0, 2, 3, 1))
    agrees(output(network, params, (x, jnp.asarray(shown.TIMES["jit"]), LABEL)), TRANSFORMERS["jit/out"])


def test_uvit_tells_its_depth(tmp_path):
    folder = brought(tmp_path, drawn_of(TRANSFORMERS, "uvit"), "uvit", "--config.network.heads=2")
    network, params, _, model = restored(folder)
    assert network.depth == 5 and model.shape == (8, 8, 4)
    given = (X, jnp.asarray(shown.TIMES["uvit"]), LABEL)
    agrees(output(network, params, given), TRANSFORMERS["uvit/out"])


def test_mmdit_comes_in_a_folder_of_diffusers(tmp_path):
    """Its config and its scheduler say the rest; a text of other length than the usual is a matter of the sampler."""
    home = tmp_path / "sd3" / "transformer"
    foreign.write(home / "diffusion_pytorch_model.safetensors", drawn_of(TRANSFORMERS, "mmdit"))
    (home / "config.json").write_text(json.dumps({
        "sample_size": 8, "patch_size": 2, "num_attention_heads": 2, "pos_embed_max_size": 7}))
    (home.parent / "scheduler").mkdir()
    (home.parent / "scheduler" / "scheduler_config.json").write_text(json.dumps({"shift": 3.0}))
    run = tmp_path / "run"
    assert main.main(["convert", str(home.parent), "--layout=mmdit", f"--workdir={run}"]) == 0
    network, params, config, model = restored(run)
    assert config.process.factor == 3.0 and network.qk_norm and set(model.null) == {"text", "pooled"}
    text, pooled = shown.text()
    given = (X, jnp.asarray(shown.TIMES["mmdit"]), {"text": jnp.asarray(text), "pooled": jnp.asarray(pooled)})
    agrees(output(network, params, given), TRANSFORMERS["mmdit/out"])
    kind = experiment.build(config.parameterization, parameterization)
    np.testing.assert_allclose(kind.c_noise(process.logsnr(process.RectifiedFlow(), np.array([0.12]))), 120, rtol=1e-9)


# UNets.


def test_openais_adm_is_told_its_resolution(tmp_path, monkeypatch):
    monkeypatch.setitem(guided.PUBLISHED, 64, {"mults": (1, 2), "blocks": 1, "heads": 0})
    weights = drawn_of(UNETS, "adm_openai")
    flags = ["--resolution=64"]
    network, _, config, model = restored(brought(tmp_path, weights, "adm", *flags))
    assert (network.channels, network.num_classes, network.learned_variance, model.null) == (64, 3, True, None)
    assert config.process.schedule == "cosine" and model.shape == (64, 64, 3)


def test_openais_adm_gives_what_its_peer_gives():
    weights, network = drawn_of(UNETS, "adm_openai"), networks.ADM(
        channels=64, mults=(1, 2), blocks=1, attention=(4,), num_classes=3, layout="openai", learned_variance=True)
    x = jnp.asarray(12 * drawn("x", (2, 192)).reshape(2, 3, 8, 8).transpose(0, 2, 3, 1))
    given = (x, 100 * jnp.array([0.7, 0.4]), {"label": jnp.array([1, 2])})
    like = jax.eval_shape(network.init, jax.random.key(0), *given)
    arrays = convert.convert(weights, guided.adm_rules(network, 8), convert.shapes(like))
    params = jax.tree.unflatten(jax.tree.structure(like), [arrays[path] for path in convert.shapes(like)])
    agrees(output(network, params, given, variance=True), UNETS["adm_openai/out"])


SCHEDULER = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000,
             "prediction_type": "v_prediction"}


def test_the_unet_of_a_diffusers_folder(tmp_path):
    home = tmp_path / "sd" / "unet"
    foreign.write(home / "diffusion_pytorch_model.safetensors", drawn_of(UNETS, "stable"))
    (home / "config.json").write_text(json.dumps(UNET))
    (tmp_path / "sd" / "scheduler").mkdir()
    (tmp_path / "sd" / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    run = tmp_path / "run"
    assert main.main(["convert", str(tmp_path / "sd"), "--layout=unet", f"--workdir={run}"]) == 0
    network, params, config, model = restored(run)
    assert config.parameterization.name == "v" and network.heads == 4 and set(model.null) == {"text", "mask"}
    channels = UNETS["stable/out"].shape[-1]
    x = jnp.asarray(12 * drawn("x", (2, channels * 64)).reshape(2, channels, 8, 8).transpose(0, 2, 3, 1))
    cond = {"text": jnp.asarray(4 * drawn("text", (2, 5, 16))),
            "mask": jnp.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], bool)}
    agrees(output(network, params, (x, 100 * jnp.array([0.7, 0.4]), cond)), UNETS["stable/out"])


@pytest.mark.parametrize("case", ["unet", "vae"])
def test_compvis_and_diffusers_name_one_network(case):
    """`tests/golden/make_compvis.py` had diffusers turn CompVis's names into its own."""
    names = json.loads((GOLDEN / "compvis.json").read_text())[case]
    if case == "unet":
        network = networks.StableUNet(channels=32, mults=(1, 2), blocks=1, transformers=(1, 0), heads=4)
        like = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 8, 8, 4)), jnp.zeros(1),
                              {"text": jnp.zeros((1, 5, 16))})
        compvis, diffusers = stable.unet_rules(2, 1, (1, 0)), stable.diffusers_unet_rules(2)
    else:
        network = networks.Autoencoder(channels=32, mults=(1, 2), blocks=1)
        like = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
        compvis, diffusers = stable.vae_rules(), stable.diffusers_vae_rules(2)
    ours = {path: drawn(path, shape) for path, shape in convert.shapes(like).items() if "latent_" not in path}
    first, second = convert.back(ours, compvis), convert.back(ours, diffusers)
    assert set(first) == set(names) and set(second) == set(names.values())
    for name, other in names.items():
        np.testing.assert_array_equal(first[name].reshape(second[other].shape), second[other])
