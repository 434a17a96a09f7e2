"""The KL autoencoder of latent diffusion on images of 256 px, with an adversary on patches (Rombach et al. 2022).

Reaches: not trained by us yet; the paper's reconstructions are in its table 8 (f = 8, four channels), those of 16
channels, `sd3`, in table 3 of Esser et al. 2024.  They have a perceptual term (LPIPS); the API takes one.
Data: a folder of images, `data/images`.
Source: Rombach et al. 2022, appendix G; base learning rate 4.5e-6 an image.
Command: jaxdiff train --config=configs/autoencoder.py:sd --workdir=runs/vae
Then: jaxdiff encode --workdir=runs/vae --data="{'name': 'folder', 'path': ..., 'size': 256}" --out=data/latents
"""

from ml_collections import ConfigDict

from configs.parents import images

SIZES = {"sd": (4, True), "sd3": (16, False)}  # channels of the latents, convolutions around them
FOLDER = {"name": "folder", "path": "data/images", "size": 256}


def get_config(arg: str = "") -> ConfigDict:
    """Returns the config of a kind; `tiny` is a small network on mock images and two steps, for tests."""
    channels, quant = SIZES[images.named(arg, SIZES, "sd")]
    config = images.pixels(FOLDER, None, batch=96, train_images=24_000_000)
    del config.guidance
    config.network = {"name": "Autoencoder", "channels": 128, "mults": (1, 2, 4, 4), "blocks": 2,
                      "latent_channels": channels, "quant": quant, "dtype": "bfloat16"}
    discriminator = {"name": "jaxdiff.networks:PatchDiscriminator", "channels": 64, "layers": 3}
    config.objective = {"name": "autoencoding", "discriminator": discriminator, "start": 50_000, "weight": 0.5,
                        "kl_weight": 1e-6}
    config.optimizer = {"name": "adam", "b1": 0.5, "b2": 0.9, "learning_rate": 96 * 4.5e-6}
    config.ema = ("decay_0.9999",)
    if arg == images.TINY:
        config.objective.update(start=1)
        config.objective.discriminator.update(channels=8, layers=1)
    return images.finished(config, arg, shape=(16, 16, 3), channels=8, mults=(1, 2), blocks=1)
