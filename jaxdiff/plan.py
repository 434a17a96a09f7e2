"""What a program will take of a TPU, before there is one: it is compiled for the topology and its text is read.

A step cannot be faster than any of

    compute        matrix FLOPs of all that runs, recomputation included, at the peak of bfloat16
    memory         bytes read and written in HBM at its bandwidth
    interconnect   bytes that a chip sends to its neighbours, over all of its links at once
    slices         bytes that it sends to other slices, over the data center's network

so that the largest of these is a bound, which no program reaches: they overlap in part, and no unit is always busy.
"""

import dataclasses
import math
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.extend.core import jaxpr_as_fun

from jaxdiff import flops, hlo
from jaxdiff.build import nearest

__all__ = ["CHIPS", "Chip", "Topology", "held", "largest", "measured", "roofline", "topology"]

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """A TPU chip."""

    flops: float  # bfloat16 FLOP/s
    hbm: float  # bytes that a program may use
    bandwidth: float  # bytes/s of HBM
    links: float  # bytes/s that all links to neighbours send
    network: float | None  # bytes/s to other slices
    axes: int  # of its topologies
    devices: int = 1  # JAX devices that libtpu's topologies have for a chip
    verified: bool = True


# HBM's bandwidth and networks: docs.cloud.google.com/tpu/docs/v4, /v5e, /v5p, /v6e, /tpu7x (November 2026).
# Links have half of its "bidirectional" figure, of v4 6 x 50 GB/s (Jouppi et al. 2023).  Usable HBM: what libtpu
# 0.0.42.1 says is "available" when a program is too large.  Nothing of tpu7x was seen outside that page.
CHIPS = {
    "v4": Chip(flops.CHIPS["v4"], 30.5 * GIB, 1.2e12, 300e9, None, 3, devices=2),
    "v5e": Chip(flops.CHIPS["v5e"], 15.75 * GIB, 819e9, 200e9, 3.1e9, 2),
    "v5p": Chip(flops.CHIPS["v5p"], 95.74 * GIB, 2.765e12, 600e9, 6.25e9, 3),
    "v6e": Chip(flops.CHIPS["v6e"], 31.25 * GIB, 1.6e12, 400e9, 12.5e9, 2),
    "tpu7x": Chip(flops.CHIPS["tpu7x"], 189.5 * GIB, 7.38e12, 600e9, 12.5e9, 3, devices=2, verified=False),
}
KNOWN = ("v4:2x2x1", "v4:2x2x2", "v4:2x2x4", "v5e:1x1", "v5e:2x2", "v5e:2x4", "v5e:4x4", "v5e:8x8", "v5e:16x16",
         "v5p:2x2x1", "v5p:2x2x2", "v5p:2x2x4", "v6e:1x1", "v6e:2x2", "v6e:2x4", "v6e:4x4", "v6e:8x8", "v6e:16x16",
         "tpu7x:2x2x1", "tpu7x:2x2x2", "tpu7x:2x2x4")


@dataclasses.dataclass(frozen=True)
class Topology:
    """The chips of a slice."""

    name: str
    chip: Chip
    sizes: tuple[int, ...]
    bounds: tuple[int, ...]  # chips of a host

    @property
    def chips(self) -> int:
        """How many there are."""
        return math.prod(self.sizes)


def topology(name: str, bounds: tuple[int, ...] | None = None) -> Topology:
    """Returns the topology of a name such as `v5e:4x4`.

    Args:
      name: of a chip, and the sizes of a slice.
      bounds: chips of a host; 2 x 2 x 1 by default, and 1 x 1 x 1 of one chip.

    Raises:
      ValueError: an unknown name, or sizes that hosts do not divide.
    """
    kind, _, text = name.partition(":")
    sizes = tuple(int(size) for size in text.split("x")) if re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", text) else ()
    if kind not in CHIPS or len(sizes) != CHIPS[kind].axes:
        near = [known for known in KNOWN if known.startswith(f"{kind}:")] or KNOWN
        raise ValueError(f"there is no topology {name!r}{nearest(name, near)}")
    whole = (*sizes, 1, 1)[:3]
    host = bounds or ((1, 1, 1) if math.prod(sizes) == 1 else (2, 2, 1))
    if len(host) != 3 or any(size < 1 or whole[axis] % size for axis, size in enumerate(host)):
        raise ValueError(f"hosts of {_times(host)} chips do not divide {name}; "
                         f"--host_bounds={','.join(map(str, whole))} is one host")
    return Topology(name, CHIPS[kind], sizes, host)


def _times(sizes: tuple[int, ...]) -> str:
    return " x ".join(map(str, sizes))


# Compiling, and reading what comes of it.


