"""The accelerators one can ask for, by the names that Google's API, SkyPilot and xpk share.

Names of v2 to v4, v5p and tpu7x count cores, those of v5litepod and v6e count chips.  A VM is a process of jax.
Sources: docs.cloud.google.com/tpu (versions, runtime images), xpk 1.16.0's table of systems, libtpu's device counts;
tests/launch/test_accelerators.py compares them.
"""

import dataclasses
import difflib
import math
import re

__all__ = ["Accelerator", "gpu", "names", "tpu"]


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """A slice of a TPU, or the GPUs of one node.

    Attributes:
      name: such as v5litepod-16, or H100:8.
      chips: of a slice, or of a node.
      vms: hosts of a slice, each a process; 1 for a node of GPUs.
      devices: what jax sees of a slice or node, all hosts together.
      topology: what `jaxdiff plan` takes, such as v5e:4x4; empty for GPUs.
      bounds: chips of a host, x, y, z, where they are not libtpu's own.
      runtime: image of the Cloud TPU API; empty where that API has none.
      engines: who can make it.
    """

    name: str
    chips: int
    vms: int
    devices: int
    topology: str = ""
    bounds: tuple[int, ...] = ()
    runtime: str = ""
    engines: tuple[str, ...] = ()

    @property
    def is_tpu(self) -> bool:
        """Whether it is a TPU."""
        return bool(self.topology)


@dataclasses.dataclass(frozen=True)
class _Family:
    topology: str  # its name to libtpu
    per_chip: int  # what the number in a name counts of a chip
    devices: int  # of jax, a chip
    shapes: tuple[str, ...]
    runtime: str
    engines: tuple[str, ...]


ALL = ("sky", "xpk", "gcloud")
FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16")
FAMILIES = {
    "v2": _Family("v2", 2, 2, ("2x2", "4x4", "8x8", "8x16", "16x16"), "tpu-ubuntu2204-base", ("sky", "gcloud")),
    "v3": _Family("v3", 2, 2, ("2x2", "4x4", "4x8", "8x8", "8x16", "16x16", "16x32", "32x32"), "tpu-ubuntu2204-base",
                  ("sky", "gcloud")),
    "v4": _Family("v4", 2, 1, CUBES, "tpu-ubuntu2204-base", ALL),
    "v5litepod": _Family("v5e", 1, 1, FLAT, "v2-alpha-tpuv5-lite", ALL),
    "v5p": _Family("v5p", 2, 1, CUBES, "v2-alpha-tpuv5", ALL),
    "v6e": _Family("v6e", 1, 1, FLAT, "v2-alpha-tpuv6e", ALL),
    "tpu7x": _Family("tpu7x", 2, 2, ("1x1x1", *CUBES[:-1]), "", ("xpk",)),
}
# What xpk calls a node of eight; other clouds and SkyPilot go by the first name.
GPUS = {"H100": "h100-mega-80gb", "H200": "h200-141gb", "B200": "b200", "A100": "", "A100-80GB": "", "L4": "",
        "V100": "", "T4": "", "A10G": "", "L40S": ""}


def _slice(family: str, shape: str) -> Accelerator:
    about = FAMILIES[family]
    sides = tuple(int(side) for side in shape.split("x"))
    chips = math.prod(sides)
    one_host = chips <= 4 or (about.shapes is FLAT and chips == 8)  # eight v5e or v6e are one VM of that API
    bounds: tuple[int, ...] = ()
    if chips == 1:
        bounds = (1, 1, 1)
    elif one_host and chips == 8:
        bounds = (2, 4, 1)
    engines = about.engines
    if (family, chips) == ("v5litepod", 1) or (family, chips) == ("v5litepod", 4):
        engines = ("sky", "gcloud")
    return Accelerator(f"{family}-{chips * about.per_chip}", chips, 1 if one_host else chips // 4,
                       chips * about.devices, f"{about.topology}:{shape}", bounds, about.runtime, engines)


TPUS = {made.name: made for family, about in FAMILIES.items() for made in (_slice(family, s) for s in about.shapes)}


def names() -> tuple[str, ...]:
    """Returns the names of all TPU slices."""
    return tuple(TPUS)


def tpu(name: str) -> Accelerator:
    """Returns a slice by its name.

    Raises:
      ValueError: there is none of that name; the nearest, and the sizes of its family.
    """
    if name in TPUS:
        return TPUS[name]
    asked = re.sub(r"^(tpu-)?v5e-", "v5litepod-", name.lower()).removeprefix("tpu-")
    family = asked.rpartition("-")[0]
    near = [asked] if asked in TPUS else difflib.get_close_matches(asked, TPUS, n=1)
    sizes = ", ".join(known for known in TPUS if known.rpartition("-")[0] == family)
    raise ValueError(f"--tpu={name}: no TPU of that name" + (f"; did you mean {near[0]}?" if near else "")
                     + (f"  There are {sizes}." if sizes else f"  Families: {', '.join(FAMILIES)}."))


def gpu(text: str) -> Accelerator:
    """Returns the GPUs of one node, of `NAME:COUNT`.

    Raises:
      ValueError: it is not of that form, or no known name.
    """
    name, _, count = text.partition(":")
    if not re.fullmatch("[1-9][0-9]?", count):
        raise ValueError(f"--gpu={text}: give a name and how many a node has, such as H100:8")
    if name not in GPUS:
        near = difflib.get_close_matches(name.upper(), GPUS, n=1)
        raise ValueError(f"--gpu={text}: no GPU of that name" + (f"; did you mean {near[0]}:{count}?" if near else "")
                         + f"  There are {', '.join(GPUS)}.")
    number = int(count)
    engines = ("sky", "xpk") if GPUS[name] and number == 8 else ("sky",)
    return Accelerator(text, number, 1, number, engines=engines)
