"""Compiles every named size ahead of time for 16 TPU v5e, its train step and its sampler, and writes docs/networks.md.

Nothing runs: no TPU is asked for, `libtpu` compiles for the topology v5e:4x4 on the CPU.  Every compile is a process
of its own, one at a time, at the least effort of the compiler (-1), which finds the memory and not the fastest
program.  Results go to docs/networks.jsonl, a line each; what is there and whose config has not changed is kept.

    parameters   all that is trained, exactly
    GMAC         multiply-adds of the network for one image, counted in its jaxpr; the papers' "Gflops"
    CPU s        of lowering and compiling, over all threads
    RSS          most memory of the process
    state, temp  of one chip: what the program is given, and what it needs besides while it runs

Command: make networks-table   (about two hours on 2 CPU cores; ARGS=--only=dit for some, ARGS=--again for all anew,
ARGS=--write for the page alone)
"""

import argparse
import datetime
import hashlib
import importlib.util
import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE, LINES = ROOT / "docs" / "networks.md", ROOT / "docs" / "networks.jsonl"
START, END = "<!-- written by python -m benchmarks.networks_table -->", "<!-- until here -->"
HEAD = ("| config | parameters | GMAC | program | batch | mesh | CPU s | RSS GB | state GiB | temp GiB |\n"
        "|---|---|---|---|---|---|---|---|---|---|")
FAMILIES = ("dit", "jit", "uvit", "mmdit", "edm", "adm", "stable", "edm2")
PROGRAMS = ("train", "sample")
TOPOLOGY, CHIP_GIB = "v5e:4x4", 16
EFFORT = {"exec_time_optimization_effort": -1.0, "memory_fitting_effort": -1.0}
LIMIT = 3_600  # seconds a compile
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TF_CPP_MIN_LOG_LEVEL": "2",
}
COMPILED = ("network", "process", "parameterization", "objective", "prepare", "data", "batch", "accumulate",
            "optimizer", "clip_norm", "project", "ema", "mesh", "sampler", "times", "guidance")
SHAPES = {  # of a sample, where the config's data do not tell
    "cifar10": (32, 32, 3), "data/latents/imagenet_256": (32, 32, 4), "data/latents/imagenet_512": (64, 64, 4),
    "data/latents/text_512": (64, 64, 4), "data/latents/text_768": (96, 96, 4), "data/latents/sd3_512": (64, 64, 16),
}
TEXT = {  # shapes of conditions, by the folder of the data
    "sd3_512": {"text": (154, 4096), "mask": (154,), "pooled": (2048,)}, "text_512": {"text": (77, 768)},
    "text_768": {"text": (77, 1024)},
}


def specs() -> Iterator[str]:
    """Yields `configs/dit.py:s_2` and all others."""
    for family in FAMILIES:
        found = importlib.util.spec_from_file_location(family, ROOT / "configs" / f"{family}.py")
        module = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
        yield from (f"configs/{family}.py:{size}" for size in module.SIZES)


def example(config: Any) -> dict[str, Any]:
    """Returns the shapes of a global batch of a config's data, which need not be there."""
    import jax

    data = config.data
    place = data["path"] if "path" in data else data["dataset"]
    side, _, channels = shape = (data.size, data.size, 3) if "size" in data else SHAPES[place]
    rows = {"image": (shape, "uint8")}
    if config.prepare.name == "latents":
        rows = {"moments": ((side, side, 2 * channels), "float16")}
    if "num_classes" in config.network and config.network.num_classes:
        rows["label"] = ((), "int32")
    for name, extent in TEXT[Path(place).name].items() if Path(place).name in TEXT else ():
        rows[name] = (extent, "bool" if name == "mask" else "float16")
    return {name: jax.ShapeDtypeStruct((config.batch, *extent), kind) for name, (extent, kind) in rows.items()}


def digest(config: Any) -> str:
    """Returns what changes with what is compiled of a config."""
    told = config.to_dict()
    parts = {name: told[name] for name in COMPILED if name in told} | {"sample": told["sample"]["batch"]}
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:12]