def measured(traced: Any, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Lowers and compiles a program, and reads it.

    Args:
      traced: a `jax.stages.Traced`, from `jax.jit(f).trace(*shapes)`; its shapes have shardings over the topology.
      options: of the compiler.

    Returns:
      JSON values: `flops` of matrices over all devices, `lower_s`, `compile_s` and `cpu_s`; of a program that fits in
      the compiler's eyes `memory` (bytes a device), `hbm_bytes` it reads and writes, `collectives` by kind and
      `unknown_loops`; of one that does not `exhausted`, with what it `needs` and the `limit` where the compiler says.
    """
    begun, cpu = time.perf_counter(), time.process_time()
    told: dict[str, Any] = {"flops": 2 * flops.count(jaxpr_as_fun(traced.jaxpr), *traced.jaxpr.in_avals)}
    lowered = traced.lower()
    told["lower_s"] = time.perf_counter() - begun
    try:
        compiled = lowered.compile(compiler_options=dict(options or {}))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        told["exhausted"] = _exhausted(str(error))
    told["compile_s"] = time.perf_counter() - begun - told["lower_s"]
    told["cpu_s"] = time.process_time() - cpu
    return told if "exhausted" in told else told | _read(compiled)


def _read(compiled: Any) -> dict[str, Any]:
    memory = compiled.memory_analysis()
    sizes = {name: int(getattr(memory, f"{long}_size_in_bytes")) for name, long in (
        ("arguments", "argument"), ("output", "output"), ("alias", "alias"), ("temporaries", "temp"),
        ("code", "generated_code"))}
    found = hlo.costs(compiled.as_text())
    moved = {kind: dataclasses.asdict(value) for kind, value in found.moved.items() if value.times}
    return {"memory": sizes, "hbm_bytes": found.memory, "collectives": moved, "unknown_loops": list(found.unknown)}


def _exhausted(message: str) -> dict[str, Any]:
    """Returns what the compiler says of a program that is too large."""
    found = re.search(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm", message) or re.search(
        r"\(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)", message)
    bytes_of = lambda number, unit: float(number) * 1024 ** " KMGT".index(unit or " ")
    needs, limit = (bytes_of(*found.groups()[:2]), bytes_of(*found.groups()[2:])) if found else (None, None)
    return {"needs": needs, "limit": limit, "message": " ".join(message.split())[:300]}


def held(told: Mapping[str, Any]) -> float | None:
    """Returns the bytes of a device that a program needs at once; None where the compiler only says: too many."""
    if "exhausted" in told:
        return told["exhausted"]["needs"]
    memory = told["memory"]
    return memory["arguments"] + memory["output"] - memory["alias"] + memory["temporaries"] + memory["code"]


def roofline(told: Mapping[str, Any], chip: Chip, devices: int) -> dict[str, Any]:
    """Returns the seconds that a program takes at least, by what takes them.

    Args:
      told: of `measured`, of a program that fits.
      chip: what runs it.
      devices: over which the FLOPs are spread.

    Returns:
      `compute_s`, `memory_s`, `interconnect_s`, `slices_s` (None where the network is not known), the largest as
      `step_s`, and its name as `bound`.
    """
    moved = {kind: value["wire"] for kind, value in told["collectives"].items()}
    across = moved.pop(hlo.BETWEEN_SLICES, 0.0)
    seconds = {
        "compute": told["flops"] / devices * chip.devices / chip.flops,
        "memory": told["hbm_bytes"] * chip.devices / chip.bandwidth,
        "interconnect": sum(moved.values()) * chip.devices / chip.links,
        "slices": across * chip.devices / chip.network if chip.network else None if across else 0.0,
    }
    bound = max(seconds, key=lambda name: seconds[name] or 0.0)
    return {**{f"{name}_s": value for name, value in seconds.items()}, "step_s": seconds[bound], "bound": bound}


# The largest batch.


def largest(needs: Callable[[int], float | None], *, first: int, granule: int, limit: float,
            most: int = 6) -> dict[str, Any]:
    """Returns the largest batch that fits, by few compiles: two, a line through them, and one to check.

    Memory is a line in the batch but for what the compiler changes when it gets tight; then the line is drawn again,
    between the nearest batches that fit and that do not.

    Args:
      needs: `batch -> bytes` of a device; None where it is too much and nothing more is known.
      first: a batch to begin with.
      granule: what a batch must be a multiple of.
      limit: bytes of a device.
      most: calls of `needs`.

    Returns:
      `batch` (0 where none fits), `tried` [batch, bytes or None], and `exact`: whether the next larger one is known or
      predicted not to fit.
    """
    known: dict[int, float] = {}
    guess: int | None = max(granule, first // granule * granule)
    while guess is not None and guess not in known and len(known) < most:
        answer = needs(guess)
        known[guess] = math.inf if answer is None else answer
        guess = _guess(known, granule, limit)
    fits = [batch for batch in known if known[batch] <= limit]
    return {"batch": max(fits, default=0), "exact": guess is None or guess in known,
            "tried": [[batch, None if math.isinf(size) else size] for batch, size in sorted(known.items())]}


def _guess(known: Mapping[int, float], granule: int, limit: float) -> int | None:
    """Returns the largest batch that should fit: by the line through the nearest that does and that does not, where
    there are both, and otherwise through the last two of a kind."""
    below = sorted(batch for batch in known if known[batch] <= limit)
    above = sorted(batch for batch in known if known[batch] > limit)
    lower, upper = max(below, default=0), min(above, default=math.inf)
    place = lower * _leap(known[lower], limit) if not above else (lower + upper) / 2  # where there is no line
    pair = [*below[-1:], *above[:1]] if below and above else below[-2:] or above[:2]
    if len(pair) == 2 and math.isfinite(known[pair[1]]) and known[pair[1]] > known[pair[0]]:
        one, two = pair
        place = one + (limit - known[one]) * (two - one) / (known[two] - known[one])
    found = int(max(lower, min(place // granule * granule, upper - granule)))
    return found if found >= granule else None


def _leap(needs: float, limit: float) -> float:
    """Returns how far to go for the second point of the line: some way, and not beyond the limit."""
    return max(2, min(8, limit // max(2 * needs, 1)))
