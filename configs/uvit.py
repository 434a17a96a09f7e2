"""U-ViT on latents of ImageNet 256 (Bao et al. 2023).

Reaches: not trained by us yet.  The paper's FIDs, guided: L/2 3.40 after 300 k steps, H/2 2.29 after 500 k.  S, S-deep
and M were published on other data (CIFAR-10 3.11, MS-COCO 5.48, ImageNet 64 5.85).
Data: moments of Stable Diffusion's autoencoder in `data/latents/imagenet_256` (`jaxdiff encode`).
Source: section 5 and appendix B; `configs/imagenet256_uvit_huge.py` and README of baofff/U-ViT.
Command: jaxdiff train --config=configs/uvit.py:l --workdir=runs/uvit_l
"""

from ml_collections import ConfigDict

from configs.parents import images

SIZES = {"s": ("S", 300), "s_deep": ("S-deep", 300), "m": ("M", 300), "l": ("L", 300), "h": ("H", 500)}
MIDDLE = (("middle/.*(qkv|mlp0)/kernel", ("fsdp",)), ("middle/.*out/kernel", (None, None, "fsdp")),
          ("middle/.*mlp1/kernel", (None, "fsdp")))


def get_config(arg: str = "") -> ConfigDict:
    """Returns the config of a size; `tiny` is a small network on mock latents and two steps, for tests."""
    size, thousands = SIZES[images.named(arg, SIZES, "l")]
    config = images.latents("data/latents/imagenet_256", batch=1024, train_images=1024 * thousands * 1_000)
    config.accumulate = 4
    config.network = {"name": "UViT", "size": size, "patch": 2, "num_classes": 1000, "kernel": "xla", "remat": "dots",
                      "dtype": "bfloat16"}
    config.process = {"name": "Discrete", "schedule": "scaled_linear"}
    config.parameterization = images.as_published("eps", config.process.to_dict(), offset=0.0)
    config.objective = {"name": "denoising", "drop": 0.1, "levels": {"name": "uniform"},
                        "weighting": {"name": "native"}}
    config.optimizer = {"name": "adamw", "b1": 0.99, "b2": 0.99, "weight_decay": 0.03,
                        "learning_rate": images.warmed(2e-4, 5_000)}
    config.ema = ("decay_0.9999",)
    config.mesh.update(data=1, fsdp=-1, rules=images.stacked("first", "second") + MIDDLE)
    config.sampler = {"name": "dpm_solver"}
    config.times = {"name": "logsnr", "steps": 17}
    return images.finished(config, arg, shape=(8, 8, 4), width=32, depth=3, heads=2)
