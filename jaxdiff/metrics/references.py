"""Files of statistics of real images: our own, which say how they were made, and the published ones, which do not.

    ours, pytorch-fid, clean-fid, EDM, TTUR   .npz  mu [d], sigma [d, d]; ours also n, mu_s, sigma_s, features, protocol
    clean-fid's for KID                       .npz  feats [n, d]
    ADM                                       .npz  mu, sigma, mu_s, sigma_s of the whole data set; beside them, 10,000
                                                    images arr_0 for precision and recall, too few for any other use
    MeanFlow, jax-fid                         .npz  ref_mu, ref_sigma
    EDM2                                      .pkl  {"fid": {mu, sigma}, "fd_dinov2": {mu, sigma}, "num_images"}

A distance between features that were made in two ways is no distance: `check` refuses it.
"""

import dataclasses
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from jaxdiff import foreign
from jaxdiff.metrics.gaussian import Moments, moments

__all__ = ["FIELDS", "Reference", "check", "load", "save"]

FIELDS = ("extractor", "sha256", "protocol", "resolution", "split")
PAIRS = ("mu", "sigma"), ("ref_mu", "ref_sigma")
DETECTORS = {"inception": "fid", "dinov2": "fd_dinov2"}  # of EDM2


@dataclasses.dataclass(frozen=True, eq=False)
class Reference:
    """What is known of real images under one extractor.

    Attributes:
      n: of images; None where a file does not say.
      moments: of "features" and perhaps "spatial".
      arrays: "features" [n, d] float32, where they are kept.
      protocol: those of `FIELDS` that are known, and `data`.
      images: whether the file also holds images.
      source: where it was read.
      sha256: of the file.
    """

    n: int | None
    moments: Mapping[str, Moments]
    arrays: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    protocol: Mapping[str, str] = dataclasses.field(default_factory=dict)
    images: bool = False
    source: str = ""
    sha256: str = ""


def save(path: Any, reference: Reference) -> None:
    """Writes an .npz, whole or not at all; every tool that reads `mu` and `sigma` reads it too.

    Args:
      path: ends in .npz; its folder is made where there is none.
      reference: what is written, but for its `source` and `sha256`.

    Raises:
      ValueError: another ending, by which `load` would not know it.
    """
    place = epath.Path(path)
    if place.suffix != ".npz":
        raise ValueError(f"statistics are written as .npz, got {str(path)!r}")
    arrays = {"protocol": np.array(json.dumps(dict(reference.protocol))), **reference.arrays}
    for name, (mean, cov) in {"features": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}.items():
        if name in reference.moments:
            arrays |= {mean: reference.moments[name].mean, cov: reference.moments[name].cov}
    if reference.n is not None:
        arrays["n"] = np.array(reference.n)
    data = io.BytesIO()
    np.savez(data, allow_pickle=False, **arrays)
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.parent / f".{place.name}"
    partial.write_bytes(data.getvalue())
    partial.replace(place)


def load(path: Any, extractor: str = "inception") -> Reference:
    """Reads a file of statistics; nothing in it is run.

    Args:
      path: .npz or .pkl.
      extractor: whose statistics, where a file has those of several (EDM2).

    Raises:
      ValueError: no such file, a damaged one, images alone, or another layout.
    """
    place = Path(path).expanduser()
    if not place.is_file():
        raise ValueError(f"--reference={path}: no such file; `jaxdiff reference` makes one, or name a published one")
    if place.suffix == ".npz":
        reference = _of_npz(place)
    elif place.suffix in (".pkl", ".pickle"):
        reference = _of_pickle(place, extractor)
    else:
        raise ValueError(f"--reference={path}: statistics are .npz or .pkl, got {place.suffix!r}")
    for name, rows in reference.arrays.items():
        if rows.shape != (reference.n, reference.moments[name].mean.size):
            raise ValueError(f"--reference={path}: {name} {list(rows.shape)} do not fit n = {reference.n} and moments "
                             f"{list(reference.moments[name].mean.shape)}")
    for name, held in reference.moments.items():
        d = held.mean.size
        if held.mean.shape != (d,) or held.cov.shape != (d, d) or not (
                np.isfinite(held.mean).all() and np.isfinite(held.cov).all()):
            raise ValueError(f"--reference={path}: moments of {name} should be finite [d] and [d, d], got "
                             f"{list(held.mean.shape)} and {list(held.cov.shape)}")
    return dataclasses.replace(reference, source=str(path), sha256=foreign.sha256(place))


