"""EDM's networks under EDM's recipe (Karras et al. 2022, table 7), with its augmentation but on ImageNet.

Reaches: not trained by us yet.  The paper's FIDs of 50,000 samples: `ddpmpp_cifar10` 1.79,
`ncsnpp_cifar10` 1.79 (35 evaluations), `ddpmpp_64` on FFHQ 2.39 (79 evaluations), `adm_64` on ImageNet 1.36 (511
evaluations, stochastic).  They took 2 days, 2 days and 4 days on 8 V100, and 13 days on 32 A100.
Not as there: a tenth of the classes is dropped, for guidance.
Data: CIFAR-10 and ImageNet by `tfds build cifar10 --file_format=array_record` (`imagenet2012`, whose archives must be
there); FFHQ as a folder of images, `data/ffhq`, of any size.
Source: table 7 and README of NVlabs/edm.
Command: jaxdiff train --config=configs/edm.py:ddpmpp_64 --workdir=runs/ddpmpp_64
"""

from ml_collections import ConfigDict

from configs.parents import images

CIFAR = ({"name": "tfds", "dataset": "cifar10", "split": "train"},
         {"name": "tfds", "dataset": "cifar10", "split": "test"})
FFHQ = ({"name": "folder", "path": "data/ffhq", "size": 64}, None)
IMAGENET = ({"name": "tfds", "dataset": "imagenet2012", "split": "train", "size": 64},
            {"name": "tfds", "dataset": "imagenet2012", "split": "validation", "size": 64})
NCSN = {"noise_embedding": "fourier", "encoder": "residual", "taps": (1, 3, 3, 1)}
SONG = {"name": "SongUNet", "channels": 128, "blocks": 4, "attention": (16,), "augment": 9, "dtype": "bfloat16"}
CIFAR_NETWORK = SONG | {"mults": (2, 2, 2), "dropout": 0.13, "num_classes": 10}
SIZES = {  # network, data, batch, images in millions, learning rate, half-life of the average in millions, steps
    "ddpmpp_cifar10": (CIFAR_NETWORK, CIFAR, 512, 200, 1e-3, 0.5, 18),
    "ncsnpp_cifar10": (CIFAR_NETWORK | NCSN, CIFAR, 512, 200, 1e-3, 0.5, 18),
    "ddpmpp_64": (SONG | {"mults": (1, 2, 2, 2), "dropout": 0.05, "num_classes": 0}, FFHQ, 256, 200, 2e-4, 0.5, 40),
    "adm_64": ({"name": "ADM", "channels": 192, "mults": (1, 2, 3, 4), "blocks": 3, "attention": (32, 16, 8),
                "dropout": 0.1, "num_classes": 1000, "dtype": "bfloat16"}, IMAGENET, 4096, 2_500, 1e-4, 50.0, 256),
}
AUGMENTED = {"ddpmpp_cifar10": 0.12, "ncsnpp_cifar10": 0.12, "ddpmpp_64": 0.15}  # how often
CUT = (("(conv0|conv1|skip)/kernel", (None, None, None, "fsdp")), ("affine/kernel", (None, "fsdp")),
       ("qkv/kernel", ("fsdp",)), ("attn/out/kernel", (None, None, "fsdp")))  # of ADM; the others fit anywhere


def get_config(arg: str = "") -> ConfigDict:
    """Returns the config of a size; `tiny` is a small network on mock images and two steps, for tests."""
    name = images.named(arg, SIZES, "ddpmpp_cifar10")
    network, (data, held_out), batch, millions, rate, half_life, steps = SIZES[name]
    config = images.pixels(data, held_out, batch=batch, train_images=millions * 1_000_000)
    config.network = network
    if name in AUGMENTED:
        config.prepare = {"name": "augmented", "probability": AUGMENTED[name]}
    config.process = {"name": "EDM"}
    config.parameterization = {"name": "edm", "sigma_data": 0.5}
    config.objective = {
        "name": "denoising", "drop": 0.1 if network["num_classes"] else 0.0,
        "levels": {"name": "lognormal", "mean": -1.2, "std": 1.2}, "weighting": {"name": "native"},
    }
    config.optimizer = {"name": "adam", "learning_rate": images.warmed(rate, 10_000_000 // batch)}
    config.ema = (f"decay_{0.5 ** (batch / (half_life * 1e6)):.7g}",)
    config.sampler = {"name": "heun"}
    config.times = {"name": "karras", "steps": steps}
    if name == "adm_64":
        config.accumulate = 16
        config.mesh.update(data=1, fsdp=-1, rules=CUT)
        config.sampler = {"name": "heun", "s_churn": 40.0, "s_min": 0.05, "s_max": 50.0, "s_noise": 1.003}
    return images.finished(config, arg, shape=(8, 8, 3), channels=8, mults=(1,), blocks=1, attention=())
