"""A plan as lines to print."""

from collections.abc import Mapping
from typing import Any

__all__ = ["lines"]

GIB = 2**30


def lines(told: Mapping[str, Any]) -> list[str]:
    """Returns what `planned` found as lines to print."""
    out = [_head(told)]
    if told["platform"] == "cpu":
        out.append(_row("no TPU compiler", "compiled for virtual CPU devices: FLOPs, shardings and errors are a TPU's; "
                        "memory, bytes and collectives are of the CPU's program, which may compute in float32"))
    if not told["chip"]["verified"]:
        out.append(_row("unverified", "the speeds of this chip are its maker's, and were not compared with anything"))
    effort = "the compiler's own effort" if told["effort"] is None else f"effort {told['effort']:g}"
    for name, program in told["programs"].items():
        out += _program(name, program, told, effort)
    if told["largest"] is not None:
        out.append(_row("largest batch", _largest(told["largest"], effort)))
    overview = [program["overview"] for program in told["programs"].values() if "overview" in program]
    return [*out, *(line for text in overview for line in ("", *text.splitlines()))]


def _row(name: str, text: str) -> str:
    return f"{name:16}{text}"


def _size(count: float) -> str:
    return f"{count / GIB:,.2f} GiB" if count >= GIB / 10 else f"{count / 2**20:,.2f} MiB"


def _flop(count: float) -> str:
    return f"{count / 1e12:,.2f} T" if count >= 1e11 else f"{count / 1e9:,.2f} G"


def _time(seconds: float) -> str:
    scale, unit = (1, "s") if seconds >= 10 else (1e3, "ms") if seconds >= 1e-3 else (1e6, "µs")
    return f"{seconds * scale:,.1f} {unit}"


def _head(told: Mapping[str, Any]) -> str:
    meshes = [program["mesh"] for program in told["programs"].values() if "mesh" in program][:1]
    text = " x ".join(f"{axis} {size}" for axis, size in meshes[0].items()) if meshes else "no mesh"
    count = f"{told['chips']:,} chips" + ("" if told["devices"] == told["chips"] else f", {told['devices']:,} devices")
    slices = "" if told["slices"] == 1 else f" in {told['slices']} slices"
    made = ", ".join(f"{name} {version}" for name, version in told["versions"].items())
    return _row(told["topology"], f"{count}{slices}, mesh {text}; shapes from {told['shapes_from']}; {made}")


def _program(name: str, told: Mapping[str, Any], plan: Mapping[str, Any], effort: str) -> list[str]:
    if "failed" in told:
        return [_row(name, f"batch {told['batch']:,}: {told['failed']}")]
    cached = ", from the cache" if told["cached"] else ""
    out = [_row(name, f"batch {told['batch']:,}, lowered in {told['lower_s']:.1f} s, compiled in "
                      f"{told['compile_s']:.1f} s ({told['cpu_s']:.0f} s of CPU, {told['rss_gb']:.1f} GB){cached}"),
           _row("  memory", _memory(told, plan["chip"]["limit"], effort)),
           _row("  FLOPs", _flops(told, plan["devices"]))]
    if "exhausted" in told:
        return out
    out += [_row("  HBM", f"{_size(told['hbm_bytes'])} read and written by a device"),
            _row("  collectives", _collectives(told["collectives"]))]
    if told["unknown_loops"]:
        out.append(_row("  loops", f"turns not found of {', '.join(told['unknown_loops'])}: what is in them is counted "
                                   "once"))
    return [*out, _row("  roofline", _roofline(told["roofline"])), _row("  at most", _predicted(told))]


def _memory(told: Mapping[str, Any], limit: float, effort: str) -> str:
    verdict = "fits" if told["fits"] else "does not fit"
    needs = "more than there is" if told["held"] is None else _size(told["held"])
    text = f"{verdict}: {needs} of a device's {_size(limit)} at {effort}"
    if "exhausted" in told:
        return f"{text} ({told['exhausted']['message']})"
    memory = told["memory"]
    sizes = {name: memory[name] for name in ("arguments", "temporaries", "code")}
    sizes["results beside the arguments"] = memory["output"] - memory["alias"]
    return f"{text}: " + ", ".join(f"{name} {_size(size)}" for name, size in sizes.items())


def _flops(told: Mapping[str, Any], devices: int) -> str:
    text = f"{_flop(told['flops'])} of matrices, {_flop(told['flops'] / devices)} a device"
    if "predicted" not in told or "model_flops" not in told["predicted"]:
        return text
    model = told["predicted"]["model_flops"]
    return f"{text}; {told['flops'] / model:.2f} times 3 x forward of the network for each example, {_flop(model)}"


def _collectives(moved: Mapping[str, Any]) -> str:
    if not moved:
        return "none"
    whole = sum(value["payload"] for value in moved.values())
    return f"{_size(whole)} a device: " + ", ".join(
        f"{kind} {_size(value['payload'])} ({value['times']:,} x)" for kind, value in moved.items())


def _roofline(line: Mapping[str, Any]) -> str:
    names = ("compute", "memory", "interconnect", "slices")
    known = {name: line[f"{name}_s"] for name in names if line[f"{name}_s"] or name != "slices"}
    text = ", ".join(f"{name} {'unknown' if value is None else _time(value)}" for name, value in known.items())
    return f"{text}: at least {_time(line['step_s'])}, by {line['bound']}"


def _predicted(told: Mapping[str, Any]) -> str:
    text = f"{told['predicted']['images_per_s_per_chip']:,.1f} img/s/chip"
    return f"{text}, MFU {told['predicted']['mfu']:.0%}" if "mfu" in told["predicted"] else text


def _largest(found: Mapping[str, Any], effort: str) -> str:
    if "failed" in found:
        return found["failed"]
    tried = ", ".join(f"{batch:,} {'too much' if size is None else _size(size)}"
                      for batch, size in found["tried"])
    verdict = f"{found['batch']:,}" if found["batch"] else f"none fits, not even {found['granule']:,}"
    return f"{verdict}{'' if found['exact'] else ' or more'}, in steps of {found['granule']:,}, at {effort} ({tried})"
