"""From a file to pictures, and what is said of a file that does not fit."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convert.bringing import TRANSFORMERS, UNET, UNETS, brought, drawn_of, of_dit
from networks.shown import drawn

from jaxdiff import convert, foreign, main, networks
from jaxdiff import workdir as workdirs
from jaxdiff.convert import stable


def said(capsys, *argv):
    assert main.main(["convert", *map(str, argv)]) == 2
    return capsys.readouterr().err


def test_what_is_missing_extra_or_misshapen_is_said_in_one_error(tmp_path, capsys):
    weights = of_dit(drawn_of(TRANSFORMERS, "dit"))
    del weights["blocks.1.mlp.fc1.weight"], weights["t_embedder.mlp.0.bias"]
    weights["blocks.2.mlp.fc2.bias"] = np.zeros(31, np.float32)
    weights["head.weight"] = np.zeros((2, 2), np.float32)
    foreign.write(tmp_path / "dit.safetensors", weights)
    error = said(capsys, tmp_path / "dit.safetensors", "--layout=dit", f"--workdir={tmp_path / 'run'}",
                 "--config.network.heads=2")
    for line in ("unknown: head.weight of shape (2, 2)", "misshapen: blocks.2.mlp.fc2.bias of shape (31,)",
                 "missing: t_embedder.mlp.0.bias for noise0/bias", "missing: blocks.{layer}.mlp.fc1.weight for",
                 "of shape (3, 32, 128) (layer 1)"):
        assert line in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("flags", "words"), [
    (["--layout=dit"], "--config.network.heads=..."), (["--layout=dti"], "did you mean 'dit'?"),
    (["--layout=edm"], "holds a state dict"), (["--layout=vae"], "not an autoencoder"),
    (["--layout=unet"], "not the UNet"), (["--layout=adm"], "not a UNet of guided-diffusion"),
    (["--layout=dit", "--sha256=00"], "damaged, or another file"),
])
def test_every_error_says_what_to_do(flags, words, tmp_path, capsys):
    foreign.write(tmp_path / "dit.safetensors", of_dit(drawn_of(TRANSFORMERS, "dit")))
    assert words in said(capsys, tmp_path / "dit.safetensors", *flags, f"--workdir={tmp_path / 'run'}")


@pytest.mark.parametrize(("case", "layout", "name"), [
    ("dit", "dit", "x_embedder.proj.weight"), ("uvit", "uvit", "patch_embed.proj.weight"),
    ("mmdit", "mmdit", "time_text_embed.text_embedder.linear_1.weight"), ("adm_openai", "adm", "out.2.weight"),
])
def test_what_a_layout_looks_at_first_may_be_missing(case, layout, name, tmp_path, capsys):
    """One line, not a traceback: half a download of shards looks like this."""
    weights = drawn_of(UNETS if case == "adm_openai" else TRANSFORMERS, case)
    weights = of_dit(weights) if case == "dit" else weights
    del weights[name]
    foreign.write(tmp_path / "file.safetensors", weights)
    error = said(capsys, tmp_path / "file.safetensors", f"--layout={layout}", f"--workdir={tmp_path / 'run'}")
    assert f"no {name}: not a network of this layout, or not all of one" in error and error.count("\n") == 1


def test_a_file_that_is_not_there_says_to_fetch_it(tmp_path, capsys):
    assert "download it" in said(capsys, tmp_path / "no.pt", "--layout=dit", f"--workdir={tmp_path / 'run'}")


def test_a_hash_is_checked_and_kept(tmp_path, capsys):
    weights = of_dit(drawn_of(TRANSFORMERS, "dit"))
    foreign.write(tmp_path / "file.safetensors", weights)
    hashed = foreign.sha256(tmp_path / "file.safetensors")
    folder = brought(tmp_path, weights, "dit", "--config.network.heads=2", f"--sha256={hashed.upper()}")
    assert workdirs.read(folder, "run.json")["origin"]["sha256"] == {"file.safetensors": hashed}
    assert hashed in capsys.readouterr().out


# From a file to pictures.


def test_a_converted_dit_samples_and_a_converted_autoencoder_decodes(tmp_path, capsys):
    """The whole way: two files in published layouts, two conversions, and images of 16 pixels from latents of 8."""
    dit = brought(tmp_path, of_dit(drawn_of(TRANSFORMERS, "dit")), "dit", "--config.network.heads=2")
    network = networks.Autoencoder(channels=32, mults=(1, 1), blocks=1)
    like = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    ours = {path: drawn(path, shape) for path, shape in convert.shapes(like).items()}
    foreign.write(tmp_path / "vae.safetensors", stable.to_vae(network, ours))
    vae = tmp_path / "vae"
    assert main.main(["convert", str(tmp_path / "vae.safetensors"), "--layout=vae", f"--workdir={vae}"]) == 0
    steps = ["--num=4", "--steps=2", "--config.sample.batch=4"]
    assert main.main(["sample", f"--workdir={dit}", *steps]) == 0
    latents = np.load(dit / "samples.npz")["samples"]
    assert latents.shape == (4, 8, 8, 4) and np.isfinite(latents).all() and (dit / "samples.png").exists()
    assert "these are latents" in capsys.readouterr().out
    assert main.main(["sample", f"--workdir={dit}", *steps, f"--config.sample.autoencoder={vae}"]) == 0
    images = np.load(dit / "samples.npz")["samples"]
    assert images.shape == (4, 16, 16, 3) and images.dtype == np.uint8
    params = {"params": {}}
    for path, value in ours.items():
        *folders, leaf = path.split("/")
        place = params["params"]
        for folder in folders:
            place = place.setdefault(folder, {})
        place[leaf] = value
    want = network.apply(params, latents / 0.18215, method="decode")
    np.testing.assert_allclose(images, np.clip((np.asarray(want) + 1) * 127.5, 0, 255), atol=1)
    assert main.main(["evaluate", f"--workdir={dit}", "--num=4"]) == 2
    assert "latents are judged as images" in capsys.readouterr().err
    assert main.main(["sample", f"--workdir={vae}"]) == 2
    assert "holds an autoencoder" in capsys.readouterr().err


def test_a_converted_network_has_no_data_until_some_are_named(tmp_path, capsys):
    folder = brought(tmp_path, drawn_of(TRANSFORMERS, "jit") | {"pos_embed": np.zeros((1, 16, 32), np.float32)}, "jit",
                     "--config.network.heads=2", "--config.network.start=1")
    few = ["--num=4", "--steps=2", "--config.sample.batch=4"]
    assert main.main(["evaluate", f"--workdir={folder}", *few]) == 2
    assert "with them no data of shape [16, 16, 3]; to evaluate, name some: --config.data=" in capsys.readouterr().err
    part = {"name": "mock", "shape": (16, 16, 3), "classes": 5, "num": 8}
    assert main.main(["evaluate", f"--workdir={folder}", *few, f"--config.data={part}"]) == 0
    row = json.loads((folder / "eval" / "results.jsonl").read_text())
    assert row["ema"] == "converted" and row["n"] == {"made": 4, "real": 8}


def test_texts_are_given_in_a_file(tmp_path, capsys):
    home = tmp_path / "sd"
    foreign.write(home / "model.safetensors", drawn_of(UNETS, "stable"))
    (home / "config.json").write_text(json.dumps(UNET))
    run = tmp_path / "run"
    assert main.main(["convert", str(home), "--layout=unet", f"--workdir={run}"]) == 0
    steps = ["--num=2", "--steps=2", "--config.sample.batch=2"]
    made = []
    for text in (None, 0.0, 1.0):
        flags = [] if text is None else [f"--conditions={tmp_path / 'texts.npz'}"]
        given = np.full((2, 77, 16), text or 0, np.float32)
        np.savez(tmp_path / "texts.npz", text=given, mask=np.full((2, 77), bool(text)))
        assert main.main(["sample", f"--workdir={run}", *steps, *flags]) == 0
        made.append(np.load(run / "samples.npz")["samples"])
    np.testing.assert_array_equal(made[0], made[1])  # no text is zeros under a false mask
    assert not np.allclose(made[0], made[2])
    np.savez(tmp_path / "texts.npz", text=np.zeros((2, 5, 16)))
    assert main.main(["sample", f"--workdir={run}", *steps, f"--conditions={tmp_path / 'texts.npz'}"]) == 2
    assert "condition 'text' of shape [5, 16]: this model reads" in capsys.readouterr().err
