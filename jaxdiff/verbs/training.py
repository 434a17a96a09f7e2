"""Training: what a run needs, restored where it was, and the run."""

import contextlib
import dataclasses
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxdiff import attempts, checkpoint, experiment, flops, hooks, loop, overrides, pace, processes
from jaxdiff import mesh as meshes
from jaxdiff import train as training
from jaxdiff import workdir as workdirs
from jaxdiff.verbs import pictures
from jaxdiff.verbs.drawing import Keys

__all__ = ["Run", "begun", "prepare", "train"]


@dataclasses.dataclass(frozen=True)
class Run:
    """A run ready to train."""

    workdir: Any
    config: ConfigDict
    attempt: attempts.Attempt
    mesh: Any
    loader: experiment.Loader
    model: experiment.Model
    generation: experiment.Generation | None  # None where nothing can be drawn
    store: checkpoint.Store
    state: training.State
    start: int
    program: "Ahead"
    clock: pace.Clock  # of the start


class Ahead:
    """The step, compiled in the background while the state is restored."""

    def __init__(self, model: experiment.Model, mesh: Any) -> None:
        self.seconds = 0.0
        self._model, self._mesh = model, mesh
        self._made: list = []
        self._thread = threading.Thread(target=self._work, name="jaxdiff-compile", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        begun = time.perf_counter()
        try:
            self._made.append(self._compiled())
        except BaseException as error:  # handed over by `result`
            self._made.append(error)
        self.seconds = time.perf_counter() - begun

    def _compiled(self) -> Callable:
        rows = meshes.batched(self._mesh)
        state = self._model.shapes(self._mesh)
        batch = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=rows)
                 for name, leaf in self._model.example.items()}
        key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype, sharding=meshes.replicated(self._mesh))
        with jax.set_mesh(self._mesh):
            step: Any = training.compiled(self._model.step(), state)
            return step.lower(state, batch, key).compile()

    def result(self) -> Callable:
        """Returns the compiled step, or raises what went wrong."""
        self._thread.join()
        if isinstance(self._made[0], BaseException):
            raise self._made[0]
        return self._made[0]


def begun(workdir: Any, config: ConfigDict) -> attempts.Attempt:
    """Claims the folder for this config and notes that an attempt has begun.

    Raises:
      ValueError: a file in its place, or another run in it.
      InVain: too many attempts saved nothing.
    """
    workdirs.refuse_file(workdir)
    if processes.leads():
        workdirs.probe(workdir)
    if (workdir / "config.json").exists():
        there = workdirs.read(workdir, "config.json")
        workdirs.claim(workdir, overrides.differences(there, experiment.as_json(config)), experiment.FREE)
    newest = max(checkpoint.steps_in(workdir), default=0)
    about = workdirs.environment(jax.devices()[0], jax.device_count())
    told = {name: about[name] for name in ("host", "commit", "device")} | {"processes": jax.process_count()}
    limits = experiment.limits(config)
    return attempts.begin(workdir, newest, told, most=limits.attempts, writes=processes.leads())


def prepare(workdir: Any, config: ConfigDict, attempt: attempts.Attempt, clock: pace.Clock | None = None) -> Run:
    """Builds all that a run needs and restores it where it was, while its step compiles.

    Raises:
      ValueError, OSError: what the user can mend.
    """
    checkpoint.hush()
    clock, limits = clock or pace.Clock(), experiment.limits(config)
    mesh = experiment.meshed(config)
    with clock("data"):
        loader = experiment.loader(config, mesh)
    with clock("build"):
        model = experiment.model(config, loader.example)
        generation = None if model.process is None else experiment.generation(config, model)
        _window(config)
    with clock("restore"):
        store = checkpoint.opened(workdir, loader.fingerprint, keep=config.keep_checkpoints,
                                  keep_best=_best(config), **experiment.some(config, "keep_every_steps"))
    if processes.leads() and not checkpoint.steps(store):
        print(meshes.overview(model.shapes(mesh)), flush=True)
    _remember(workdir)
    program = Ahead(model, mesh)
    with clock("restore"):
        restored = checkpoint.restore(store, checkpoint.items(model.shapes(mesh)), timeout=limits.barrier)
    if processes.leads():
        workdirs.write(workdir, "config.json", experiment.as_json(config))
    if restored is None:
        with clock("init"):
            start, state = 0, model.init(Keys.of(config.seed).parameters, mesh)
    else:
        start, trees = restored
        state = training.State(trees["train"]["step"], trees["params"], trees["ema"], trees["train"]["opt_state"])
    attempt.step = start
    return Run(workdir, config, attempt, mesh, loader, model, generation, store, state, start, program, clock)