def measure(config: Any, program: str) -> dict[str, Any]:
    """Lowers and compiles one program of a config; returns its line."""
    import jax
    from jax.experimental import topologies

    from jaxdiff import experiment, flops, mesh

    made = experiment.model(config, example(config))
    on = mesh.make_mesh(data=config.mesh.data, fsdp=config.mesh.fsdp, tensor=config.mesh.tensor,
                        devices=topologies.get_topology_desc(TOPOLOGY, "tpu").devices)
    begin = time.process_time()
    compiled = (_train if program == "train" else _sample)(config, made, on).compile(compiler_options=EFFORT)
    spent, memory = time.process_time() - begin, compiled.memory_analysis()
    state = made.shapes(None)
    network = made.objective.denoiser(state.params).args[-1]
    prepared = jax.eval_shape(made.prepare, example(config), jax.random.key(0), None)
    one = jax.tree.map(lambda a: jax.ShapeDtypeStruct((1, *a.shape[1:]), a.dtype), prepared)
    return {
        "parameters": sum(leaf.size for path, leaf in jax.tree_util.tree_leaves_with_path(network)
                          if path[-1].key not in ("freqs", "phases")),
        "macs": flops.count(made.objective.network.apply, network, one["x0"], jax.ShapeDtypeStruct((1,), "float32"),
                            one["cond"]),
        "cpu_s": round(spent, 1), "rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "arguments": memory.argument_size_in_bytes, "temp": memory.temp_size_in_bytes,
    }


def _train(config: Any, made: Any, on: Any) -> Any:
    """Lowers the train step."""
    import jax

    from jaxdiff import mesh, train

    state = made.shapes(on)
    key = _key(mesh.replicated(on))
    rows = jax.NamedSharding(on, jax.P(("data", "fsdp")))
    batch = {name: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=rows) for name, a in made.example.items()}
    with jax.set_mesh(on):
        return train.compiled(made.step(), state).lower(state, batch, key)


def _sample(config: Any, made: Any, on: Any) -> Any:
    """Lowers the sampler, of the config's own sampling batch."""
    import jax

    from jaxdiff import experiment, mesh, sample

    generation = experiment.generation(config, made)
    denoiser = generation.guided(made.objective.denoiser(made.shapes(on).ema[made.ema[0]]))
    rows = jax.NamedSharding(on, jax.P(("data", "fsdp")))
    cond = jax.eval_shape(made.prepare, made.example, jax.random.key(0), None)["cond"]
    put = lambda a: jax.ShapeDtypeStruct((generation.batch, *a.shape[1:]), a.dtype, sharding=rows)
    cond, indices = jax.tree.map(put, cond), jax.ShapeDtypeStruct((generation.batch,), "uint32", sharding=rows)
    key = _key(mesh.replicated(on))
    with jax.set_mesh(on):
        return sample._draw.lower(denoiser, key, indices, cond, given=(), times=generation.times,
                                  sampler=generation.sampler, shape=made.shape, then=None,
                                  precision=generation.precision)


def _key(lies: Any) -> Any:
    import jax

    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=lies)


def record(spec: str, program: str, known: dict[str, Any]) -> dict[str, Any]:
    """Measures in a process of its own; a program that does not compile is a line that says why."""
    import jax
    import libtpu

    run = subprocess.run([sys.executable, "-m", "benchmarks.networks_table", "--one", spec, program], cwd=ROOT,
                         env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True, timeout=LIMIT, check=False)
    about = {"spec": spec, "program": program, **known, "date": datetime.date.today().isoformat(),
             "jax": jax.__version__, "libtpu": libtpu.__version__}
    if run.returncode == 0:
        return about | json.loads(run.stdout.splitlines()[-1])
    said = [line for line in run.stderr.splitlines() if re.match(r"\S*(Error|Exception|Interrupt)\b|jax", line)]
    return about | {"error": (said or run.stderr.splitlines() or ["no word"])[-1][:500]}


