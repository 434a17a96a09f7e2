"""What a run is worth: its samples over a grid of checkpoints and settings, a result row a cell."""

import dataclasses
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxdiff import checkpoint, data, experiment, hooks, metrics, processes, tables
from jaxdiff import evaluate as evaluation
from jaxdiff import mesh as meshes
from jaxdiff import sample as sampling
from jaxdiff import workdir as workdirs
from jaxdiff.metrics.features import agreement
from jaxdiff.verbs import against as comparing
from jaxdiff.verbs import grid as cells
from jaxdiff.verbs import likely
from jaxdiff.verbs.against import Against, gathered
from jaxdiff.verbs.drawing import Drawing, Keys, Preempted, image_shape, ready

__all__ = ["Judging", "awaited", "commission", "environment", "evaluate", "followed"]


@dataclasses.dataclass(frozen=True)
class Judging:
    """An evaluation that has been found to make sense."""

    workdir: Any
    config: ConfigDict
    settings: Sequence[ConfigDict]  # of every cell of a checkpoint
    which: Sequence[Any]  # checkpoints, see `grid.chosen`
    ema: str  # the run's first average
    scoring: experiment.Scoring
    extractors: Mapping[str, Any]  # on the mesh
    shape: tuple[int, ...]  # of an image that is judged, [h, w, c]
    given: Mapping[str, set[str]]  # what extractors give of it
    mesh: Any
    against: Callable[[Callable, Callable], Against]  # (beat, leaving) -> what is compared with
    reference: str  # in a few words
    out: Any
    bits: int = 0  # held-out images whose bits/dim are measured
    unseen: Any = None  # these
    leaving: Callable[[], bool] = dataclasses.field(default_factory=processes.polls)  # after each batch


class Cell(NamedTuple):
    """What tells a row from all others."""

    step: int
    config: ConfigDict
    about: Mapping[str, Any]
    id: str


def commission(workdir: Any, config: ConfigDict, settings: Sequence[ConfigDict], which: Sequence[Any], *,
            features: Sequence[str] | None = None, criteria: Sequence[str] | None = None, weights: str | None = None,
            protocol: str | None = None, reference: str | None = None, reference_protocol: str | None = None,
            batch: int | None = None, bits: int = 0, out: Any = None) -> Judging:
    """Checks all cells, before anything is drawn.

    Args:
      workdir: the run's folder.
      config: the run's.
      settings: from `grid.settings`.
      which: checkpoints.
      features, criteria: in place of the config's, or of those of a file of statistics.
      weights, protocol: of the extractors that have some.
      reference: a file of statistics, or images; None for the run's own data.
      reference_protocol: of a file that does not say.
      batch: images of a reference a call.
      bits: held-out images whose bits/dim are measured as well.
      out: where rows go; None for `eval/results.jsonl` in the run's folder.

    Raises:
      ValueError: a setting, a criterion or a reference that cannot be.
    """
    checkpoint.hush()
    if "process" not in config:
        raise ValueError(f"{workdir} holds an autoencoder, which draws nothing; "
                         f"{experiment.next_step(workdir, draws=False)}")
    model = experiment.model(config, experiment.examples(workdir, config))
    shape = image_shape(config, model)
    features, protocol = comparing.asked(reference, features, protocol, reference_protocol)
    scoring = experiment.scoring(config, features=features or (), criteria=criteria or (), weights=weights,
                                 protocol=protocol, reads=reference is None)
    for setting in settings:
        experiment.generation(setting, model)
        experiment.check_average(workdir, model, setting.sample.ema or model.ema[0])
    paired = [name for name, criterion in scoring.criteria.items() if "images" in evaluation.needs(criterion).outputs]
    if paired:
        raise ValueError(f"--metrics={paired[0]} compares pairs, and a run's samples have no partners; --images=DIR "
                         "--reference=DIR judges image i beside image i")
    given = scoring.given(shape, labels=bool(model.classes))
    unseen = None
    if bits:
        unseen = None if config.held_out is None else experiment.build(config.held_out, data)
        likely.check(unseen, model, bits)
    if which != ("all",):
        cells.chosen(workdir, which, config)
    mesh = meshes.make_mesh()
    placed = evaluation.placed(scoring.extractors, mesh)
    compared = {name: placed[name] for name in scoring.compared}
    folder = workdir / "eval"
    if reference is None:
        against = lambda beat, leaving: comparing.own(scoring, compared, folder, batch=batch, mesh=mesh, beat=beat,
                                                      leaving=leaving)
    elif comparing.is_pictures(reference):
        against = lambda beat, leaving: comparing.pictured(reference, compared, scoring.outputs, batch=batch,
                                                           mesh=mesh, beat=beat)
    else:
        found = comparing.filed(reference, compared, scoring, protocol=reference_protocol, batch=batch, mesh=mesh)
        found.fits(shape)
        found.check(scoring.criteria, given)
        against = lambda beat, leaving: found
    return Judging(workdir, config, settings, which, model.ema[0], scoring, placed, shape, given, mesh, against,
                   reference or "the run's data", out or folder / "results.jsonl", bits, unseen)


