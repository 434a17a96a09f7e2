"""JiT on the pixels of ImageNet, 256 px in patches of 16 and 512 px in patches of 32 (Li & He 2025).

Reaches: not trained by us yet.  The paper's FIDs after 600 epochs, guided within an interval, 50 Heun steps: B/16
3.66, L/16 2.36, H/16 1.86; B/32 4.02, L/32 2.53, H/32 1.94 (tables 7 and 8).
Not as there: no bound on the weight 1/σ² near the data.
Data: `tfds build imagenet2012 --file_format=array_record`, once, where its archives are.
Source: arXiv:2511.13720, tables 7 to 9; noise is twice as strong at 512 px, here as levels moved by ln 2.
Command: jaxdiff train --config=configs/jit.py:b_16 --workdir=runs/jit_b_16
"""

from ml_collections import ConfigDict

from configs.parents import images

EPOCH = 1_281_167
IMAGENET = {"name": "tfds", "dataset": "imagenet2012", "split": "train"}
SIZES = {f"{size}_{patch}": (size.upper(), patch) for patch in (16, 32) for size in ("b", "l", "h")}
LEVELS = {16: 0.8, 32: 1.493}  # mean of ln(σ/α)


def get_config(arg: str = "") -> ConfigDict:
    """Returns the config of a size; `tiny` is a small network on mock images and two steps, for tests."""
    size, patch = SIZES[images.named(arg, SIZES, "b_16")]
    data = IMAGENET | {"size": 16 * patch}
    config = images.pixels(data, data | {"split": "validation"}, batch=1024, train_images=600 * EPOCH)
    config.accumulate = 4
    config.network = {"name": "JiT", "size": size, "patch": patch, "num_classes": 1000, "class_tokens": 32,
                      "dropout": 0.2 if size == "H" else 0.0,
                      "kernel": "xla", "remat": "dots", "dtype": "bfloat16"}
    config.process = {"name": "RectifiedFlow"}
    config.parameterization = images.as_published("x0", {"name": "RectifiedFlow"}, scale=-1.0, offset=1.0)
    config.objective = {
        "name": "denoising", "drop": 0.1, "levels": {"name": "logit_normal", "mean": LEVELS[patch], "std": 0.8},
        "weighting": {"name": "velocity"},
    }
    config.optimizer = {"name": "adamw", "b2": 0.95, "weight_decay": 0.0,
                        "learning_rate": images.warmed(2e-4, 5 * EPOCH // 1024)}
    config.ema = ("decay_0.9999", "decay_0.9996")
    config.mesh.update(data=1, fsdp=-1, rules=images.stacked("early", "late"))
    config.sampler = {"name": "heun"}
    config.times = {"name": "uniform", "steps": 50}
    return images.finished(config, arg, shape=(8, 8, 3), patch=4, width=32, depth=2, heads=2, bottleneck=8, start=1,
                           class_tokens=2)
