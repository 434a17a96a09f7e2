"""Samples of a run: what they are drawn with, and drawing them."""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxdiff import checkpoint, experiment, hooks, latents, overrides, processes
from jaxdiff import mesh as meshes
from jaxdiff import sample as sampling
from jaxdiff import workdir as workdirs
from jaxdiff.data import pixels

__all__ = ["Drawing", "Keys", "Preempted", "changed", "decoder", "drawn", "image_shape", "preview", "ready", "sample"]


class Keys(NamedTuple):
    """One seed's keys, a use each."""

    parameters: jax.Array
    training: jax.Array
    pictures: jax.Array
    samples: jax.Array

    @classmethod
    def of(cls, seed: int) -> "Keys":
        """Splits them.  A bare `key(seed)` folded with i would be the i-th of these."""
        return cls(*jax.random.split(jax.random.key(seed), 4))


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A checkpoint ready to be sampled."""

    config: ConfigDict
    mesh: Any
    model: experiment.Model
    generation: experiment.Generation
    denoiser: Any
    checkpoint: int
    ema: str
    cond_of: Callable | None
    then: Callable | None  # latents to images, or images to bytes
    given: tuple  # parameters of the decoder


def changed(workdir: Any, flags: Sequence[tuple[str, Any]], pairs: Sequence[tuple[str, str]]) -> ConfigDict:
    """Returns a run's config with the flags and overrides of a command that samples.

    Raises:
      ValueError: no run there, an unknown key, or one that is the run's own.
    """
    config = experiment.from_json(workdirs.read(workdir, "config.json"))
    free = (*experiment.FREE, "data") if config.data.name == "unseen" else experiment.FREE
    for key, _ in pairs:
        if key.partition(".")[0] not in free:
            raise ValueError(f"--config.{key}: that is what was trained, and sampling cannot change it")
    given = [(key, repr(value)) for key, value in flags if value is not None]
    return overrides.apply(config, [*given, *pairs])


def ready(workdir: Any, config: ConfigDict, *, step: int | None = None, labels: tuple[int, ...] = (),
          conditions: Path | None = None) -> Drawing:
    """Restores one average of a checkpoint, alone, and the autoencoder that decodes its latents.

    Raises:
      ValueError: no such checkpoint, average, label or condition, or a damaged checkpoint.
    """
    checkpoint.hush()
    if "process" not in config:
        raise ValueError(f"{workdir} holds an autoencoder, which draws nothing; "
                         f"{experiment.next_step(workdir, draws=False)}")
    model = experiment.model(config, experiment.examples(workdir, config))
    generation = experiment.generation(config, model)
    cond_of = experiment.conditions_of(labels, model, None if conditions is None else _arrays(conditions))
    then, given = decoder(config, model)
    mesh = meshes.make_mesh()
    number, name, params = experiment.restored(workdir, model, config.sample.ema, step=step, on=mesh)
    plain = model.objective.denoiser(params)
    if jax.tree.leaves(plain.process):
        generation = experiment.generation(config, model, plain.process)
    denoiser = generation.guided(plain)
    return Drawing(config, mesh, model, generation, denoiser, number, name, cond_of, then, given)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError) as error:
        raise ValueError(f"--conditions={path}: an .npz of arrays, such as text [n, m, d], should be there ({error})"
                         ) from error


def decoder(config: ConfigDict, model: experiment.Model) -> tuple[Callable | None, tuple]:
    """Returns what makes bytes of samples, and its arrays; None of vectors, and of latents without an autoencoder."""
    if isinstance(model.prepare, pixels.Latents):
        path = config.sample.autoencoder if "autoencoder" in config.sample else None
        if path is None:
            return None, ()
        tile = config.sample.tile if "tile" in config.sample else None
        then, params = latents.autoencoder(Path(path), model.prepare, model.shape[-1], tile)
        return then, (params,)
    return (pixels.to_uint8 if len(model.shape) == 3 else None), ()


def image_shape(config: ConfigDict, model: experiment.Model) -> tuple[int, ...]:
    """Returns the shape [h, w, c] of the images that samples become.

    Raises:
      ValueError: latents that nothing decodes, or vectors.
    """
    then, given = decoder(config, model)
    if then is None:
        raise ValueError("latents are judged as images: name an autoencoder, --config.sample.autoencoder=FOLDER"
                         if len(model.shape) == 3 else f"samples of shape {list(model.shape)} are no images to judge")
    x = jax.ShapeDtypeStruct((1, *model.shape), np.float32)
    return tuple(jax.eval_shape(then, x, *given).shape[1:])


class Preempted(Exception):
    """Sampling was told to end; it begins anew when it is started again."""


def drawn(drawing: Drawing, num: int, seed: int, beat: Callable = lambda step: None) -> tuple[np.ndarray, float]:
    """Returns images [num, h, w, c] uint8 (vectors and latents as float32) and the NFE, with a bar on a terminal.

    Args:
      drawing: what they are drawn with.
      num: of samples.
      seed: theirs.
      beat: is told how many batches there are.

    Raises:
      Preempted: the machine is being taken away.
    """
    parts = drawing.mesh.size
    batch = -(-min(drawing.generation.batch, num) // parts) * parts
    made: list = []
    stream = sampling.stream(drawing.denoiser, drawing.generation.sampler, drawing.generation.times,
                             Keys.of(seed).samples, shape=drawing.model.shape, indices=range(num), batch=batch,
                             cond_of=drawing.cond_of, then=drawing.then, given=drawing.given, mesh=drawing.mesh,
                             precision=drawing.generation.precision)
    quiet = not (processes.leads() and sys.stderr.isatty())
    with hooks.tqdm(total=num, unit="img", disable=quiet) as bar:
        for part, *results in stream:
            made.append(results)
            bar.update(len(part))
            beat(len(made))
            if processes.preempted(len(made)):
                raise Preempted
    nfe = np.average([count for _, count in made], weights=[len(images) for images, _ in made])
    return np.concatenate([images for images, _ in made]), int(nfe) if float(nfe).is_integer() else round(nfe, 2)


def sample(folder: Any, drawing: Drawing, beat: Callable = lambda step: None) -> int:
    """Writes `samples.npz` and, of images, `samples.png`; returns the exit status."""
    num, seed = drawing.config.sample.num, drawing.config.sample.seed
    images, nfe = drawn(drawing, num, seed, beat)
    if not processes.leads():
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {"samples": images}
    if drawing.cond_of is not None and drawing.model.classes:
        arrays["labels"] = drawing.cond_of(np.arange(num))["label"]
    with (folder / "samples.npz").open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    paths = [folder / "samples.npz"]
    if images.ndim == 4:
        shown = images if images.dtype == np.uint8 else preview(images)
        hooks.draw_png(hooks.tile(shown), folder / "samples.png")
        paths.insert(0, folder / "samples.png")
    if isinstance(drawing.model.prepare, pixels.Latents) and drawing.then is None:
        print("these are latents; --config.sample.autoencoder=FOLDER, a converted or trained one, decodes them")
    print(f"{num} samples of step {drawing.checkpoint} ({drawing.ema}, {nfe} evaluations each): "
          f"{', '.join(map(str, paths))}")
    return 0


def preview(x: Any) -> Any:
    """Returns latents [b, h, w, c] as bytes: the first three channels (or one), three deviations to either end."""
    return pixels.to_uint8(x[..., :3 if x.shape[-1] > 2 else 1] / 3)