def evaluate(job: Judging, beat: Callable = lambda: None) -> int:
    """Judges every cell that has no row yet, and shows all of them; returns the exit status.

    Raises:
      Preempted: the machine is being taken away; the same command goes on.
    """
    steps = cells.chosen(job.workdir, job.which, job.config)
    rows = judged(job, steps, beat)
    _shown(job, rows)
    return 0


def awaited(workdir: Any, patience: float, every: float = 10.0) -> bool:
    """Waits for a run to begin; returns whether it did so within `patience` minutes, and did not fail before.

    Raises:
      ValueError: a folder that cannot be one of a run.
    """
    workdirs.refuse_file(workdir)
    since = time.monotonic()
    while not all((workdir / name).exists() for name in ("config.json", "run.json")):
        if _ended(workdir) is not None or time.monotonic() - since > 60 * patience:
            return False
        time.sleep(every)
    return True


def followed(job: Judging, *, patience: float, every: float = 10.0, beat: Callable = lambda: None) -> int:
    """Judges a run's checkpoints as they come, until it has ended; returns the exit status.

    Args:
      job: the evaluation.
      patience: minutes in which nothing may come.
      every: seconds between two looks.
      beat: is told that there is life.

    Returns:
      0 once training is done and every checkpoint that is there has its rows; 1 when training has failed, or nothing
      came for `patience` minutes.

    Raises:
      Preempted: the machine is being taken away; the same command goes on.
    """
    rows: dict[str, dict] = {}
    seen: set[int] = set()
    since = time.monotonic()
    while True:
        ended = _ended(job.workdir)  # before the checkpoints: one may come between
        steps = [step for step in checkpoint.steps_in(job.workdir) if step not in seen]
        found = [-1 if ended is None else ended, int(time.monotonic() - since > 60 * patience), *steps]
        status, late, *steps = map(int, processes.exchange("watch", " ".join(map(str, found)))[0].split())
        for step in steps:
            rows |= {row["cell"]: row for row in judged(job, [step], beat)}
            seen.add(step)
            since = time.monotonic()
        if not steps and status >= 0:
            if processes.leads():
                _shown(job, list(rows.values()))
                print("training is done, and every checkpoint is judged" if status == 0 else
                      f"training ended with status {status}; {len(seen)} checkpoints are judged")
            return 0 if status == 0 else 1
        if late and not steps:
            if processes.leads():
                _shown(job, list(rows.values()))
                print(f"nothing came for {patience:g} minutes: {len(seen)} checkpoints are judged")
            return 1
        beat()
        if job.leaving():
            raise Preempted
        if not steps:
            time.sleep(every)


def _ended(workdir: Any) -> int | None:
    """Returns the status with which the last attempt of training ended for good; None while it goes on or will."""
    rows = list(workdirs.rows(workdir / "run.jsonl"))
    if not rows or rows[-1]["event"] != "end" or rows[-1]["status"] == processes.AGAIN:
        return None
    return rows[-1]["status"]


