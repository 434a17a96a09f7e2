"""A config's plan: its programs, what they take, and the largest batch that fits."""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from jaxdiff import experiment, plan
from jaxdiff.planning import asking

__all__ = ["PROGRAMS", "planned"]

PROGRAMS = ("train", "sample")


def planned(config: ConfigDict, topology: str, *, slices: int = 1, bounds: tuple[int, ...] | None = None,
            effort: float | None = -1.0, image: Sequence[int] | None = None,
            conditions: Mapping[str, Sequence[int]] | None = None, programs: Sequence[str] = PROGRAMS,
            search: bool = True, platform: str | None = None, timeout: float = 3600.0, again: bool = False,
            say: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Compiles a config's train step and sampler for a topology, and says what they take.

    Args:
      config: a run's.
      topology: such as `v5e:4x4`.
      slices: of that topology.
      bounds: chips of a host.
      effort: of the compiler, from -1 (soon) to 1; None for its own.
      image: the shape of what the network sees, where neither the data nor the config tell it.
      conditions: shapes of its other conditions than classes.
      programs: some of `PROGRAMS`.
      search: look for the largest training batch, which takes two compiles more.
      platform: `tpu` or `cpu`; by default `tpu` where libtpu is.
      timeout: seconds for a compile.
      again: compile what was compiled before.
      say: is told of the progress.

    Returns:
      JSON values: `topology`, `chips`, `devices`, `slices`, `platform`, `effort`, `versions`, `chip`, `steps` of the
      run, `shapes_from`, `programs` (name -> see `plan.measured`, with `batch`, `held`, `fits`, `roofline` and
      `predicted`) and `largest`.

    Raises:
      ValueError: whatever is wrong with the config or the topology, before anything compiles.
    """
    place = plan.topology(topology, bounds)
    if slices < 1:
        raise ValueError(f"--slices must be at least 1, got {slices}")
    if effort is not None and not -1 <= effort <= 1:
        raise ValueError(f"--effort must be from -1 to 1, got {effort:g}")
    chosen = _platform(platform)
    example, source = experiment.expected(config, image, conditions)
    job = {"config": experiment.as_json(config), "topology": topology, "bounds": list(place.bounds), "slices": slices,
           "effort": effort if chosen == "tpu" else None, "platform": chosen,
           "example": experiment.described(example)}
    devices = place.chips * place.chip.devices * slices
    ask = _asker(job, devices, timeout, again, say or (lambda text: print(text, file=sys.stderr, flush=True)))
    wanted = [name for name in PROGRAMS if name in programs and (name == "train" or "process" in config)]
    made = {name: _judged(ask(name, config.batch if name == "train" else config.sample.batch), place.chip, devices)
            for name in wanted}
    told: dict[str, Any] = {
        "topology": topology, "chips": place.chips * slices, "devices": devices, "slices": slices, "platform": chosen,
        "effort": job["effort"], "versions": asking.versions(chosen), "shapes_from": source, "programs": made,
        "chip": {"limit": place.chip.hbm / place.chip.devices, "verified": place.chip.verified}, "largest": None,
        "steps": -(-config.train_images // config.batch),
    }
    if search and "train" in made and "failed" not in made["train"]:
        told["largest"] = _largest(ask, config, made["train"], told["chip"]["limit"])
    return told


def _platform(asked: str | None) -> str:
    found = asking.libtpu()
    if asked == "tpu" and found is None:
        raise ValueError("libtpu is not installed: pip install libtpu, or --platform=cpu for what a CPU can say")
    return asked or ("cpu" if found is None else "tpu")


def _asker(job: Mapping[str, Any], devices: int, timeout: float, again: bool,
           say: Callable[[str], None]) -> Callable[[str, int], dict[str, Any]]:
    """Returns `(program, batch) -> answer`, which tells of its progress."""
    where = f"{job['topology']}{'' if job['slices'] == 1 else ' x {}'.format(job['slices'])}"

    def ask(program: str, batch: int) -> dict[str, Any]:
        mine = {**job, "program": program, "batch": batch}
        say(f"{program}, batch {batch:,}, for {where}: asking")
        told = asking.answered(mine, devices=devices, timeout=timeout, again=again)
        if "failed" in told:
            say(f"{program}, batch {batch:,}: {told['failed']}")
        else:
            found = "from the cache; it had been " if told["cached"] else ""
            large = ", too large" if "exhausted" in told else ""
            say(f"{program}, batch {batch:,}: {found}lowered in {told['lower_s']:.1f} s, compiled in "
                f"{told['compile_s']:.1f} s{large}")
        return told | {"program": program, "batch": batch}

    return ask


def _judged(told: dict[str, Any], chip: plan.Chip, devices: int) -> dict[str, Any]:
    """Adds whether a program fits, what time it takes at least, and what that makes of images."""
    if "failed" in told:
        return told
    limit = chip.hbm / chip.devices
    needs = plan.held(told)
    told = told | {"held": needs, "fits": "exhausted" not in told and needs is not None and needs <= limit}
    if "exhausted" in told:
        return told
    line = plan.roofline(told, chip, devices)
    speed = told["batch"] / line["step_s"] if line["step_s"] else math.inf
    told |= {"roofline": line, "predicted": {"images_per_s_per_chip": speed * chip.devices / devices}}
    macs = told["macs"] if "macs" in told else None
    if macs:
        told["predicted"] |= {"model_flops": 6 * macs * told["batch"],
                              "mfu": 6 * macs * speed * chip.devices / (devices * chip.flops)}
    return told


def _largest(ask: Callable[[str, int], dict[str, Any]], config: ConfigDict, first: Mapping[str, Any],
             limit: float) -> dict[str, Any]:
    granule = math.prod(first["mesh"][axis] for axis in ("data", "fsdp")) * config.accumulate

    def needs(batch: int) -> float | None:
        told = first if batch == first["batch"] else ask("train", batch)
        if "failed" in told:
            raise _Stopped(told["failed"])
        return plan.held(told)

    try:
        return plan.largest(needs, first=first["batch"], granule=granule, limit=limit) | {"granule": granule}
    except _Stopped as stopped:
        return {"failed": str(stopped), "granule": granule}


class _Stopped(Exception):
    """A compile of the search that gave no answer."""
