"""DiT on latents of ImageNet 256 (Peebles & Xie 2023), and SiT, the same networks as rectified flows (Ma et al. 2024).

Reaches: not trained by us yet.  DiT's FIDs after 400 k steps, no guidance (table 4): S, B, L, XL at patch 2 68.4,
43.5, 23.3, 19.5; at 4 100.4, 68.4, 45.6, 43.0; at 8 153.6, 122.7, 118.9, 106.4; XL/2 after 7 M steps 9.62, guided
2.27.  SiT's after 400 k (table 2): S, B, L, XL at patch 2 57.6, 33.5, 18.8, 17.2; XL/2 after 7 M 8.3, guided 2.06.
Not as there: DiT's learned variance is kept, for weights from elsewhere, and not trained.
Data: moments of Stable Diffusion's autoencoder in `data/latents/imagenet_256` (`jaxdiff encode`).
Source: tables 1 and 4 of DiT, table 2 of SiT, section 4 and appendix A of both.
Command: jaxdiff train --config=configs/dit.py:xl_2 --workdir=runs/dit_xl_2
"""

from ml_collections import ConfigDict

from configs.parents import images

SIZES = {f"{kind}{size}_{patch}": (kind, size.upper(), patch)
         for kind, patches in (("", (2, 4, 8)), ("sit_", (2,))) for size in ("s", "b", "l", "xl") for patch in patches}
TABLE, FLOW = {"name": "Discrete", "schedule": "linear"}, {"name": "RectifiedFlow"}
DIT = {
    "process": TABLE, "parameterization": images.as_published("eps", TABLE),
    "sampler": {"name": "ancestral"}, "times": {"name": "trailing", "steps": 250},
}
SIT = {
    "process": FLOW, "parameterization": images.as_published("velocity", FLOW, scale=1.0, offset=0.0),
    "sampler": {"name": "heun"}, "times": {"name": "uniform", "steps": 125},
}


def get_config(arg: str = "") -> ConfigDict:
    """Returns the config of a size; `tiny` is a small network on mock latents and two steps, for tests."""
    kind, size, patch = SIZES[images.named(arg, SIZES, "xl_2")]
    config = images.latents("data/latents/imagenet_256", batch=256, train_images=256 * 400_000)
    config.network = {"name": "DiT", "size": size, "patch": patch, "num_classes": 1000, "learned_variance": not kind,
                      "kernel": "xla", "remat": "dots", "dtype": "bfloat16"}
    config.update(SIT if kind else DIT)
    config.objective = {"name": "denoising", "drop": 0.1, "levels": {"name": "uniform"},
                        "weighting": {"name": "native"}}
    config.optimizer = {"name": "adamw", "learning_rate": 1e-4, "weight_decay": 0.0}
    config.ema = ("decay_0.9999",)
    config.mesh.update(data=1, fsdp=-1, rules=images.stacked("blocks"))
    return images.finished(config, arg, shape=(8, 8, 4), width=32, depth=2, heads=2)