def _remember(workdir: Any) -> None:
    """Keeps compiled programs for the next start: beside the run, where a new machine finds them too; but of a CPU
    under the user's own cache, since its programs are for its very kind."""
    settings: Any = jax.config
    if settings.jax_compilation_cache_dir is None:
        ours = Path.home() / ".cache" / "jaxdiff" if jax.default_backend() == "cpu" else workdir
        jax.config.update("jax_compilation_cache_dir", str(ours / "xla_cache"))


def _best(config: ConfigDict) -> Any:
    """Returns the rule of what is kept for its metric, if there is one."""
    return config.keep_best if "keep_best" in config and config.keep_best.metric is not None else None


def _window(config: ConfigDict) -> tuple[int, int] | None:
    """Returns first step and number of steps to be profiled, if any are."""
    if "profile" not in config or config.profile.start is None:
        return None
    if min(config.profile.start, config.profile.steps) < 1:
        raise ValueError(f"config.profile's start and steps must be at least 1, got {config.profile.to_dict()}")
    return config.profile.start, config.profile.steps


def train(run: Run, beat: Callable = lambda step: None) -> int:
    """Trains to the end, saving and telling on the way; returns the exit status."""
    config, workdir = run.config, run.workdir
    steps = -(-config.train_images // config.batch)
    say = print if processes.leads() else lambda *words, **how: None
    count = training.count(run.state.params)
    about = workdirs.environment(jax.devices()[0], jax.device_count())
    if processes.leads():
        workdirs.write(workdir, "run.json", {
            **about, "parameters": count, "config": experiment.as_json(config), "fingerprint": run.loader.fingerprint,
            "example": experiment.described(run.model.example)})
    if run.start >= steps:
        say(f"{workdir} has finished its {steps} steps; a larger --config.train_images goes on")
        checkpoint.finish(run.store)
        return 0
    say(f"{'going on from' if run.start else 'starting at'} step {run.start} of {steps}: {count:,} parameters, "
        f"{about['device']['count']} x {about['device']['kind']}, batch {config.batch}", flush=True)
    status, reason = _fitted(run, steps, beat)
    if status == processes.AGAIN:
        say(f"jaxdiff: {reason}: saved, and to be started again (exit status {status})", file=sys.stderr)
    elif status:
        say(f"jaxdiff: stopped: {reason}", file=sys.stderr)
    else:
        say(f"trained to step {steps}; {experiment.next_step(workdir, run.generation is not None)}")
    run.attempt.end(status, reason)
    return status


def _fitted(run: Run, steps: int, beat: Callable) -> tuple[int, str]:
    """Returns the exit status and the reason."""
    config = run.config
    with run.clock("compile"):
        program = run.program.result()
    # Made on the mesh: an array of this process alone could not be put on all of its devices.
    key = jax.jit(lambda: Keys.of(config.seed).training, out_shardings=meshes.replicated(run.mesh))()
    with contextlib.ExitStack() as opened:
        writers = _writers(run, opened)
        measured = _pace(run)
        try:
            _, reason = loop.fit(run.model.step(), run.state, run.loader.batches, key, steps=steps,
                                 hooks=_hooks(run, writers, steps, measured, beat), beat=beat, clock=measured.clock,
                                 put=lambda batch: meshes.put(run.mesh, batch), run=program)
            checkpoint.finish(run.store)
        except checkpoint.Failed as error:
            return 1, str(error)
    if reason is None:
        return 0, ""
    return (processes.AGAIN if reason == hooks.PREEMPTED else 1), reason


def _writers(run: Run, opened: contextlib.ExitStack) -> list:
    if not processes.leads():
        return []
    writers: list = [hooks.Journal(run.workdir / "metrics.jsonl")]
    if run.config.tensorboard:
        writers.append(hooks.summaries(run.workdir / "tensorboard"))
    for writer in writers:
        opened.callback(writer.close)
        opened.callback(writer.flush)
    return writers


def _pace(run: Run) -> pace.Pace:
    given = experiment.some(run.config, "peak_tflops")
    peak = given["peak_tflops"] * 1e12 if given else flops.peak(jax.devices()[0].device_kind)
    return pace.Pace(run.config.batch, jax.device_count(), run.model.macs() if peak else None, peak)


def _hooks(run: Run, writers: Sequence[Any], steps: int, measured: pace.Pace, beat: Callable) -> list:
    config, leads = run.config, processes.leads()
    listed: list = [
        hooks.first(lambda step: _started(run, writers)),
        lambda step, state, metrics: measured.lap(),
        hooks.every(config.log_every_steps, hooks.log(writers, measured), last=steps),
        hooks.guard(config.max_skipped, saved=lambda: max(checkpoint.steps(run.store), default=None)),
    ]
    if leads:
        listed.append(hooks.progress(run.start, steps, batch=config.batch, lines_every=config.log_every_steps))
    if config.picture_every_steps:
        paint = (pictures.reconstruction(run) if run.generation is None else
                 pictures.painter(run, run.generation, beat))
        draw = hooks.pictures(paint, run.workdir / "pictures", writers, writes=leads)
        listed.append(hooks.every(config.picture_every_steps, draw, last=steps))
    window = _window(config)
    if window is not None:
        listed.append(hooks.profiling(run.workdir / "profile", *window))
    snapshots = experiment.snapshot_steps(config)
    if snapshots is not None:
        keep = checkpoint.snapshots.saver(run.workdir, run.loader.fingerprint)

        def snapshot(step: int, state: training.State, metrics: Any) -> None:
            keep(state, step)

        listed.append(hooks.every(snapshots, snapshot))
    listed.append(hooks.saving(_saver(run, writers), lambda: checkpoint.failed(run.store),
                               steps=config.save_every_steps, last=steps, preempted=processes.preempted))
    return listed


def _saver(run: Run, writers: Sequence[Any]) -> Callable:
    rule = _best(run.config)
    best = None if rule is None else rule.metric

    def save(state: training.State, step: int, metrics: Any) -> None:
        for writer in writers:
            writer.flush()
        if best is not None and best not in metrics:
            raise ValueError(f"config.keep_best.metric={best!r} is none of this run's: {', '.join(sorted(metrics))}")
        checkpoint.save(run.store, state, step, {} if best is None else {best: float(metrics[best])})
        run.attempt.step = step

    return save


def _started(run: Run, writers: Sequence[Any]) -> None:
    """Notes how long it took to the first step, by part."""
    seconds = {name: round(value, 3) for name, value in run.clock.seconds.items()}
    seconds["compiling"] = round(run.program.seconds, 3)  # beside the restoring, of which "compile" is what was left
    for writer in writers[:1]:
        writer.write_event("start", run.start, {"attempt": run.attempt.number, "seconds": seconds})
    if processes.leads():
        print(f"first step after {sum(run.clock.seconds.values()):.1f} s: "
              + ", ".join(f"{name} {value:.1f}" for name, value in seconds.items()), flush=True)
