"""What the command does: train, sample, evaluate, report.

Each verb is two halves: what it builds, where a fault is the user's, and what it runs.
"""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from clu import parameter_overview
from ml_collections import ConfigDict

from jaxdiff import checkpoint, experiment, hooks, latents, loop, networks, overrides
from jaxdiff import evaluate as evaluation
from jaxdiff import mesh as meshes
from jaxdiff import report as reports
from jaxdiff import sample as sampling
from jaxdiff import train as training
from jaxdiff import workdir as workdirs
from jaxdiff.data import pixels

__all__ = ["Drawing", "Run", "changed", "evaluate", "prepare", "ready", "report", "sample", "train"]


@dataclasses.dataclass(frozen=True)
class Run:
    """A run ready to train."""

    workdir: Path
    config: ConfigDict
    mesh: Any
    loader: experiment.Loader
    model: experiment.Model
    generation: experiment.Generation | None  # None where nothing can be drawn
    store: checkpoint.Store
    state: training.State
    start: int


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


def prepare(workdir: Path, config: ConfigDict) -> Run:
    """Builds all that a run needs and restores it where it was; compiles no step.

    Raises:
      ValueError, OSError: what the user can mend.
    """
    checkpoint.hush()
    workdirs.refuse_file(workdir)
    if (workdir / "config.json").exists():
        there = workdirs.read(workdir, "config.json")
        workdirs.claim(workdir, overrides.differences(there, experiment.as_json(config)), experiment.FREE)
    mesh = experiment.meshed(config)
    loader = experiment.loader(config, mesh)
    model = experiment.model(config, loader.example)
    generation = None if model.process is None else experiment.generation(config, model)
    store = checkpoint.opened(str(workdir), loader.fingerprint, keep=config.keep_checkpoints)
    restored = checkpoint.restore(store, checkpoint.items(model.shapes(mesh)))
    workdirs.write(workdir, "config.json", experiment.as_json(config))
    if restored is None:
        state = model.init(Keys.of(config.seed).parameters, mesh)
        return Run(workdir, config, mesh, loader, model, generation, store, state, 0)
    start, trees = restored
    state = training.State(trees["train"]["step"], trees["params"], trees["ema"], trees["train"]["opt_state"])
    return Run(workdir, config, mesh, loader, model, generation, store, state, start)


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


