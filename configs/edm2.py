"""EDM2 on ImageNet, in latents of 512 px and in pixels of 64 (Karras et al. 2024, configuration G).

Reaches: not trained by us yet.  The paper's FIDs without guidance, 63 evaluations: latents XS 3.53, S 2.56, M 2.25,
L 2.06, XL 1.96, XXL 1.91 (table 2); 64 px S 1.58, M 1.43, L 1.33, XL 1.33 (table 3).  They saw 0.7 to 2.1 thousand
million images, on 32 A100 or more.  No class is dropped, as there: guide it by a smaller model without classes.
Data: latents as moments in `data/latents/imagenet_512` (`jaxdiff encode`), of Stable Diffusion's
autoencoder; pixels by `tfds build imagenet2012 --file_format=array_record`.
Source: tables 2, 3 and 6; presets of `train_edm2.py` and scales of `training/encoders.py` in NVlabs/edm2.
Command: jaxdiff train --config=configs/edm2.py:s --workdir=runs/edm2_s
"""

from ml_collections import ConfigDict

from configs.parents import images

MI = 2**20
IMAGENET = {"name": "tfds", "dataset": "imagenet2012", "split": "train", "size": 64}
SCALES = {"shift": (5.81, 3.25, 0.12, -2.15),  # to mean 0 and standard deviation 0.5, channel by channel
          "scale": (0.5 / 4.17, 0.5 / 4.62, 0.5 / 3.71, 0.5 / 3.28)}
BATCH = 2048
SIZES = {  # channels, learning rate, dropout, images / 2^20, micro-batches
    "xs": (128, 0.0120, 0.0, 2048, 8), "s": (192, 0.0100, 0.0, 2048, 8), "m": (256, 0.0090, 0.1, 2048, 8),
    "l": (320, 0.0080, 0.1, 1792, 16), "xl": (384, 0.0070, 0.1, 1280, 16), "xxl": (448, 0.0065, 0.1, 896, 16),
    "s_64": (192, 0.0100, 0.0, 1024, 8), "m_64": (256, 0.0090, 0.1, 2048, 8), "l_64": (320, 0.0080, 0.1, 1024, 16),
    "xl_64": (384, 0.0070, 0.1, 640, 16),
}
CUT = (("conv_(res0|res1|skip)/weight", (None, None, None, "fsdp")), ("attn_qkv/weight", ("fsdp",)),
       ("attn_proj/weight", (None, None, "fsdp")), ("emb_(linear|noise|label)/weight", (None, "fsdp")))


def get_config(arg: str = "") -> ConfigDict:
    """Returns the config of a size; `tiny` is a small network on mock latents and two steps, for tests."""
    name = images.named(arg, SIZES, "s")
    channels, rate, dropout, mebi, parts = SIZES[name]
    in_pixels = name.endswith("_64")
    if in_pixels:
        config = images.pixels(IMAGENET, IMAGENET | {"split": "validation"}, batch=BATCH, train_images=mebi * MI)
    else:
        config = images.latents("data/latents/imagenet_512", batch=BATCH, train_images=mebi * MI, **SCALES)
    config.accumulate = parts
    config.network = {"name": "EDM2", "channels": channels, "mults": (1, 2, 3, 4), "blocks": 3, "attention": (16, 8),
                      "dropout": dropout, "num_classes": 1000, "dtype": "bfloat16"}
    config.process = {"name": "EDM"}
    config.parameterization = {"name": "edm", "sigma_data": 0.5}
    levels = {"name": "lognormal", "mean": -0.8, "std": 1.6} if in_pixels else {
        "name": "lognormal", "mean": -0.4, "std": 1.0}
    config.objective = {"name": "balanced", "drop": 0.0, "levels": levels, "weighting": {"name": "edm"}}
    config.optimizer = {
        "name": "adam", "b2": 0.99,
        "learning_rate": {"name": "configs.parents.rates:inverse_root", "peak": rate, "rise": 10_000_000 // BATCH,
                          "hold": 35_000 if in_pixels else 70_000},
    }
    config.project = "weight"  # forced weight normalization, the last link of the optimizer's chain
    config.ema = ("power_0.05", "power_0.1")
    config.ema_snapshot_every_images = 32 * MI  # NVlabs/edm2: 8; each is 8 bytes a parameter
    config.mesh.update(data=1, fsdp=-1, rules=CUT)
    config.sampler = {"name": "heun"}
    config.times = {"name": "karras", "steps": 32}
    return images.finished(config, arg, shape=(8, 8, 4), channels=8, mults=(1,), blocks=1, attention=())
