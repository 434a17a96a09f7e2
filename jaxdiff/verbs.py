"""What the command does: train, sample, evaluate, report.

Each verb is two halves: what it builds, where a fault is the user's, and what it runs.
"""

import contextlib
import dataclasses
import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np
from clu import parameter_overview
from ml_collections import ConfigDict

from jaxdiff import checkpoint, experiment, hooks, loop, overrides
from jaxdiff import evaluate as evaluation
from jaxdiff import mesh as meshes
from jaxdiff import report as reports
from jaxdiff import sample as sampling
from jaxdiff import train as training
from jaxdiff import workdir as workdirs
from jaxdiff.build import nearest
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
    generation: experiment.Generation
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


def prepare(workdir: Path, config: ConfigDict) -> Run:
    """Builds all that a run needs and restores it where it was; compiles no step.

    Raises:
      ValueError, OSError: what the user can mend.
    """
    _hush()
    workdirs.refuse_file(workdir)
    if (workdir / "config.json").exists():
        there = workdirs.read(workdir, "config.json")
        workdirs.claim(workdir, overrides.differences(there, experiment.as_json(config)), experiment.FREE)
    mesh = experiment.meshed(config)
    loader = experiment.loader(config, mesh)
    model = experiment.model(config, loader.example)
    generation = experiment.generation(config, model)
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


def _hush() -> None:
    logging.getLogger("absl").setLevel(logging.WARNING)  # Orbax says fifty lines a save
    warnings.filterwarnings("ignore", category=UserWarning, module="orbax")


def train(run: Run) -> int:
    """Trains to the end, saving and telling on the way; returns the exit status."""
    config, workdir = run.config, run.workdir
    steps, keys = -(-config.train_images // config.batch), Keys.of(config.seed)
    count = sum(leaf.size for leaf in jax.tree.leaves(run.state.params))
    about = workdirs.environment(jax.devices()[0], jax.device_count())
    workdirs.write(workdir, "run.json", {
        **about, "parameters": count, "config": experiment.as_json(config), "fingerprint": run.loader.fingerprint,
        "example": {name: [list(leaf.shape[1:]), str(leaf.dtype)] for name, leaf in run.model.example.items()}})
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
    print(f"trained to step {steps}; samples: jaxdiff sample --workdir={workdir}")
    return 0


def _hooks(run: Run, writers: Sequence[Any], steps: int) -> list:
    config = run.config
    listed = [
        hooks.every(config.log_every_steps, hooks.log(writers, batch=config.batch), last=steps),
        hooks.guard(config.max_skipped, saved=lambda: max(checkpoint.steps(run.store), default=None)),
        hooks.progress(run.start, steps, batch=config.batch, lines_every=config.log_every_steps),
    ]
    if config.picture_every_steps:
        draw = hooks.pictures(_painter(run), run.workdir / "pictures", writers)
        listed.append(hooks.every(config.picture_every_steps, draw, last=steps))
    listed.append(hooks.saving(lambda state, step: checkpoint.save(run.store, state, step),
                               lambda: checkpoint.failed(run.store), steps=config.save_every_steps, last=steps))
    return listed


def _painter(run: Run) -> Callable[[training.State], np.ndarray]:
    """Returns what draws 64 samples of the first average, whose denoiser is an argument: one compile for all."""
    cond_of = experiment.labels_of((), run.model)
    batch = -(-64 // run.mesh.size) * run.mesh.size

    def draw(state: training.State) -> np.ndarray:
        plain = run.model.objective.denoiser(state.ema[run.model.ema[0]], state.frozen)
        return sampling.generate(run.generation.guided(plain), run.generation.sampler, run.generation.times,
                                 Keys.of(run.config.seed).pictures, num=64, shape=run.model.shape, batch=batch,
                                 cond_of=cond_of, then=pixels.to_uint8, mesh=run.mesh,
                                 precision=run.generation.precision)

    return draw


def changed(workdir: Path, flags: Sequence[tuple[str, Any]], pairs: Sequence[tuple[str, str]]) -> ConfigDict:
    """Returns a run's config with the flags and overrides of a command that samples.

    Raises:
      ValueError: no run there, an unknown key, or one that is the run's own.
    """
    config = experiment.from_json(workdirs.read(workdir, "config.json"))
    for key, _ in pairs:
        if key.partition(".")[0] not in experiment.FREE:
            raise ValueError(f"--config.{key}: that is what was trained, and sampling cannot change it")
    given = [(key, repr(value)) for key, value in flags if value is not None]
    return overrides.apply(config, [*given, *pairs])


def ready(workdir: Path, config: ConfigDict, *, step: int | None = None, labels: tuple[int, ...] = ()) -> Drawing:
    """Restores one average of a checkpoint, alone.

    Raises:
      ValueError: no such checkpoint, average or label, or a damaged checkpoint.
    """
    _hush()
    about = workdirs.read(workdir, "run.json")["example"]
    example = {name: jax.ShapeDtypeStruct((config.batch, *shape), np.dtype(dtype)) for name, (shape, dtype)
               in about.items()}
    model = experiment.model(config, example)
    generation = experiment.generation(config, model)
    cond_of = experiment.labels_of(labels, model)
    name = config.sample.ema if config.sample.ema is not None else model.ema[0]
    if name not in model.ema:
        raise ValueError(f"--ema={name}: the run keeps no such average{nearest(name, model.ema)}")
    mesh = meshes.make_mesh()
    shapes = training.shapes(model.objective, model.optimizer, example, mesh=mesh, ema=model.ema, prepare=model.prepare)
    store = checkpoint.opened(str(workdir), None)
    number, trees = checkpoint.restore(store, {"ema": {name: shapes.ema[name]}}, step=step) or _gone(store)
    plain = model.objective.denoiser(trees["ema"][name])
    if jax.tree.leaves(plain.process):
        generation = experiment.generation(config, model, plain.process)
    denoiser = generation.guided(plain)
    return Drawing(config, mesh, model, generation, denoiser, number, name, cond_of)


def _gone(store: checkpoint.Store) -> NoReturn:
    raise ValueError(f"the checkpoints in {store.folder} have just gone")


def _drawn(drawing: Drawing, num: int, seed: int) -> tuple[np.ndarray, float]:
    """Returns images [num, h, w, c] uint8 (vectors come as float32) and the NFE, with a bar on a terminal."""
    parts = drawing.mesh.size
    batch = -(-min(drawing.generation.batch, num) // parts) * parts
    image = len(drawing.model.shape) == 3
    made: list = []
    stream = sampling.stream(drawing.denoiser, drawing.generation.sampler, drawing.generation.times,
                             Keys.of(seed).samples, shape=drawing.model.shape, indices=range(num), batch=batch,
                             cond_of=drawing.cond_of, then=pixels.to_uint8 if image else None, mesh=drawing.mesh,
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
    if drawing.cond_of is not None:
        arrays["labels"] = drawing.cond_of(np.arange(num))["label"]
    np.savez(folder / "samples.npz", allow_pickle=False, **arrays)
    paths = [folder / "samples.npz"]
    if images.dtype == np.uint8:
        hooks.draw_png(hooks.tile(images), folder / "samples.png")
        paths.insert(0, folder / "samples.png")
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
    if scoring.classifier is not None and drawing.cond_of is not None:
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