def check(reference: Reference, made: Mapping[str, Any], *, stated: str | None = None) -> None:
    """Refuses features that were not made as the reference's were.

    What one side does not know is not compared, but for the protocol, which somebody has to say.

    Args:
      reference: from `load`.
      made: those of `FIELDS` that are known of the samples' features.
      stated: the protocol of a file that does not say, by the user.

    Raises:
      ValueError: fields that differ, all of them; a protocol that neither the file nor the user states.
    """
    held = {field: reference.protocol.get(field) for field in FIELDS}
    if held["protocol"] and stated and stated != held["protocol"]:
        raise ValueError(f"--reference_protocol={stated}: {reference.source} says that it was made with "
                         f"{held['protocol']}")
    held["protocol"] = held["protocol"] or stated
    if not held["protocol"]:
        raise ValueError(f"{reference.source} does not say how its images were prepared, and two protocols are not "
                         "comparable: --reference_protocol=tf1 (TTUR, ADM, EDM, EDM2, StyleGAN, torch-fidelity, "
                         "MeanFlow), half_pixel (pytorch-fid), clean (clean-fid) or edm2 (EDM2's FD-DINOv2) says it")
    apart = [f"{field} {held[field]}, and the samples {made[field]}" for field in FIELDS
             if held[field] and made.get(field) and str(held[field]) != str(made[field])]
    if apart:
        raise ValueError(f"{reference.source} has {'; '.join(apart)}: their distance would mean nothing")


def _of_npz(path: Path) -> Reference:
    try:
        with np.load(path, allow_pickle=False) as file:
            names = set(file.files)
            arrays = {name: file[name] for name in names - {"arr_0", "arr_1"}}
    except Exception as error:  # numpy raises whatever a damaged archive leads it to
        raise ValueError(f"--reference={path} is damaged, or no .npz of numbers: {error}") from error
    rows = arrays["features"] if "features" in names else arrays.get("feats")
    n = int(arrays["n"]) if "n" in names else None if rows is None else len(rows)
    pair = next((pair for pair in PAIRS if names.issuperset(pair)), None)
    if pair:
        held = {"features": _moments(n, *(arrays[name] for name in pair))}
    elif rows is not None:
        held = {"features": moments(rows)}
    elif "arr_0" in names:
        raise ValueError(f"--reference={path} holds images and no statistics: --images={path} judges them, and "
                         f"`jaxdiff reference --data={path}` makes statistics of them")
    else:
        raise ValueError(f"--reference={path} has no mu and sigma, only {', '.join(sorted(names)) or 'nothing'}")
    if {"mu_s", "sigma_s"} <= names:
        held["spatial"] = _moments(n, arrays["mu_s"], arrays["sigma_s"])
    protocol = json.loads(str(arrays["protocol"])) if "protocol" in names else {}
    return Reference(n, held, {} if rows is None else {"features": rows}, protocol, images="arr_0" in names)


def _of_pickle(path: Path, extractor: str) -> Reference:
    held = foreign.read(path)
    known = [name for name in DETECTORS.values() if name in held] if isinstance(held, Mapping) else []
    if not known:
        raise ValueError(f"--reference={path} has no statistics of EDM2's layout, {{'fid': {{'mu', 'sigma'}}}}")
    wanted = DETECTORS.get(extractor, extractor)
    if wanted not in known:
        raise ValueError(f"--reference={path} has statistics of {', '.join(known)}, and none of {extractor}")
    if not isinstance(held[wanted], Mapping) or not {"mu", "sigma"} <= set(held[wanted]):
        raise ValueError(f"--reference={path} has no mu and sigma in {wanted!r}")
    n = int(held["num_images"]) if "num_images" in held else None
    return Reference(n, {"features": _moments(n, held[wanted]["mu"], held[wanted]["sigma"])})


def _moments(n: int | None, mean: Any, cov: Any) -> Moments:
    return Moments(n, np.asarray(mean, np.float64), np.asarray(cov, np.float64))
