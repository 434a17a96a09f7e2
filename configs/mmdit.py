"""MMDiT on latents with text, as Stable Diffusion 3 (Esser et al. 2024).

Reaches: not trained by us yet, nor is there a figure to reach: the paper gives human preference and GenEval (0.62 at
depth 24 after pre-training) on data that are not public.
Data: `data/latents/sd3_512`, written by `jaxdiff.data.write_latents`: moments of SD3's autoencoder of 16 channels,
`text` [154, 4096] (CLIP L and G padded beside T5), `mask` [154] and `pooled` [2048].
Source: sections 3 to 5; grid of positions as in the published 2 B model.
Command: jaxdiff train --config=configs/mmdit.py:sd3_medium --workdir=runs/sd3_medium
"""

from ml_collections import ConfigDict

from configs.parents import images

SIZES = ("sd3_medium",)
TEXT = {"text": (154, 4096), "mask": (154,), "pooled": (2048,)}
LAST = (("last/.*modulation/kernel", ("fsdp",)), ("last/.*(qkv|mlp0)/kernel", ("fsdp",)),
        ("last/image/out/kernel", (None, None, "fsdp")), ("last/image/mlp1/kernel", (None, "fsdp")))


def get_config(arg: str = "") -> ConfigDict:
    """Returns the config; `tiny` is a small network on mock latents and two steps, for tests."""
    images.named(arg, SIZES, "sd3_medium")
    config = images.latents("data/latents/sd3_512", batch=1024, train_images=1024 * 500_000, scale=1.5305,
                            shift=0.0609, conditions=tuple(TEXT))
    config.accumulate = 8
    config.network = {"name": "MMDiT", "size": "M", "patch": 2, "grid": 192, "base": 64, "kernel": "xla",
                      "remat": "full", "dtype": "bfloat16"}
    config.process = {"name": "RectifiedFlow"}
    config.parameterization = images.as_published("velocity", {"name": "RectifiedFlow"}, offset=0.0)
    config.objective = {"name": "denoising", "drop": 0.1, "levels": {"name": "logit_normal"},
                        "weighting": {"name": "native"}}
    config.optimizer = {"name": "adamw", "learning_rate": images.warmed(1e-4, 1_000), "weight_decay": 1e-2}
    config.ema = ("decay_0.9999",)
    config.mesh.update(data=1, fsdp=-1, rules=images.stacked("blocks") + LAST)
    config.sampler = {"name": "euler"}
    config.times = {"name": "uniform", "steps": 28}
    return images.finished(config, arg, shape=(8, 8, 4), text={"text": (3, 8), "mask": (3,), "pooled": (8,)},
                           width=32, depth=2, heads=2)