def wanted(only: str, again: bool) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yields what is to be measured, and what its config says of it."""
    from jaxdiff import overrides

    there = {(line["spec"], line["program"]): line for line in read()}
    for spec in specs():
        config = overrides.load(str(ROOT / spec))
        batch, parts = config.batch, config.accumulate
        for program in PROGRAMS:
            known = {"digest": digest(config), "batch": batch if program == "train" else config.sample.batch,
                     "accumulate": parts if program == "train" else 1,
                     "mesh": "fsdp" if config.mesh.fsdp == -1 else "data"}
            line = there.get((spec, program))
            fresh = line is not None and line["digest"] == known["digest"] and "error" not in line
            if re.search(only, spec) and (again or not fresh):
                yield spec, program, known


def read() -> list[dict[str, Any]]:
    """Returns the lines, the last of each program alone, in the order of the table."""
    if not LINES.exists():
        return []
    lines = [json.loads(line) for line in LINES.read_text(encoding="utf-8").splitlines()]
    last = {(line["spec"], line["program"]): line for line in lines}
    order = {spec: number for number, spec in enumerate(specs())}
    return sorted((line for line in last.values() if line["spec"] in order),
                  key=lambda line: (order[line["spec"]], PROGRAMS.index(line["program"])))


def row(line: dict[str, Any]) -> str:
    """Returns a line of the table."""
    name = line["spec"].removeprefix("configs/").replace(".py:", ":")
    batch = f"{line['batch']:,}" + (f" in {line['accumulate']}" if line["accumulate"] > 1 else "")
    front = f"| `{name}` |"
    if "error" in line:
        return f"{front} | | {line['program']} | {batch} | {line['mesh']} 16 | {line['error']} | | | |"
    gib = lambda size: f"{size / 2**30:.2f}"
    return (f"{front} {line['parameters']:,} | {line['macs'] / 1e9:.2f} | {line['program']} | {batch} | "
            f"{line['mesh']} 16 | {line['cpu_s']:.0f} | {line['rss_gb']:.1f} | {gib(line['arguments'])} | "
            f"{gib(line['temp'])} |")


def write() -> None:
    """Writes the page between its markers."""
    lines = read()
    dates = sorted({line["date"] for line in lines})
    versions = sorted({f"jax {line['jax']}, libtpu {line['libtpu']}" for line in lines})
    about = (f"Compiled {' to '.join(sorted({dates[0], dates[-1]}))} with {' and '.join(versions)}, for {TOPOLOGY} "
             f"({CHIP_GIB} GiB a chip), at effort {EFFORT['exec_time_optimization_effort']:g}.")
    replace(START, "\n".join([about, *pending(lines), "", HEAD, *map(row, lines)]))


def pending(lines: list[dict[str, Any]]) -> list[str]:
    """Returns the line that names what was not compiled yet; none where all was."""
    there = {(line["spec"], line["program"]) for line in lines}
    gone = [spec.removeprefix("configs/").replace(".py:", ":") for spec in specs()
            if not {(spec, program) for program in PROGRAMS} <= there]
    return [f"Not compiled yet: {', '.join(f'`{name}`' for name in gone)}."] if gone else []


def replace(start: str, text: str) -> None:
    """Puts `text` into the page, between the line `start` and the next `END`."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(start)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"{PAGE} needs the lines {start} and {END}")
    PAGE.write_text(f"{before}{start}\n{text}\n{END}{after}", encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """Measures what is not there and writes the page; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="a pattern of `configs/dit.py:s_2`")
    parser.add_argument("--again", action="store_true", help="measure what is there as well")
    parser.add_argument("--write", action="store_true", help="write the page alone")
    parser.add_argument("--one", nargs=2, metavar=("SPEC", "PROGRAM"), help="measure here, and print")
    given = parser.parse_args(argv)
    if given.one:
        from jaxdiff import overrides

        spec, program = given.one
        print(json.dumps(measure(overrides.load(spec), program)))
        return 0
    if not given.write and importlib.util.find_spec("libtpu") is None:
        print("networks_table: libtpu is not installed: `make networks-table`, or pip install -e '.[tpu]'")
        return 1
    for spec, program, known in [] if given.write else wanted(given.only, given.again):
        line = record(spec, program, known)
        with open(LINES, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(row(line), flush=True)
    write()
    return int(any("error" in line for line in read()))


if __name__ == "__main__":
    sys.exit(main())
