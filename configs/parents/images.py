"""What configs of image models share: data, cadence, evaluation, shardings.  A child adds its network and recipe.

A child calls `pixels` or `latents`, fills in `network`, `process`, `parameterization`, `objective`, `optimizer`,
`ema`, `sampler` and `times`, and returns `finished`, which makes `:tiny` of it where that is asked for.
"""

from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from jaxdiff.build import nearest

__all__ = ["as_published", "finished", "latents", "named", "pixels", "stacked", "warmed"]

TINY = "tiny"
VAE_SCALE = 0.18215  # of Stable Diffusion's autoencoder: the latents' standard deviation becomes 1


def named(arg: str, sizes: Any, default: str) -> str:
    """Returns the size that a config's argument names.

    Raises:
      ValueError: none of `sizes`.
    """
    name = default if arg in ("", TINY) else arg
    if name not in sizes:
        raise ValueError(f"there is no {arg!r} here{nearest(arg, (*sizes, TINY))}")
    return name


def pixels(data: dict, held_out: dict | None, *, batch: int, train_images: int) -> ConfigDict:
    """Returns an unlocked config of images.

    Args:
      data: the source.
      held_out: what it is compared with.
      batch: of training.
      train_images: how long.
    """
    config = _started(batch, train_images)
    config.data, config.held_out = data, held_out
    config.prepare = {"name": "images", "flip": True}
    return config


def latents(path: str, *, batch: int, train_images: int, scale: float | tuple = VAE_SCALE,
            shift: float | tuple = 0.0, conditions: tuple[str, ...] = ("label",)) -> ConfigDict:
    """Returns an unlocked config of latents, whose moments `jaxdiff encode` has written to `path`."""
    config = _started(batch, train_images)
    config.data, config.held_out = {"name": "latents", "path": path}, None
    config.prepare = {"name": "latents", "scale": scale, "shift": shift, "conditions": conditions}
    config.sample.update(autoencoder=placeholder(str), tile=placeholder(int))  # the folder that decodes them
    return config


def _started(batch: int, train_images: int) -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.batch, config.train_images = batch, train_images
    config.accumulate = 1
    config.clip_norm = placeholder(float)
    config.max_skipped = 20
    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1, "rules": ()}
    config.save_every_steps = 5_000
    config.keep_checkpoints = 2
    config.log_every_steps = 100
    config.picture_every_steps = 10_000
    config.tensorboard = True
    config.ema_snapshot_every_images = placeholder(int)  # of power averages, to make others of them later
    config.keep_every_steps = placeholder(int)  # kept for ever, beside the newest
    config.keep_best = {"metric": placeholder(str), "mode": "min", "number": 1}
    config.limits = {"heartbeat": 30, "barrier": 300.0, "stall": 900.0, "first": 3600.0, "attempts": 5}  # seconds
    config.profile = {"start": placeholder(int), "steps": 5}
    config.peak_tflops = placeholder(float)  # of a device that jaxdiff does not know
    config.loader = {"threads": placeholder(int), "workers": 0}  # of what decodes images: their own choice, and none
    config.guidance = {"chain": ("classifier_free",), "classifier_free": {"scale": 1.0}}
    config.sample = {"num": 64, "batch": 256, "seed": 0, "ema": placeholder(str), "precision": "default"}
    config.evaluate = {"num": 50_000, "seed": 1, "features": ("pixels",), "classifier": placeholder(str)}
    return config


def warmed(peak: float, steps: int) -> dict:
    """Returns a learning rate that rises from 0 for `steps` and then stays."""
    return {"name": "linear_schedule", "init_value": 0.0, "end_value": peak, "transition_steps": steps}


def as_published(kind: str, process: dict, *, scale: float = 1000.0, offset: float = -1.0) -> dict:
    """Returns a parameterization whose network is shown x itself and the process's own timestep."""
    of = process | {"name": f"jaxdiff.process:{process['name']}"}
    return {"name": kind, "raw": True, "noise": {"name": "timestep", "process": of, "scale": scale, "offset": offset}}


def stacked(*names: str) -> tuple:
    """Returns rules that cut scanned transformer blocks over fsdp; the axis of the blocks stays whole."""
    kinds = (("(modulation|qkv|mlp0|skip)", (None, "fsdp")), ("out", (None, None, None, "fsdp")),
             ("mlp1", (None, None, "fsdp")))
    return tuple((f"{name}/.*{kind}/kernel", cut) for name in names for kind, cut in kinds)


def finished(config: ConfigDict, arg: str, *, shape: tuple[int, int, int], text: dict | None = None,
             **network: Any) -> ConfigDict:
    """Returns the config locked; for `tiny` first made small, with mock data and two steps.

    Args:
      config: the whole one.
      arg: of `get_config`.
      shape: of the mock images or latents.
      text: shapes of the mock conditions by name.
      **network: what makes the network small.
    """
    if arg == TINY:
        classes = config.network.num_classes if "num_classes" in config.network else 0
        mock = {"name": "mock", "shape": shape, "classes": classes, "moments": config.prepare.name == "latents",
                "conditions": text or {}}
        config.data, config.held_out = mock, mock | {"seed": 1}
        config.network.update(network, dtype="float32")
        config.batch, config.train_images, config.accumulate = 8, 16, 1
        config.save_every_steps = config.log_every_steps = 1
        config.picture_every_steps, config.tensorboard = 0, False
        if "times" in config:
            config.times.steps = 2
        config.sample.batch, config.evaluate.num = 8, 16
    return config.lock()
