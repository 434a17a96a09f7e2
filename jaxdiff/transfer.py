"""Runs that were not trained here: weights from elsewhere become a folder that samples, and go back.

    config.json     as of a run; what the file did not say was asked for     run.json     shapes, and where from
    checkpoints/0   one average, `converted`
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from jaxdiff import checkpoint, convert, experiment, foreign, networks, overrides, train
from jaxdiff import workdir as workdirs
from jaxdiff.build import nearest
from jaxdiff.protocols import Params

__all__ = ["EMA", "bring", "export"]

EMA = train.averages.CONVERTED
KINDS = {"mults": tuple, "name": str}  # of what may be asked for; a whole number otherwise


def bring(path: Path, layout: str, workdir: Path, *, resolution: int | None = None, sha256: str | None = None,
          pairs: Sequence[tuple[str, str]] = ()) -> str:
    """Makes a run's folder of weights from elsewhere; returns what to say of it.

    Args:
      path: a weight file, or a folder of diffusers.
      layout: one of `convert.LAYOUTS`.
      workdir: the new folder.
      resolution: of the images or latents, where the file does not say.
      sha256: what the file must hash to.
      pairs: `--config.key=value`, which also answer what is asked.

    Raises:
      ValueError: a file that is refused or of another layout, something that it does not say, tensors that do not fit.
    """
    checkpoint.hush()
    workdirs.refuse_file(workdir)
    if (workdir / "config.json").exists():
        raise ValueError(f"--workdir={workdir} holds a run already; choose another")
    if layout not in convert.LAYOUTS:
        raise ValueError(f"--layout={layout}{nearest(layout, convert.LAYOUTS)}")
    source = convert.opened(path, sha256=sha256, parts=convert.PARTS.get(layout, ()))
    found = convert.adm(source, resolution) if layout == "adm" else getattr(convert, layout)(source)
    config = overrides.apply(_config(found, resolution), pairs)
    _answered(config, layout)
    model = experiment.model(config, _example(config))
    network, like = experiment.build(config.network, networks), experiment.of_network(model, model.shapes(None).params)
    arrays = convert.convert(found.weights, found.rules(network, config.data.shape[0]), convert.shapes(like))
    params = jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in convert.shapes(like)])
    origin = {"path": str(path), "layout": layout, "sha256": source.sha256}
    _write(workdir, config, params if model.process else {"generator": params}, origin)
    after = experiment.next_step(workdir, model.process is not None)
    hashes = ", ".join(f"{name} {value}" for name, value in source.sha256.items())
    return f"{len(found.weights)} tensors, {train.count(params):,} parameters in {workdir}; sha256 of {hashes}\n{after}"


def _config(found: convert.Found, resolution: int | None) -> ConfigDict:
    """Returns the config of what was found; what it does not say is a placeholder."""
    height, width, channels = found.shape
    config = ConfigDict()
    config.seed = 0
    least = 2 ** (len(found.network["mults"]) - 1) if found.process is None else 0  # an autoencoder takes any multiple
    size = (height or resolution or least, width or resolution or least, channels)
    config.data = {"name": "unseen", "shape": size}
    config.held_out = placeholder(dict)
    config.prepare = found.prepare
    config.conditions = {name: [*shape, dtype] for name, (shape, dtype) in found.conditions.items()}
    config.network = _open(found.network)
    config.objective = {"name": "autoencoding" if found.process is None else "denoising"}
    if found.process is not None:
        config.process, config.parameterization = _open(found.process), _open(found.parameterization or {})
        config.sampler, config.times = found.sampler, found.times
        config.guidance = {"chain": ("classifier_free",), "classifier_free": {"scale": 1.0}}
    config.batch, config.accumulate, config.train_images = 1, 1, 1
    config.optimizer = {"name": "adam", "learning_rate": 0.0}
    config.clip_norm = placeholder(float)
    config.ema = (EMA,)
    config.max_skipped = config.keep_checkpoints = config.save_every_steps = config.log_every_steps = 1
    config.picture_every_steps, config.tensorboard = 0, False
    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1, "rules": ()}
    config.sample = {"num": 16, "batch": 16, "seed": 0, "ema": placeholder(str), "precision": "default",
                     "autoencoder": placeholder(str), "tile": placeholder(int)}
    config.evaluate = {"num": 50_000, "seed": 1, "features": ("pixels",), "classifier": placeholder(str)}
    return config


def _open(part: Mapping[str, Any]) -> dict[str, Any]:
    return {name: placeholder(KINDS.get(name, int)) if value is None else value for name, value in part.items()}


def _answered(config: ConfigDict, layout: str) -> None:
    """Raises ValueError where something is neither in the file nor in the command."""
    asked = [f"--config.{part}.{name}=..." for part in ("network", "process", "parameterization") if part in config
             for name, value in config[part].items() if value is None]
    asked += [] if all(config.data.shape) else ["--resolution=..."]
    if asked:
        raise ValueError(f"the file does not say all that {layout!r} needs; add {' '.join(asked)}")


def _example(config: ConfigDict) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns a batch of one, as its `prepare` wants it."""
    h, w, c = config.data.shape
    latent = config.prepare.name == "latents"
    example = {"moments" if latent else "image": ((h, w, 2 * c), "float16") if latent else ((h, w, c), "uint8")}
    example |= {name: (tuple(shape), dtype) for name, (*shape, dtype) in config.conditions.items()}
    return {name: jax.ShapeDtypeStruct((1, *shape), np.dtype(dtype)) for name, (shape, dtype) in example.items()}


def _write(workdir: Path, config: ConfigDict, params: Params, origin: dict) -> None:
    store = checkpoint.opened(str(workdir), origin, keep=1)
    checkpoint.save(store, train.State(jnp.zeros((), jnp.int32), {}, {EMA: params}, ()), 0)
    checkpoint.finish(store)
    workdirs.write(workdir, "run.json", {
        **workdirs.environment(jax.devices()[0], jax.device_count()), "origin": origin,
        "parameters": train.count(params), "example": experiment.described(_example(config))})
    workdirs.write(workdir, "config.json", experiment.as_json(config))


def export(workdir: Path, layout: str, out: Path, *, ema: str | None = None) -> str:
    """Writes an average of a run as safetensors in a foreign layout; returns what to say of it.

    Args:
      workdir: a run's folder, with a `DiT` or an `Autoencoder`.
      layout: one of `convert.BACK`.
      out: the new file.
      ema: which average; the first by default.

    Raises:
      ValueError: a network of another layout, or an average that is not there.
    """
    checkpoint.hush()
    if layout not in convert.BACK:
        raise ValueError(f"--layout={layout}: there is a way back to {', '.join(convert.BACK)}")
    config = experiment.from_json(workdirs.read(workdir, "config.json"))
    wanted, turned = convert.BACK[layout]
    if config.network.name != wanted:
        raise ValueError(f"--layout={layout} is of a {wanted}, and {workdir} holds a {config.network.name}")
    model = experiment.model(config, experiment.examples(workdir, config))
    step, name, params = experiment.restored(workdir, model, ema)
    params = experiment.of_network(model, params)
    arrays = dict(zip(convert.shapes(params), map(np.asarray, jax.tree.leaves(params)), strict=True))
    made = turned(experiment.build(config.network, networks), arrays, model.shape[0])
    foreign.write(out, made, {"format": "pt", "step": str(step), "ema": name})
    return f"{len(made)} tensors of step {step} ({name}) in {out}; sha256 {foreign.sha256(out)}"
