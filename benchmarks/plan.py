"""Compiles three models ahead of time for three slices of 4 and 16 TPU chips, and writes the table of docs/scale.md.

Nothing runs: `jaxdiff plan` asks libtpu, on the CPU, at the least effort of the compiler (-1).  A row is a process; its
line goes to docs/scale.jsonl, and what is there and whose config has not changed is kept.

Command: python -m benchmarks.plan   (20 to 40 minutes on 2 CPU cores; --only=dit for some, --again for all anew,
--write for the page alone)
"""

import argparse
import datetime
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE, LINES = ROOT / "docs" / "scale.md", ROOT / "docs" / "scale.jsonl"
START, END = "<!-- written by python -m benchmarks.plan -->", "<!-- until here -->"
MODELS = {  # what the network sees, where the data are not there
    "configs/edm.py:ddpmpp_cifar10": "32,32,3", "configs/edm2.py:s": "64,64,4", "configs/dit.py:xl_2": "32,32,4",
}
TOPOLOGIES = {"v5e:4x4": "v5e-16", "v5p:2x2x1": "v5p-8", "v6e:4x4": "v6e-16"}
HEAD = ("| config | slice | program | batch | held GiB | HBM GiB | collectives GiB | TFLOP | bound ms | by | "
        "img/s/chip | MFU | compile s |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|")
GIB = 2**30
LIMIT = 3_600  # seconds a compile


def digest(spec: str) -> str:
    """Returns what changes with what is compiled of a config."""
    from jaxdiff import experiment, overrides
    from jaxdiff.planning import asking

    told = experiment.as_json(overrides.load(str(ROOT / spec)))
    parts = {name: told[name] for names in asking.PARTS.values() for name in (*names, "batch") if name in told}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def record(spec: str, topology: str) -> dict[str, Any]:
    """Plans in a process of its own; returns the line."""
    command = [sys.executable, "-m", "jaxdiff", "plan", f"--config={spec}", f"--topology={topology}", "--json",
               f"--image={MODELS[spec]}", "--no_search", f"--compile_timeout={LIMIT}"]
    run = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False,
                         env={**os.environ, "JAX_PLATFORMS": "cpu"})
    if not run.stdout:
        raise SystemExit(f"{spec} for {topology}: no plan, status {run.returncode}")
    told = json.loads(run.stdout)
    for program in told["programs"].values():
        for large in ("table", "overview"):
            program.pop(large, None)
    return {"spec": spec, "digest": digest(spec), "date": datetime.date.today().isoformat(), **told}


def read() -> list[dict[str, Any]]:
    """Returns the lines, the last of each row alone, in the order of the table."""
    lines = [json.loads(line) for line in LINES.read_text(encoding="utf-8").splitlines()] if LINES.exists() else []
    last = {(line["spec"], line["topology"]): line for line in lines}
    return [last[row] for row in rows() if row in last]


def rows() -> list[tuple[str, str]]:
    """Returns what the table has, config by config."""
    return [(spec, topology) for spec in MODELS for topology in TOPOLOGIES]


def printed(line: dict[str, Any]) -> Iterator[str]:
    """Yields the rows of the table that a line makes, one for each program."""
    name = line["spec"].removeprefix("configs/").replace(".py:", ":")
    for program, told in line["programs"].items():
        front = f"| `{name}` | {TOPOLOGIES[line['topology']]} | {program} | {told['batch']:,} |"
        if "roofline" not in told:
            why = told["failed"] if "failed" in told else "does not fit: " + told["exhausted"]["message"]
            yield f"{front} {why} | | | | | | | | |"
            continue
        moved = sum(value["payload"] for value in told["collectives"].values())
        bound, speed = told["roofline"], told["predicted"]
        share = f"{speed['mfu']:.0%}" if "mfu" in speed else ""
        yield (f"{front} {told['held'] / GIB:.2f} | {told['hbm_bytes'] / GIB:,.1f} | {moved / GIB:.2f} | "
               f"{told['flops'] / 1e12:,.1f} | {bound['step_s'] * 1e3:,.1f} | {bound['bound']} | "
               f"{speed['images_per_s_per_chip']:,.1f} | {share} | {told['cpu_s']:.0f} |")


def write() -> None:
    """Writes the table between its markers."""
    lines = read()
    if not lines:
        return
    made = sorted({", ".join(f"{name} {version}" for name, version in line["versions"].items()) for line in lines})
    dates = sorted({line["date"] for line in lines})
    about = f"Compiled {' to '.join(sorted({dates[0], dates[-1]}))} with {' and '.join(made)}, at effort -1."
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"{PAGE} needs the lines {START} and {END}")
    table = "\n".join([about, "", HEAD, *(text for line in lines for text in printed(line))])
    PAGE.write_text(f"{before}{START}\n{table}\n{END}{after}", encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """Compiles what is not there and writes the page; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="a pattern of `configs/dit.py:xl_2 v5e:4x4`")
    parser.add_argument("--again", action="store_true", help="compile what is there as well")
    parser.add_argument("--write", action="store_true", help="write the page alone")
    given = parser.parse_args(argv)
    there = {(line["spec"], line["topology"]): line["digest"] for line in read()}
    for spec, topology in [] if given.write else rows():
        fresh = there.get((spec, topology)) == digest(spec)
        if re.search(given.only, f"{spec} {topology}") and (given.again or not fresh):
            line = record(spec, topology)
            with open(LINES, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print(*printed(line), sep="\n", flush=True)
            write()
    write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