def judged(job: Judging, steps: Sequence[int], beat: Callable) -> list[dict]:
    """Returns the rows of some checkpoints: those that stand in the file, and those that are now made."""
    standing = evaluation.finished(job.out)
    rows, missing = [], []
    for step in steps:
        for config in job.settings:
            cell = _cell(job, step, config)
            known = cell.id in standing if processes.leads() else False
            if processes.exchange("cell", str(int(known)))[0] == "1":
                rows += [standing[cell.id]] if cell.id in standing else []
            else:
                missing.append(cell)
    if not missing:
        return rows
    _verified(job)
    against = job.against(beat, job.leaving)
    against.fits(job.shape)
    against.check(job.scoring.criteria, job.given)
    for number, cell in enumerate(missing, 1):
        if processes.leads() and len(missing) > 1:
            print(f"cell {number} of {len(missing)}: {tables.setting(cell.about)}", flush=True)
        row = _made(job, cell, against, beat)
        if processes.leads():
            rows.append(evaluation.append(job.out, row))
            print("\n".join(tables.summary(rows[-1])), flush=True)
    return rows


def _cell(job: Judging, step: int, config: ConfigDict) -> Cell:
    told = checkpoint.told(job.workdir, step)
    values = experiment.as_json(config)
    about = {
        "config": evaluation.identity({key: value for key, value in values.items() if key not in experiment.FREE}),
        "checkpoint": step, "weights": evaluation.identity(told["arrays"]),
        "ema": config.sample.ema or job.ema, "sampler": values["sampler"], "times": values["times"],
        "guidance_chain": values["guidance"], "precision": values["sample"]["precision"],
        "autoencoder": values["sample"]["autoencoder"] if "autoencoder" in values["sample"] else None,
        "num": config.evaluate.num, "bits": job.bits, "seed": config.evaluate.seed, "reference": job.reference,
        "equal": job.scoring.equal, "criteria": sorted(map(repr, job.scoring.criteria.values())),
        "extractors": {name: evaluation.marks(extract) for name, extract in job.extractors.items()},
    }
    return Cell(step, config, about, evaluation.identity(about))


def _verified(job: Judging) -> None:
    """Compares an accelerator's features with a CPU's, on a few pictures."""
    if jax.default_backend() == "cpu" or jax.process_count() > 1:
        return
    height, width, channels = job.shape
    pictures = agreement.pictures(2, max(height, width), channels)[:, :height, :width]
    for extract in job.scoring.extractors.values():
        if jax.tree.leaves(extract):
            agreement.verify(extract, pictures)


def _made(job: Judging, cell: Cell, against: Against, beat: Callable) -> dict:
    """Draws the samples of a cell, or those that are missing, and returns its row."""
    drawing = ready(job.workdir, cell.config, step=cell.step)
    scoring, generation = job.scoring, drawing.generation
    num, seed = scoring.num, cell.config.evaluate.seed
    labelled = drawing.cond_of is not None and bool(drawing.model.classes)
    parts = evaluation.Parts(job.workdir / "eval" / "partial" / cell.id, writes=processes.leads())
    start = int(processes.exchange("resume", str(parts.read() if processes.leads() else 0))[0])
    if not processes.leads():
        parts.read()
    begun = time.monotonic()
    gathered(_drawn(job, drawing, range(start, num), seed), parts, beat, job.leaving)
    seconds = time.monotonic() - begun
    arrays = parts.taken()
    nfe = float(np.mean(arrays.pop("nfe")))
    if labelled and drawing.cond_of is not None:
        arrays["label"] = drawing.cond_of(np.arange(num))["label"]
    third = any(evaluation.needs(criterion).held_out for criterion in scoring.criteria.values())
    spent = likely.bits(drawing, job.unseen, job.bits, seed=seed, beat=beat, leaving=job.leaving) if job.bits else {}
    closest = _closest(job, drawing, arrays, against, seed, cell.id) if third else None
    if not processes.leads():
        return {}
    real = against.about["n"]  # None where a published file does not say
    compared = min(num, real) if scoring.equal and real is not None else num
    row = {"cell": cell.id, **cell.about, "steps": generation.times.steps,
           "nfe": int(nfe) if nfe.is_integer() else round(nfe, 2), "guidance": generation.scale,
           "network_evaluations": nfe * generation.evaluations, "n": {"made": compared, "real": real},
           "reference": against.about, "metrics": {}, "matmul_precision": generation.precision,
           "generator": "threefry2x32", **environment(), "seconds": round(seconds, 3),
           "images_per_second": round((num - start) / max(seconds, 1e-9), 2)}
    for name in scoring.compared:
        made = evaluation.whole(arrays, name, "the samples")
        row["metrics"] |= figures(scoring, made, against, name)
    row["metrics"] |= spent
    if scoring.classifier is not None and labelled:
        row |= evaluation.requested_accuracy(arrays[f"{scoring.classifier}/logits"], arrays["label"])
    row |= {"closest": str(closest)} if third else {}
    parts.discard()
    return row


