"""What is looked at before anything is created, and what it will cost."""

import csv
import dataclasses
import datetime
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from launch.accelerators import Accelerator
from launch.job import Job, Rendering, clean

__all__ = ["Price", "builds", "cost", "engine_there", "estimate", "plan", "price", "ready", "where"]

ASSUMED = 0.4  # model FLOPs utilisation, where none was measured
STAND_IN = 700.0  # dollars an hour: SkyPilot's catalogue has it for what it does not know
SCHEME = re.compile(r"[a-z][a-z0-9]*://")
HERE = Path(__file__).resolve().parent
BUILDS = """
import sys
try:
    from jaxdiff import overrides
except ImportError:
    sys.exit(3)
try:
    overrides.apply(overrides.load(sys.argv[1]), overrides.split(sys.argv[2:])[1])
except ValueError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
"""


@dataclasses.dataclass(frozen=True)
class Price:
    """Dollars an hour of one chip or GPU, who says so, and when."""

    dollars: float
    source: str
    date: str


def where(workdir: str, engine: str) -> str:
    """Returns the work folder as a job on that engine is told of it.

    Args:
      workdir: as it was given.
      engine: its name; machines of a cloud take their disks along when they go.

    Raises:
      ValueError: it would be lost, or is no folder's name.
    """
    clean(workdir, "--workdir")
    if not workdir.strip() or workdir != workdir.strip():
        raise ValueError(f"--workdir={workdir!r}: a folder's name, without blanks around it")
    if SCHEME.match(workdir):
        if not workdir.startswith("gs://"):
            raise ValueError(f"--workdir={workdir}: gs://BUCKET/FOLDER, or a folder on a disk")
        bucket, _, folder = workdir.removeprefix("gs://").partition("/")
        if not re.fullmatch(r"[a-z0-9][-a-z0-9_.]+[a-z0-9]", bucket) or not folder.strip("/"):
            raise ValueError(f"--workdir={workdir}: gs://BUCKET/FOLDER, a bucket in lower case and a folder in it")
        if any(letter in folder for letter in "#[]*?"):
            raise ValueError(f"--workdir={workdir}: gcloud takes # [ ] * ? for patterns; leave them out")
        return workdir
    if engine in ("sky", "xpk", "gcloud"):
        raise ValueError(f"--workdir={workdir}: machines of --on={engine} take their disks along when they go; give "
                         "gs://BUCKET/FOLDER")
    return str(Path(workdir).absolute())


def engine_there(engine: ModuleType) -> None:
    """Raises ValueError where the engine's command is not installed."""
    if shutil.which(engine.COMMAND) is None:
        raise ValueError(f"--on={engine.NAME} needs the command {engine.COMMAND}, which is not on the PATH: "
                         f"{engine.INSTALL}; --dry-run needs none")


def builds(config: str, changes: Sequence[str], root: Path) -> bool:
    """Returns whether a config builds with its changes; false where jaxdiff is not installed here to tell.

    Raises:
      ValueError: it does not; what jaxdiff says of it.
    """
    done = subprocess.run([sys.executable, "-c", BUILDS, config, *changes], cwd=root, capture_output=True, text=True,
                          env={**os.environ, "JAX_PLATFORMS": "cpu"}, check=False)
    if done.returncode == 2:
        raise ValueError(done.stderr.strip().splitlines()[-1])
    return done.returncode == 0


def ready(engine: ModuleType, job: Job, made: Rendering) -> None:
    """Raises ValueError where a submission would be cut short: a flag, the engine, or a secret is missing."""
    for word, flag in made.lacks:
        raise ValueError(f"{flag} is missing, for which a dry run shows {word}"
                         + ("" if flag.startswith("--zone") else "; it goes after --"))
    engine_there(engine)
    for word in job.secrets:
        if word not in os.environ:
            raise ValueError(f"--secret={word}: no variable of that name is set here, to be handed on")


