"""Between images and the latents that a diffusion is trained on, by the autoencoder of another run."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from jaxdiff import checkpoint, data, experiment, networks
from jaxdiff import workdir as workdirs
from jaxdiff.data import pixels
from jaxdiff.networks import tiling
from jaxdiff.protocols import Array, Params

__all__ = ["Decoding", "autoencoder", "encode"]


@dataclasses.dataclass(frozen=True)
class Decoding:
    """Latents as a diffusion has them to images: `(x [b, h, w, c], params) -> uint8 [b, f h, f w, 3]`."""

    network: Any
    scale: float | tuple[float, ...]
    shift: float | tuple[float, ...]
    tile: int | None = None

    def __call__(self, x: Array, params: Params) -> Array:
        z = x / jnp.asarray(self.scale) + jnp.asarray(self.shift)
        decode = lambda z: self.network.apply(params, z, method="decode")
        image = decode(z) if self.tile is None else tiling.tiled(decode, z, tile=self.tile, overlap=self.tile // 4)
        return pixels.to_uint8(image)


def autoencoder(workdir: Path, prepare: Any, channels: int, tile: int | None = None) -> tuple[Decoding, Params]:
    """Returns what decodes the latents of a `prepare`, and its parameters.

    Args:
      workdir: a run's folder with an autoencoder.
      prepare: `pixels.latents`, whose scale and shift are undone.
      channels: of the latents.
      tile: decode in tiles of so many pixels of the latents, which needs less memory; None for the whole.

    Raises:
      ValueError: no autoencoder there, or one of other latents.
    """
    network, params = _read(workdir)
    if network.latent_channels != channels:
        raise ValueError(f"the autoencoder in {workdir} has latents of {network.latent_channels} channels, "
                         f"this model of {channels}")
    return Decoding(network, prepare.scale, prepare.shift, tile), params


def _read(workdir: Path) -> tuple[Any, Params]:
    """Returns the network of an autoencoder's folder, and the first of its averages."""
    checkpoint.hush()
    config = experiment.from_json(workdirs.read(workdir, "config.json"))
    if "process" in config:
        raise ValueError(f"{workdir} holds a {config.network.name}, which is no autoencoder")
    model = experiment.model(config, experiment.examples(workdir, config))
    _, _, params = experiment.restored(workdir, model)
    return experiment.build(config.network, networks), experiment.of_network(model, params)


def encode(workdir: Path, spec: Mapping[str, Any], out: Path, *, batch: int = 32) -> str:
    """Writes the moments of a source's images, and all else that it has, to a folder for `data.latents`.

    Args:
      workdir: a run's folder with an autoencoder.
      spec: the source, `{"name": ..., ...}`.
      out: the folder; an interrupted command goes on there.
      batch: images a call.

    Returns:
      What to say of it, with the `prepare` that gives these latents variance 1.

    Raises:
      ValueError: no autoencoder there, no such data, images that do not fit.
    """
    source = experiment.build(spec, data)
    network, params = _read(workdir)
    total = len(source["image"]) if isinstance(source, Mapping) else len(source)
    run = jax.jit(lambda params, image: network.apply(params, pixels.to_float(image), method="encode"))

    def chunks(start: int) -> Iterator[dict[str, np.ndarray]]:
        with tqdm(total=total, initial=start, unit=" images", disable=None) as bar:
            for rows in data.batches(source, batch=batch, shuffle=False)(start // batch):
                mean, logvar = run(params, rows["image"])
                made = {name: value for name, value in rows.items() if name != "image"}
                made["moments"] = np.concatenate([mean, np.exp(0.5 * np.asarray(logvar))], -1)
                skip = start % batch  # of a batch that another size had begun
                yield {name: value[skip:] for name, value in made.items()}
                start += batch - skip
                bar.update(batch - skip)

    data.write_latents(str(out), chunks, total=total)
    return f"{total:,} moments in {out}; {_prepared(np.load(out / 'moments.npy', mmap_mode='r'), params)}"


def _prepared(moments: np.ndarray, params: Params) -> str:
    """Returns the line that gives latents their scale: the autoencoder's own, or measured where it has none."""
    scale, shift = (np.asarray(params["params"][name]) for name in networks.autoencoder.CONSTANTS)
    if (scale == 1).all() and (shift == 0).all():
        mean, std = np.split(moments[:10_000].astype(np.float64), 2, -1)
        scale, shift, whose = (mean.var() + (std**2).mean()) ** -0.5, mean.mean(), "measured"
    else:
        whose = "the autoencoder's own"
    number = lambda values: round(float(np.mean(values)), 5) if np.ptp(values) == 0 else tuple(values.tolist())
    prepare = {"name": "latents", "scale": number(scale), "shift": number(shift)}
    return f'train on it with config.data = {{"name": "latents", "path": ...}} and config.prepare = {prepare} ({whose})'
