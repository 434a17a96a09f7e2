"""A latent diffusion model from its parts: an autoencoder is trained, writes latents, and decodes what is drawn."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import data, latents, main, networks
from jaxdiff.data import pixels

ROOT = Path(__file__).parent.parent
IMAGES = "{'name': 'mock', 'shape': (16, 16, 3), 'classes': 5, 'num': 20}"


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    """The folder of an autoencoder that has taken its two steps, the second with its adversary."""
    folder = tmp_path_factory.mktemp("autoencoder")
    argv = ["train", f"--config={ROOT / 'configs/autoencoder.py'}:tiny", f"--workdir={folder}",
            "--config.picture_every_steps=2"]
    assert main.main(argv) == 0
    return folder


@pytest.fixture(scope="module")
def encoded(autoencoder, tmp_path_factory):
    """The latents of 20 images."""
    out = tmp_path_factory.mktemp("latents") / "made"
    assert main.main(["encode", f"--workdir={autoencoder}", f"--data={IMAGES}", f"--out={out}", "--batch=8"]) == 0
    return out


def test_an_autoencoder_shows_images_beside_what_it_makes_of_them(autoencoder):
    assert [path.name for path in (autoencoder / "pictures").iterdir()] == ["00000002.png"]
    lines = [json.loads(line) for line in (autoencoder / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "event" not in line]
    assert lines[0]["adversarial"] == 0 and lines[-1]["adversarial"] != 0  # it starts at step 1
    assert "reconstruction" in lines[-1]


def test_latents_keep_the_order_and_the_classes_of_the_images(autoencoder, encoded):
    made = data.latents(str(encoded))
    images = data.mock(shape=(16, 16, 3), classes=5, num=20)
    assert made["moments"].shape == (20, 8, 8, 8)
    np.testing.assert_array_equal(made["label"], images["label"])
    network, params = latents._read(autoencoder)
    mean, logvar = network.apply(params, pixels.to_float(jnp.asarray(images["image"])), method="encode")
    want = np.concatenate([mean, np.exp(0.5 * logvar)], -1)
    np.testing.assert_allclose(made["moments"], want, rtol=2e-3, atol=2e-3)


def test_encoding_goes_on_where_it_was_interrupted(autoencoder, encoded, tmp_path, monkeypatch, capsys):
    """Of 20 images 8 are there; the rest is written in batches of another size."""
    whole, calls = data.write_latents, []

    def interrupted(path, encode, *, total):
        def some(start):
            for chunk in encode(start):
                yield chunk
                calls.append(start)
                raise KeyboardInterrupt
        return whole(path, some, total=total)

    argv = ["encode", f"--workdir={autoencoder}", f"--data={IMAGES}", f"--out={tmp_path / 'made'}"]
    with monkeypatch.context() as patch:
        patch.setattr(data, "write_latents", interrupted)
        assert main.main([*argv, "--batch=8"]) == 130
    assert main.main([*argv, "--batch=6"]) == 0
    for name in ("moments", "label"):
        one, other = (np.load(folder / f"{name}.npy") for folder in (encoded, tmp_path / "made"))
        np.testing.assert_allclose(one, other, atol=2e-3)
    assert "config.prepare = {'name': 'latents', 'scale':" in capsys.readouterr().out


def test_a_model_of_latents_trains_on_them_and_is_decoded(autoencoder, encoded, tmp_path, capsys):
    argv = ["train", f"--config={ROOT / 'configs/dit.py'}:tiny", f"--workdir={tmp_path}",
            "--config.network.num_classes=5", f"--config.data={{'name': 'latents', 'path': '{encoded}'}}",
            f"--config.sample.autoencoder={autoencoder}", "--config.picture_every_steps=2"]
    assert main.main(argv) == 0
    assert (tmp_path / "pictures" / "00000002.png").exists()
    assert main.main(["sample", f"--workdir={tmp_path}", "--num=3"]) == 0
    images = np.load(tmp_path / "samples.npz")["samples"]
    assert images.shape == (3, 16, 16, 3) and images.dtype == np.uint8
    assert main.main(["sample", f"--workdir={tmp_path}", "--num=3", "--config.sample.tile=8"]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "samples.npz")["samples"], images)  # one tile is the whole


def test_decoding_undoes_scale_and_shift():
    network = networks.Autoencoder(channels=32, mults=(1, 1), blocks=1)
    z = jax.random.normal(jax.random.key(0), (2, 4, 4, 4))
    params = network.init(jax.random.key(1), jnp.zeros((1, 8, 8, 3)))
    prepare = pixels.latents(scale=(0.5, 1.0, 2.0, 4.0), shift=(1.0, 0.0, -1.0, 2.0))
    x = (z - jnp.asarray(prepare.shift)) * jnp.asarray(prepare.scale)
    made = latents.Decoding(network, prepare.scale, prepare.shift)(x, params)
    want = pixels.to_uint8(network.apply(params, z, method="decode"))
    assert abs(made.astype(int) - want.astype(int)).max() <= 1


@pytest.mark.parametrize(("argv", "words"), [
    (["encode", "--data=7"], "a part is a name, or a dict with a 'name'"),
    (["encode", "--data={'name': 'folder', 'path': 'nowhere', 'size': 8}"], "nowhere"),
])
def test_errors_of_encoding(argv, words, autoencoder, tmp_path, capsys):
    assert main.main([*argv, f"--workdir={autoencoder}", f"--out={tmp_path / 'out'}"]) == 2
    assert words in capsys.readouterr().err


def test_an_autoencoder_of_other_latents_is_refused(autoencoder):
    with pytest.raises(ValueError, match="has latents of 4 channels, this model of 16"):
        latents.autoencoder(autoencoder, pixels.latents(), 16)
