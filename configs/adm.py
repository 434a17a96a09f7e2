"""ADM in OpenAI's layout on ImageNet (Dhariwal & Nichol 2021, table 11).

Reaches: not trained by us yet.  The paper's FIDs, 250 ancestral steps: 64 px 2.07; with a classifier's guidance
128 px 2.97, 256 px 4.59, 512 px 7.72.  They took 540 k, 4,360 k, 1,980 k and 1,940 k steps.
Not as there: the rows of a learned variance are kept, for weights from elsewhere, and not trained.
Data: `tfds build imagenet2012 --file_format=array_record`, once, where its archives are.
Source: table 11 and README of openai/guided-diffusion.
Command: jaxdiff train --config=configs/adm.py:openai_64 --workdir=runs/openai_64
"""

from ml_collections import ConfigDict

from configs.parents import images

IMAGENET = {"name": "tfds", "dataset": "imagenet2012", "split": "train"}
SIZES = {  # pixels, network, schedule, batch, micro-batches, steps in thousands, learning rate
    "openai_64": (64, {"channels": 192, "mults": (1, 2, 3, 4), "blocks": 3, "dropout": 0.1}, "cosine",
                  2048, 8, 540, 3e-4),
    "openai_128": (128, {"channels": 256, "mults": (1, 1, 2, 3, 4), "blocks": 2, "heads": 4, "dropout": 0.0}, "linear",
                   256, 4, 4_360, 1e-4),
    "openai_256": (256, {"channels": 256, "mults": (1, 1, 2, 2, 4, 4), "blocks": 2, "dropout": 0.0}, "linear",
                   256, 16, 1_980, 1e-4),
    "openai_512": (512, {"channels": 256, "mults": (0.5, 1, 1, 2, 2, 4, 4), "blocks": 2, "dropout": 0.0}, "linear",
                   256, 16, 1_940, 1e-4),
}
CUT = (("(conv0|conv1|skip)/kernel", (None, None, None, "fsdp")), ("affine/kernel", (None, "fsdp")),
       ("qkv/kernel", ("fsdp",)), ("attn/out/kernel", (None, None, "fsdp")))


def get_config(arg: str = "") -> ConfigDict:
    """Returns the config of a size; `tiny` is a small network on mock images and two steps, for tests."""
    side, network, schedule, batch, parts, thousands, rate = SIZES[images.named(arg, SIZES, "openai_64")]
    data = IMAGENET | {"size": side}
    config = images.pixels(data, data | {"split": "validation"}, batch=batch, train_images=batch * thousands * 1_000)
    config.accumulate = parts
    config.network = {"name": "ADM", "layout": "openai", "learned_variance": True, "attention": (32, 16, 8),
                      "num_classes": 1000, "dtype": "bfloat16", **network}
    config.process = {"name": "Discrete", "schedule": schedule}
    config.parameterization = images.as_published("eps", config.process.to_dict())
    config.objective = {"name": "denoising", "drop": 0.0, "levels": {"name": "uniform"},
                        "weighting": {"name": "native"}}
    config.optimizer = {"name": "adamw", "learning_rate": rate, "weight_decay": 0.0}
    config.ema = ("decay_0.9999",)
    config.mesh.update(data=1, fsdp=-1, rules=CUT)
    config.sampler = {"name": "ancestral"}
    config.times = {"name": "trailing", "steps": 250}
    config.sample.batch = 64 if side == 512 else 256  # what 16 chips of 16 GiB hold
    return images.finished(config, arg, shape=(8, 8, 3), channels=32, mults=(1,), blocks=1, attention=(8,))