def train(run: Run) -> int:
    """Trains to the end, saving and telling on the way; returns the exit status."""
    config, workdir = run.config, run.workdir
    steps, keys = -(-config.train_images // config.batch), Keys.of(config.seed)
    count = training.count(run.state.params)
    about = workdirs.environment(jax.devices()[0], jax.device_count())
    workdirs.write(workdir, "run.json", {
        **about, "parameters": count, "config": experiment.as_json(config), "fingerprint": run.loader.fingerprint,
        "example": experiment.described(run.model.example)})
    if run.start >= steps:
        print(f"{workdir} has finished its {steps} steps; a larger --config.train_images goes on")
        checkpoint.finish(run.store)
        return 0
    if run.start == 0:
        print(parameter_overview.get_parameter_overview(run.state.params, include_stats=False))
    print(f"{'going on from' if run.start else 'starting at'} step {run.start} of {steps}: {count:,} parameters, "
          f"{about['device']['count']} x {about['device']['kind']}, batch {config.batch}", flush=True)
    with contextlib.ExitStack() as open_:
        writers: list = [hooks.Journal(workdir / "metrics.jsonl")]
        if config.tensorboard:
            writers.append(hooks.summaries(workdir / "tensorboard"))
        for writer in writers:
            open_.callback(writer.close)
            open_.callback(writer.flush)
        try:
            _, reason = loop.fit(run.model.step(), run.state, run.loader.batches, keys.training, steps=steps,
                                 hooks=_hooks(run, writers, steps), put=lambda batch: meshes.put(run.mesh, batch))
            checkpoint.finish(run.store)
        except checkpoint.Failed as error:
            reason = str(error)
    if reason is not None:
        print(f"jaxdiff: stopped: {reason}", file=sys.stderr)
        return 1
    print(f"trained to step {steps}; {experiment.next_step(workdir, run.generation is not None)}")
    return 0


def _hooks(run: Run, writers: Sequence[Any], steps: int) -> list:
    config = run.config
    listed = [
        hooks.every(config.log_every_steps, hooks.log(writers, batch=config.batch), last=steps),
        hooks.guard(config.max_skipped, saved=lambda: max(checkpoint.steps(run.store), default=None)),
        hooks.progress(run.start, steps, batch=config.batch, lines_every=config.log_every_steps),
    ]
    if config.picture_every_steps:
        paint = _reconstruction(run) if run.generation is None else _painter(run, run.generation)
        draw = hooks.pictures(paint, run.workdir / "pictures", writers)
        listed.append(hooks.every(config.picture_every_steps, draw, last=steps))
    listed.append(hooks.saving(lambda state, step: checkpoint.save(run.store, state, step),
                               lambda: checkpoint.failed(run.store), steps=config.save_every_steps, last=steps))
    return listed


def _painter(run: Run, generation: experiment.Generation) -> Callable[[training.State], np.ndarray]:
    """Returns what draws 64 samples of the first average, whose denoiser is an argument: one compile for all."""
    cond_of = experiment.conditions_of((), run.model)
    batch = -(-64 // run.mesh.size) * run.mesh.size
    then, given = _decoder(run.config, run.model)

    def draw(state: training.State) -> np.ndarray:
        plain = run.model.objective.denoiser(state.ema[run.model.ema[0]], state.frozen)
        return sampling.generate(generation.guided(plain), generation.sampler, generation.times,
                                 Keys.of(run.config.seed).pictures, num=64, shape=run.model.shape, batch=batch,
                                 cond_of=cond_of, then=then or _preview, given=given, mesh=run.mesh,
                                 precision=generation.precision)

    return draw


def _reconstruction(run: Run) -> Callable[[training.State], np.ndarray]:
    """Returns what draws 32 images of the run's data, each beside what its autoencoder makes of it."""
    model, first = run.model, next(run.loader.batches(0))
    x = model.prepare(jax.tree.map(lambda rows: rows[:32], first), jax.random.key(0), None)["x0"]
    generator = experiment.build(run.config.network, networks)
    reconstruct = jax.jit(lambda params, x: generator.apply(params, x)[0])

    def draw(state: training.State) -> np.ndarray:
        y = reconstruct(state.ema[model.ema[0]]["generator"], x)
        both = np.stack([x, y], 1).reshape(-1, *x.shape[1:])  # in turn
        return np.asarray(pixels.to_uint8(both))

    return draw


def _preview(x: Any) -> Any:
    """Returns latents [b, h, w, c] as bytes: the first three channels (or one), three deviations to either end."""
    return pixels.to_uint8(x[..., :3 if x.shape[-1] > 2 else 1] / 3)


def changed(workdir: Path, flags: Sequence[tuple[str, Any]], pairs: Sequence[tuple[str, str]]) -> ConfigDict:
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


def ready(workdir: Path, config: ConfigDict, *, step: int | None = None, labels: tuple[int, ...] = (),
          conditions: Path | None = None, judged: bool = False) -> Drawing:
    """Restores one average of a checkpoint, alone, and the autoencoder that decodes its latents.

    Raises:
      ValueError: no such checkpoint, average, label or condition, or a damaged checkpoint; latents that are to be
        judged as images.
    """
    checkpoint.hush()
    if "process" not in config:
        raise ValueError(f"{workdir} holds an autoencoder, which draws nothing; "
                         f"{experiment.next_step(workdir, draws=False)}")
    model = experiment.model(config, experiment.examples(workdir, config))
    generation = experiment.generation(config, model)
    cond_of = experiment.conditions_of(labels, model, None if conditions is None else _arrays(conditions))
    then, given = _decoder(config, model)
    if judged and then is None and len(model.shape) == 3:
        raise ValueError("latents are judged as images: name an autoencoder, --config.sample.autoencoder=FOLDER")
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


def _decoder(config: ConfigDict, model: experiment.Model) -> tuple[Callable | None, tuple]:
    """Returns what makes bytes of samples, and its arrays; None of vectors, and of latents without an autoencoder."""
    if isinstance(model.prepare, pixels.Latents):
        path = config.sample.autoencoder if "autoencoder" in config.sample else None
        if path is None:
            return None, ()
        tile = config.sample.tile if "tile" in config.sample else None
        then, params = latents.autoencoder(Path(path), model.prepare, model.shape[-1], tile)
        return then, (params,)
    return (pixels.to_uint8 if len(model.shape) == 3 else None), ()


def _drawn(drawing: Drawing, num: int, seed: int) -> tuple[np.ndarray, float]:
    """Returns images [num, h, w, c] uint8 (vectors and latents as float32) and the NFE, with a bar on a terminal."""
    parts = drawing.mesh.size
    batch = -(-min(drawing.generation.batch, num) // parts) * parts
    made: list = []
    stream = sampling.stream(drawing.denoiser, drawing.generation.sampler, drawing.generation.times,
                             Keys.of(seed).samples, shape=drawing.model.shape, indices=range(num), batch=batch,
                             cond_of=drawing.cond_of, then=drawing.then, given=drawing.given, mesh=drawing.mesh,
                             precision=drawing.generation.precision)
    with hooks.tqdm(total=num, unit="img", disable=not sys.stderr.isatty()) as bar:
        for part, *results in stream:
            made.append(results)
            bar.update(len(part))
    nfe = np.average([count for _, count in made], weights=[len(images) for images, _ in made])
    return np.concatenate([images for images, _ in made]), int(nfe) if float(nfe).is_integer() else round(nfe, 2)


def sample(folder: Path, drawing: Drawing) -> int:
    """Writes `samples.npz` and, of images, `samples.png`; returns the exit status."""
    num, seed = drawing.config.sample.num, drawing.config.sample.seed
    images, nfe = _drawn(drawing, num, seed)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {"samples": images}
    if drawing.cond_of is not None and drawing.model.classes:
        arrays["labels"] = drawing.cond_of(np.arange(num))["label"]
    np.savez(folder / "samples.npz", allow_pickle=False, **arrays)
    paths = [folder / "samples.npz"]
    if images.ndim == 4:
        shown = images if images.dtype == np.uint8 else _preview(images)
        hooks.draw_png(hooks.tile(shown), folder / "samples.png")
        paths.insert(0, folder / "samples.png")
    if isinstance(drawing.model.prepare, pixels.Latents) and drawing.then is None:
        print("these are latents; --config.sample.autoencoder=FOLDER, a converted or trained one, decodes them")
    print(f"{num} samples of step {drawing.checkpoint} ({drawing.ema}, {nfe} evaluations each): "
          f"{', '.join(map(str, paths))}")
    return 0


def evaluate(workdir: Path, drawing: Drawing, scoring: experiment.Scoring) -> int:
    """Appends a row to `eval/results.jsonl` and prints it; returns the exit status."""
    images, nfe = _drawn(drawing, scoring.num, scoring.seed)
    config, generation = drawing.config, drawing.generation
    row: dict[str, Any] = {
        "checkpoint": drawing.checkpoint, "ema": drawing.ema, "sampler": experiment.as_json(config.sampler),
        "times": experiment.as_json(config.times), "steps": generation.times.steps, "nfe": nfe,
        "network_evaluations": nfe * generation.evaluations, "guidance": generation.scale, "num": scoring.num,
        "seed": scoring.seed, "matmul_precision": generation.precision,
        "device": jax.devices()[0].device_kind, "frechet": {},
    }
    sides = [scoring.reference, images] + ([] if scoring.held_out is None else [scoring.held_out])
    n = min(map(len, sides))
    reference = scoring.reference[np.random.default_rng(scoring.seed).permutation(len(scoring.reference))[:n]]
    for name, extract in scoring.extractors.items():
        result = {"n": n, "distance": evaluation.distance(reference, images[:n], extract)}
        if scoring.held_out is not None:
            result |= evaluation.yardsticks(reference, scoring.held_out[:n], extract, seed=scoring.seed)
        row["frechet"][name] = result
    if scoring.classifier is not None and drawing.cond_of is not None and drawing.model.classes:
        labels = drawing.cond_of(np.arange(scoring.num))["label"]
        row |= evaluation.requested_accuracy(images, labels, scoring.classifier.classify)
    path = workdir / "eval" / "results.jsonl"
    evaluation.append(path, row)
    print("\n".join([*reports.summary(row), f"  appended to {path}"]))
    return 0


def report(workdir: Path) -> int:
    """Draws the loss curve and prints paths and results; returns the exit status."""
    about = workdirs.read(workdir, "run.json")
    losses = reports.loss_curve(evaluation.read(workdir / "metrics.jsonl"), workdir / "loss.png")
    rows = list(evaluation.read(workdir / "eval" / "results.jsonl"))
    print(f"{workdir}: {about['parameters']:,} parameters on {about['device']['count']} x {about['device']['kind']}")
    print(f"  loss {losses[0]:.3f} -> {losses[-1]:.3f}  {reports.sparkline(losses)}")
    for row in rows[-1:]:
        print("\n".join(reports.summary(row)))
    for name, what in (("loss.png", "loss curve"), ("samples.png", "samples"), ("samples.npz", "samples as arrays"),
                       ("eval/results.jsonl", "results"), ("metrics.jsonl", "metrics"), ("tensorboard", "TensorBoard"),
                       ("checkpoints", "checkpoints")):
        if (workdir / name).exists():
            print(f"  {what}: {workdir / name}")
    return 0