def _drawn(job: Judging, drawing: Drawing, indices: range, seed: int) -> comparing.Rows:
    batch = comparing.fitting(min(drawing.generation.batch, max(len(indices), 1)), job.mesh)
    seeing = evaluation.Seeing(drawing.then, job.scoring.outputs)
    stream = sampling.stream(
        drawing.denoiser, drawing.generation.sampler, drawing.generation.times, Keys.of(seed).samples,
        shape=drawing.model.shape, indices=indices, batch=batch, cond_of=drawing.cond_of, then=seeing,
        given=(*drawing.given, dict(job.extractors)), mesh=job.mesh, precision=drawing.generation.precision)
    quiet = not (processes.leads() and sys.stderr.isatty())
    with hooks.tqdm(total=job.scoring.num, initial=indices.start, unit="img", disable=quiet) as bar:
        for part, seen, nfe in stream:
            bar.update(len(part))
            yield len(part), evaluation.flat(seen) | {"nfe": np.full(len(part), nfe, np.float32)}


def figures(scoring: experiment.Scoring, made: evaluation.Side, against: Against, name: str) -> dict[str, float]:
    """Returns an extractor's figures, with the two yardsticks of its distance where there are some."""
    real = against.real[name]
    if scoring.equal and real.n is not None:
        made = evaluation.cut(made, real.n)
    held = against.held_out[name] if name in against.held_out else None
    found = evaluation.measured(scoring.criteria, made, real, name, held_out=held)
    for yardstick, sides in (("floor", against.held_out), ("ceiling", against.noise)):
        if scoring.equal and name in sides and "fid" in scoring.criteria:
            key = evaluation.key_of("fid", name)
            found[f"{key}_{yardstick}"] = evaluation.criteria.fid(sides[name], real)["fid"]
    return found


def _closest(job: Judging, drawing: Drawing, arrays: Mapping[str, np.ndarray], against: Against, seed: int, cell: str,
             pairs: int = 8) -> Any:
    """Draws the samples that lie nearest to training images beside these; returns the picture's path."""
    name = job.scoring.compared[0]
    found = metrics.nearest(arrays[f"{name}/features"], against.real[name]["features"])
    rows = np.argsort(found.distances)[:pairs].tolist()
    stream = sampling.stream(
        drawing.denoiser, drawing.generation.sampler, drawing.generation.times, Keys.of(seed).samples,
        shape=drawing.model.shape, indices=rows, batch=comparing.fitting(len(rows), job.mesh),
        cond_of=drawing.cond_of, then=drawing.then, given=drawing.given, mesh=job.mesh,
        precision=drawing.generation.precision)
    made = np.concatenate([images for _, images, _ in stream])
    real = experiment.columns_of(job.scoring.source, found.indices[rows].tolist())["image"]
    path = job.workdir / "eval" / f"closest_{cell}.png"
    if processes.leads():
        path.parent.mkdir(parents=True, exist_ok=True)
        hooks.draw_png(hooks.tile(np.stack([made, real], 1).reshape(-1, *made.shape[1:]), columns=2), path)
    return path


def environment() -> dict[str, Any]:
    """Returns what a row says of the machine and the packages."""
    about = workdirs.environment(jax.devices()[0], jax.device_count())
    return {"device": about["device"], "processes": jax.process_count(), "versions": about["versions"],
            "commit": about["commit"]}


def _shown(job: Judging, rows: Sequence[Mapping]) -> None:
    """Prints the table of all rows, and draws figures against step, calls and guidance."""
    if not processes.leads() or not rows:
        return
    if len(rows) > 1:
        print("\n".join(tables.table(rows)))
        for path in tables.pictures(rows, job.out.parent):
            print(f"  drawn: {path}")
    print(f"  appended to {job.out}")
