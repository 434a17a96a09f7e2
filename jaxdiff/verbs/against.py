"""What samples are compared with: the run's own data, a file of statistics, or a folder of images."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdiff import evaluate as evaluation
from jaxdiff import experiment, metrics, processes
from jaxdiff.evaluate import Side
from jaxdiff.verbs.drawing import Preempted

__all__ = ["Against", "asked", "filed", "fitting", "gathered", "is_pictures", "looked", "own", "pictured", "size"]

Rows = Iterator[tuple[int, dict[str, np.ndarray]]]
BATCH = 64  # images a call


@dataclasses.dataclass(frozen=True)
class Against:
    """Sides by extractor.

    Attributes:
      real: the reference.
      held_out: real images that were not trained on; empty where there are none.
      noise: of the reference's pixel moments; empty where it is not asked for.
      about: what a row says of the reference.
    """

    real: Mapping[str, Side]
    held_out: Mapping[str, Side]
    noise: Mapping[str, Side]
    about: Mapping[str, Any]

    def fits(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError where the reference's images have another size than [h, w, c]."""
        size = f"{shape[0]}x{shape[1]}"
        if "resolution" in self.about and self.about["resolution"] != size:
            raise ValueError(f"{next(iter(self.real.values())).where} is of images of {self.about['resolution']}, and "
                             f"the samples have {size}: their distance would mean nothing")

    def check(self, criteria: Mapping[str, Any], given: Mapping[str, set[str]]) -> None:
        """Raises ValueError where a criterion reads what the reference has not, though extractors give it of samples.

        Args:
          criteria: by name.
          given: what extractors give, from `Scoring.given`.
        """
        for name, criterion in criteria.items():
            read = evaluation.needs(criterion)
            for extractor, side in self.real.items():
                held = set(side.arrays) if read.rows else {*side.arrays, *side.moments}
                lacks = [output for output in read.outputs if output not in held]
                if lacks and not read.alone and set(read.outputs) <= given[extractor]:
                    there = ", ".join([*side.arrays, *(f"moments of {key}" for key in side.moments)]) or "nothing"
                    raise ValueError(f"--metrics={name}: {side.where} has no {lacks[0]} of {extractor}, only {there}")


def asked(reference: str | None, features: Sequence[str] | None, protocol: str | None,
          stated: str | None) -> tuple[Sequence[str] | None, str | None]:
    """Returns features and protocol of samples: those that are asked for, or else those of a file of statistics.

    Args:
      reference: the file; nothing follows from other references.
      features, protocol: that are asked for.
      stated: the file's protocol, where it does not say.
    """
    if reference is None or is_pictures(reference):
        return features, protocol
    told = metrics.references.load(reference, *(features or ())[:1]).protocol
    if "extractor" not in told:
        return features, protocol or stated
    same = features is None or tuple(features) == (told["extractor"],)
    return features or (told["extractor"],), protocol or (told["protocol"] if same else None)


def gathered(rows: Rows, parts: evaluation.Parts, beat: Callable, leaving: Callable[[], bool]) -> None:
    """Adds rows to parts until there are no more; `leaving` says whether to end here.

    Raises:
      Preempted: the machine is being taken away; what was seen is on the disk.
    """
    for _, arrays in rows:
        parts.add(arrays)
        beat()
        if leaving():
            parts.write()
            raise Preempted


def own(scoring: experiment.Scoring, extractors: Mapping[str, Any], folder: Any, *, batch: int | None = None,
        mesh: Any = None, beat: Callable = lambda: None, leaving: Callable[[], bool] = lambda: False) -> Against:
    """Returns the run's own data as the reference; what was seen of them is kept in the folder.

    Args:
      scoring: how to judge; where it says `equal`, every side has as many images as the smallest, and noise is one.
      extractors: placed on the mesh.
      folder: of the run's evaluation.
      batch: images a call.
      mesh: to split batches over.
      beat: is told of every batch.
      leaving: says after each whether to end here.

    Raises:
      Preempted: the machine is being taken away; what was seen is on the disk.
    """
    def seen(source: Any, name: str) -> dict[str, np.ndarray]:
        marks = {key: evaluation.marks(extract) for key, extract in extractors.items()}
        what = evaluation.identity({"data": name, "n": size(source), "extractors": marks, "outputs": scoring.outputs})
        return _seen(source, extractors, scoring.outputs, folder / "reference" / what, batch, mesh, beat, leaving)

    if not scoring.equal:
        real = _sides(seen(scoring.source, str(scoring.data)), extractors, "the run's data")
        held = {} if scoring.held_out is None else _sides(seen(scoring.held_out, f"held out of {scoring.data}"),
                                                          extractors, "the held-out data")
        return Against(real, held, {}, {"data": scoring.data, "n": next(iter(real.values())).n})
    sources = [scoring.source] + ([] if scoring.held_out is None else [scoring.held_out])
    counts = [size(source) for source in sources]
    n = min(scoring.num, *counts)
    rows = np.random.default_rng(scoring.seed).permutation(counts[0])[:n].tolist()
    columns = [experiment.columns_of(sources[0], rows), *(experiment.columns_of(source, range(n))
                                                          for source in sources[1:])]
    if len(columns) > 1:
        columns.append({"image": evaluation.matched_noise(columns[0]["image"], seed=scoring.seed)})
    sides = [_sides(looked(some, extractors, scoring.outputs, batch, mesh), extractors, where)
             for some, where in zip(columns, ("the run's data", "the held-out data", "noise"), strict=False)]
    real, held, noise = (*sides, {}, {})[:3]
    return Against(real, held, noise, {"data": scoring.data, "n": n})


