"""Class-conditional diffusion on CIFAR-10: EDM's DDPM++ (Karras et al. 2022, table 7, without augmentation).

Reaches: not trained by us yet.  The paper's figure for this network, with its augmentation pipeline,
is FID 1.79 (conditional, 35 evaluations) after 200 M images, about 2 days on 8 V100.
Data: `tfds build cifar10 --file_format=array_record` once, on a machine with internet.
Command: jaxdiff train --config=configs/cifar10.py --workdir=runs/cifar10
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config(arg: str = "") -> ConfigDict:
    """Returns the config; `tiny` is a small network on mock images and two steps, for tests."""
    if arg not in ("", "tiny"):
        raise ValueError(f"configs/cifar10.py takes no argument {arg!r}; it may be 'tiny'")
    tiny = arg == "tiny"
    config = ConfigDict()
    config.seed = 0

    mock = {"name": "mock", "shape": (8, 8, 3), "classes": 10, "num": 64}
    config.data = mock if tiny else {"name": "tfds", "dataset": "cifar10", "split": "train"}
    config.held_out = mock | {"seed": 1} if tiny else {"name": "tfds", "dataset": "cifar10", "split": "test"}
    config.prepare = {"name": "images", "flip": True}

    config.network = {
        "name": "SongUNet", "channels": 8 if tiny else 128, "mults": (1,) if tiny else (2, 2, 2),
        "blocks": 1 if tiny else 4, "attention": (8,) if tiny else (16,), "dropout": 0.13, "num_classes": 10,
        "dtype": "float32" if tiny else "bfloat16",
    }
    config.process = {"name": "EDM"}
    config.parameterization = {"name": "edm", "sigma_data": 0.5}
    config.objective = {
        "name": "denoising", "drop": 0.1,
        "levels": {"name": "lognormal", "mean": -1.2, "std": 1.2}, "weighting": {"name": "native"},
    }

    config.batch = 8 if tiny else 512
    config.accumulate = 1
    config.train_images = 16 if tiny else 200_000_000
    config.optimizer = {
        "name": "adam",
        "learning_rate": {"name": "linear_schedule", "init_value": 0.0, "end_value": 1e-3,
                          "transition_steps": 19_500},  # 10 M images
    }
    config.clip_norm = placeholder(float)
    config.ema = ("decay_0.99929",)  # a half-life of 500 k images
    config.max_skipped = 20

    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1, "rules": ()}

    config.save_every_steps = 1 if tiny else 2_000
    config.keep_checkpoints = 2
    config.log_every_steps = 1 if tiny else 100
    config.picture_every_steps = 0 if tiny else 5_000
    config.tensorboard = not tiny
    config.ema_snapshot_every_images = placeholder(int)  # of power averages, to make others of them later
    config.keep_every_steps = placeholder(int)  # kept for ever, beside the newest
    config.keep_best = {"metric": placeholder(str), "mode": "min", "number": 1}
    config.limits = {"heartbeat": 30, "barrier": 300.0, "stall": 900.0, "first": 3600.0, "attempts": 5}  # seconds
    config.profile = {"start": placeholder(int), "steps": 5}
    config.peak_tflops = placeholder(float)  # of a device that jaxdiff does not know
    config.loader = {"threads": placeholder(int), "workers": 0}

    config.sampler = {"name": "heun"}
    config.times = {"name": "karras", "steps": 2 if tiny else 18}
    config.guidance = {"chain": ("classifier_free",), "classifier_free": {"scale": 1.0}}
    config.sample = {"num": 64, "batch": 8 if tiny else 256, "seed": 0, "ema": placeholder(str),
                     "precision": "default"}
    config.evaluate = {
        "num": 16 if tiny else 10_000, "seed": 1, "features": ("pixels",), "classifier": placeholder(str),
    }
    return config.lock()
