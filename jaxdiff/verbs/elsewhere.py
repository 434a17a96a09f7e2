"""Images from elsewhere: judged as samples are, or made into a file to compare with."""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdiff import checkpoint, data, experiment, hooks, metrics, tables
from jaxdiff import evaluate as evaluation
from jaxdiff import mesh as meshes
from jaxdiff.verbs import against as comparing
from jaxdiff.verbs.judging import environment, figures

__all__ = ["evaluate_images", "refer"]

DEFAULT = ("inception",)


def evaluate_images(images: str, reference: str | None, *, features: Sequence[str] | None = None,
                    criteria: Sequence[str] | None = None, weights: str | None = None, protocol: str | None = None,
                    reference_protocol: str | None = None, batch: int | None = None, out: Any = None) -> int:
    """Appends a row on a folder or an .npz of images, and prints it; returns the exit status.

    Args:
      images: whose they are does not matter.
      reference: a file of statistics, a folder or an .npz of images.
      features, criteria, weights, protocol: of the extractors; by default those of the file.
      reference_protocol: of a file that does not say.
      batch: images a call.
      out: where the row goes; `eval/results.jsonl` by default.

    Raises:
      ValueError: images or a reference that are not there, are broken, or cannot be compared.
    """
    if reference is None:
        raise ValueError("--images needs --reference: statistics by `jaxdiff reference`, a published .npz, or a folder "
                         "of real images")
    checkpoint.hush()
    features, protocol = comparing.asked(reference, features, protocol, reference_protocol)
    extractors = experiment.extractors_of(features or DEFAULT, weights=weights, protocol=protocol)
    chosen = experiment.criteria_of(criteria or ("fid",))
    source = evaluation.pictures.opened(images)
    shape, labels = evaluation.pictures.first(source)
    scoring = experiment.Scoring(extractors, chosen, tuple(extractors), None, 2, 0, False, None, {}, None)
    given = scoring.given(shape, labels=labels)
    mesh = meshes.make_mesh()
    placed = evaluation.placed(extractors, mesh)
    if comparing.is_pictures(reference):
        against = comparing.pictured(reference, placed, scoring.outputs, batch=batch, mesh=mesh)
    else:
        against = comparing.filed(reference, placed, scoring, protocol=reference_protocol, batch=batch, mesh=mesh)
    against.fits(shape)
    against.check(chosen, given)
    begun = time.monotonic()
    arrays = _seen(source, placed, scoring.outputs, batch, mesh)
    seconds = time.monotonic() - begun
    n = comparing.size(source)
    about: dict[str, Any] = {
        "images": images, "n": {"made": n, "real": against.about["n"]}, "reference": against.about,
        "extractors": {name: evaluation.marks(extract) for name, extract in extractors.items()},
        "criteria": sorted(map(repr, chosen.values())), "shape": list(shape)}
    row = {"cell": evaluation.identity(about), **about, "metrics": {}, "matmul_precision": "highest", **environment(),
           "seconds": round(seconds, 3), "images_per_second": round(n / max(seconds, 1e-9), 2)}
    for name in extractors:
        row["metrics"] |= figures(scoring, evaluation.whole(arrays, name, images), against, name)
    path = out or Path("eval") / "results.jsonl"
    row = evaluation.append(path, row)
    print("\n".join([*tables.summary(row), f"  appended to {path}"]))
    return 0


def refer(what: str | Mapping[str, Any], out: Any, *, features: Sequence[str] | None = None, weights: str | None = None,
          protocol: str | None = None, split: str = "", batch: int | None = None, moments_only: bool = False) -> str:
    """Writes moments and features of real images to an .npz, with the protocol; returns what to say of it.

    Args:
      what: a folder or an .npz of images, or a part of `jaxdiff.data`.
      out: the file.
      features, weights, protocol: of the one extractor.
      split: whose images these are.
      batch: images a call.
      moments_only: leave out the features.

    Raises:
      ValueError: several extractors, or no images.
    """
    names = features or DEFAULT
    if len(names) != 1:
        raise ValueError(f"a file of statistics is of one extractor, got --features={','.join(names)}")
    checkpoint.hush()
    extractors = experiment.extractors_of(names, weights=weights, protocol=protocol)
    (name, extract), = extractors.items()
    source = evaluation.pictures.opened(what) if isinstance(what, str) else experiment.build(what, data)
    shape, _ = evaluation.pictures.first(source)
    mesh = meshes.make_mesh()
    outputs = ("features", "spatial")
    arrays = evaluation.whole(_seen(source, evaluation.placed(extractors, mesh), outputs, batch, mesh), name).arrays
    marks = evaluation.marks(extract)
    reference = metrics.references.Reference(
        comparing.size(source), {key: metrics.moments(arrays[key]) for key in outputs if key in arrays},
        {} if moments_only else {"features": arrays["features"].astype(np.float32)},
        {"extractor": marks["name"], "sha256": marks["sha256"], "protocol": marks["protocol"],
         "resolution": f"{shape[0]}x{shape[1]}", "split": split, "data": str(what)})
    metrics.references.save(out, reference)
    return (f"{out}: {name} ({marks['protocol']}) of {comparing.size(source):,} images of "
            f"{shape[0]}x{shape[1]}; jaxdiff evaluate --reference={out} compares with it")


def _seen(source: Any, extractors: Mapping[str, Any], outputs: tuple[str, ...], batch: int | None,
          mesh: Any) -> dict[str, np.ndarray]:
    """Returns what extractors see of a source's images, with a bar on a terminal."""
    with hooks.tqdm(total=comparing.size(source), unit="img", disable=not sys.stderr.isatty()) as bar:
        return comparing.looked(source, extractors, outputs, batch, mesh, tell=bar.update)