def filed(path: str, extractors: Mapping[str, Any], scoring: experiment.Scoring, *, protocol: str | None = None,
          batch: int | None = None, mesh: Any = None) -> Against:
    """Returns a file of statistics as the reference, of the one extractor that made it.

    Where a criterion wants features, and the file has images instead, as ADM's have, those are looked at.

    Args:
      path: the file.
      extractors: placed on the mesh.
      scoring: how to judge.
      protocol: of a file that does not say.
      batch: images a call.
      mesh: to split batches over.

    Raises:
      ValueError: no such file; several extractors, or another one or another protocol than the file's.
    """
    if len(scoring.compared) != 1:
        raise ValueError(f"--reference={path} is of one extractor, got --features={','.join(scoring.compared)}")
    name, = scoring.compared
    found = metrics.references.load(path, name)
    marks = evaluation.marks(extractors[name])
    metrics.references.check(found, {"extractor": marks.pop("name"), **marks}, stated=protocol)
    arrays = dict(found.arrays)
    if found.images and any(evaluation.needs(criterion).rows for criterion in scoring.criteria.values()):
        seen = looked(evaluation.pictures.opened(path), {name: extractors[name]}, scoring.outputs, batch, mesh)
        arrays = {key: array for key, array in evaluation.whole(seen, name).arrays.items() if key != "spatial"}
    n = len(arrays["features"]) if "features" in arrays else found.n
    about = {"file": str(path), "file_sha256": found.sha256, "n": found.n, **found.protocol}
    return Against({name: Side(n, arrays, found.moments, where=str(path))}, {}, {}, about)


def pictured(path: str, extractors: Mapping[str, Any], outputs: tuple[str, ...], *, batch: int | None = None,
             mesh: Any = None, beat: Callable = lambda: None) -> Against:
    """Returns a folder or an .npz of images as the reference.

    Raises:
      ValueError: there are none, or broken ones.
    """
    source = evaluation.pictures.opened(path)
    real = _sides(looked(source, extractors, outputs, batch, mesh, lambda count: beat()), extractors, str(path))
    return Against(real, {}, {}, {"images": str(path), "n": next(iter(real.values())).n})


def is_pictures(path: str) -> bool:
    """Returns whether a reference is images, rather than statistics of some."""
    place = Path(path).expanduser()
    if place.is_dir():
        return True
    if place.suffix != ".npz" or not place.is_file():
        return False
    with np.load(place, allow_pickle=False) as file:
        return "mu" not in file and any(key in file for key in evaluation.pictures.KEYS)


def _seen(source: Any, extractors: Mapping[str, Any], outputs: tuple[str, ...], folder: Any, batch: int | None,
          mesh: Any, beat: Callable, leaving: Callable[[], bool]) -> dict[str, np.ndarray]:
    parts = evaluation.Parts(folder, writes=processes.leads())
    start = int(processes.exchange("reference", str(parts.read() if processes.leads() else 0))[0])
    if start and not processes.leads():
        parts.read()
    rows = evaluation.look(extractors, evaluation.pictures.examples(source, start), outputs=outputs,
                           batch=fitting(batch or BATCH, mesh), mesh=mesh)
    gathered(rows, parts, beat, leaving)
    parts.write()
    return parts.taken()


def looked(source: Any, extractors: Mapping[str, Any], outputs: tuple[str, ...], batch: int | None, mesh: Any,
           tell: Callable = lambda count: None) -> dict[str, np.ndarray]:
    """Returns what extractors see of all images of a source; `tell` hears how many of every batch."""
    seen = []
    for count, arrays in evaluation.look(
            extractors, evaluation.pictures.examples(source), outputs=outputs, batch=fitting(batch or BATCH, mesh),
            mesh=mesh):
        seen.append(arrays)
        tell(count)
    return {name: np.concatenate([arrays[name] for arrays in seen]) for name in seen[0]}


def size(source: Any) -> int:
    """Returns how many examples a source has."""
    return len(source["image"]) if isinstance(source, Mapping) else len(source)


def _sides(arrays: Mapping[str, np.ndarray], extractors: Mapping[str, Any], where: str) -> dict[str, Side]:
    return {name: evaluation.whole(arrays, name, where) for name in extractors}


def fitting(batch: int, mesh: Any) -> int:
    """Returns the batch, enlarged until it divides over a mesh."""
    parts = 1 if mesh is None else mesh.size
    return -(-batch // parts) * parts