def plan(job: Job, config: Sequence[str], root: Path, timeout: float = 3600.0) -> Mapping[str, Any]:
    """Returns what `jaxdiff plan` says of a TPU job.

    Args:
      job: of a TPU.
      config: its `--config...` flags.
      root: of the checkout.
      timeout: seconds.

    Raises:
      ValueError: the config does not build, or does not fit.
    """
    assert job.accelerator is not None and job.accelerator.is_tpu
    bounds = job.accelerator.bounds
    words = [sys.executable, "-m", "jaxdiff", "plan", "--json", "--effort=-1", "--only=train", "--no_search",
             f"--topology={job.accelerator.topology}", f"--slices={job.slices}",
             *([f"--host_bounds={','.join(map(str, bounds))}"] if bounds else []), *config]
    libtpu = Path(sys.prefix) / "tpu"  # where .ci/install puts it
    path = os.pathsep.join(filter(None, [str(libtpu) if libtpu.is_dir() else "", os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(words, cwd=root, env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path},
                          stdout=subprocess.PIPE, text=True, timeout=timeout, check=False)
    if not done.stdout.strip():
        raise ValueError(f"the config does not build for {job.accelerator.name} (jaxdiff plan ended with "
                         f"{done.returncode}; its reason is above)")
    told = json.loads(done.stdout)
    program = told["programs"]["train"]
    if not program.get("fits", False):
        gib = 2 ** 30
        raise ValueError(f"the train step needs {program['held'] / gib:.2f} GiB of a chip of {job.accelerator.name}, "
                         f"which has {told['chip']['limit'] / gib:.2f}; more chips, config.mesh.fsdp, "
                         "config.accumulate or rematerialisation make it less"
                         if program.get("held") else "the train step was not compiled; see above")
    return told


def estimate(told: Mapping[str, Any], accelerator: Accelerator, slices: int) -> tuple[int, float, float]:
    """Returns the steps of a plan's run, and its chip-hours: at the bound, which no program reaches, and at 40 % of
    the chip's FLOPs where that is slower."""
    program = told["programs"]["train"]
    steps, chips = int(told["steps"]), accelerator.chips * slices
    bound = program["roofline"]["step_s"]
    likely = bound * max(1.0, program["predicted"]["mfu"] / ASSUMED)
    return steps, steps * bound * chips / 3600, steps * likely * chips / 3600


def price(job: Job, given: float | None, table: Path = HERE / "prices.csv", home: Path | None = None) -> Price | None:
    """Returns what a chip, or a GPU, costs an hour: as given, by a line of the table, or by the catalogue that SkyPilot
    keeps; None where nobody says.

    Args:
      job: with accelerator, zones and spot.
      given: `--price`, dollars.
      table: of the user's own prices.
      home: where `.sky` lies.
    """
    if given is not None:
        return Price(given, "--price", datetime.date.today().isoformat())
    assert job.accelerator is not None
    name = job.accelerator.name.partition(":")[0]
    zone = job.zones[0] if job.zones else ""
    lines = [line for line in table.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    for row in csv.DictReader(lines):
        if row["accelerator"] == name and row["zone"] in ("", zone) and (row["spot"] == "yes") == job.spot:
            return Price(float(row["dollars"]), row["source"], row["date"])
    return _catalogue(job, home or Path.home())


def _catalogue(job: Job, home: Path) -> Price | None:
    assert job.accelerator is not None
    tpu = job.accelerator.is_tpu
    name, _, count = job.accelerator.name.partition(":")
    name, count = (f"tpu-{name}", "1") if tpu else (name, count)
    found, newest = [], 0.0
    for file in sorted((home / ".sky" / "catalogs").glob("*/gcp/vms.csv" if tpu else "*/*/vms.csv")):
        with file.open(encoding="utf-8", newline="") as text:
            for row in csv.DictReader(text):
                if row.get("AcceleratorName") != name or float(row.get("AcceleratorCount") or 0) != float(count):
                    continue
                if job.zones and row.get("AvailabilityZone") not in job.zones:
                    continue
                dollars = float(row.get("SpotPrice" if job.spot else "Price") or "nan")
                if math.isfinite(dollars) and 0 < dollars and dollars != STAND_IN:
                    found.append(dollars / (job.accelerator.chips if tpu else int(count)))
                    newest = max(newest, file.stat().st_mtime)
    if not found:
        return None
    day = datetime.date.fromtimestamp(newest).isoformat()
    return Price(min(found), "SkyPilot's catalogue, the cheapest place", day)


def cost(job: Job, told: Mapping[str, Any] | None, found: Price | None) -> str:
    """Returns what a job will take, in words."""
    if job.accelerator is None:
        return "costs nothing but this machine's time"
    chips = job.accelerator.chips * (job.slices if job.accelerator.is_tpu else job.nodes)
    unit = "chip" if job.accelerator.is_tpu else "GPU"
    rate = "price unknown (--price=, or a line in launch/prices.csv)" if found is None else (
        f"{found.dollars * chips:,.2f} $/h ({found.source}, {found.date})")
    if told is None:
        return f"{chips} {unit}s; {rate}; for how long is not known beforehand"
    steps, low, high = estimate(told, job.accelerator, job.slices)
    hours = f"{low:,.2g} to {high:,.2g}" if high > 1.05 * low else f"at least {low:,.2g}"
    dollars = "" if found is None else f", {found.dollars * low:,.2f} to {found.dollars * high:,.2f} $"
    return (f"{chips} chips; {steps:,} steps in {hours} chip-hours (the plan's bound; {ASSUMED:.0%} of the chip's "
            f"FLOPs, assumed){dollars}; {rate}")
