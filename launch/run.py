"""Carries one command of jaxdiff to machines.

    python launch/run.py --on=sky --tpu=v5litepod-16 --spot --config=configs/dit.py:b_2 --workdir=gs://bucket/dit \\
        --config.batch=256 --dry-run
    python launch/run.py status|logs|stop --on=sky --name=dit

What --dry-run prints is what submitting executes.  Exit status: that of the engine's command; 2 for what the user can
mend, said in one line; 130 where the question was answered with no.
"""

import argparse
import contextlib
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # this folder's own names are not for everyone

from launch import accelerators, checks, ledger, snapshot  # noqa: E402
from launch.engines import MODULES, engine  # noqa: E402
from launch.job import Job, Rendering, clean, plain, script, surroundings  # noqa: E402

__all__ = ["Parser", "accelerator", "agreed", "command", "execute", "job_of", "main", "parsed", "planned",
           "shape_flags", "shown", "split"]

LEDGER = ROOT / snapshot.FOLDER / "ledger.jsonl"
VERBS = ("submit", "status", "logs", "stop")


class Parser(argparse.ArgumentParser):
    """One whose errors are ValueErrors."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see {self.prog} --help")


def shape_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say where a job runs."""
    parser.add_argument("--on", metavar="ENGINE", help=", ".join(MODULES))
    parser.add_argument("--tpu", metavar="NAME", help="such as v5litepod-16; with --on=local a rehearsal of its shape")
    parser.add_argument("--gpu", metavar="NAME:COUNT", help="GPUs of a node, such as H100:8")
    parser.add_argument("--slices", type=int, default=1, help="of the TPU (%(default)s)")
    parser.add_argument("--nodes", type=int, default=1, help="of GPUs; processes for local (%(default)s)")
    parser.add_argument("--spot", action="store_true", help="capacity that may be taken away, for less")
    parser.add_argument("--zone", action="append", default=[], metavar="ZONE", help="may be given again: in turn")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", type=_pair)
    parser.add_argument("--secret", action="append", default=[], metavar="NAME", help="of a variable; never its value")
    parser.add_argument("--setup", default="", metavar="COMMAND", help="before each start, in the code's folder, such "
                        "as what copies data to the host; status 1 if it fails")
    parser.add_argument("--restarts", type=int, default=20, help="where the engine counts them (%(default)s)")
    parser.add_argument("--price", type=float, metavar="DOLLARS", help="of a chip or GPU an hour")
    parser.add_argument("--image", metavar="H,W,C", help="for the plan, where the data are not on this machine")
    parser.add_argument("--condition", action="append", default=[], metavar="NAME=N[,M]", help="for the plan, likewise")
    parser.add_argument("--no-plan", action="store_true", help="submit without asking jaxdiff plan whether it fits")
    parser.add_argument("--dry-run", action="store_true", help="print what would be done, and do nothing")
    parser.add_argument("--yes", action="store_true", help="do not ask before what costs money")


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"give NAME=VALUE, got {text!r}")
    return name, value


def split(argv: Sequence[str]) -> tuple[list[str], list[str], tuple[str, ...]]:
    """Returns this command's flags, those of the config in their order, and what stands after `--`."""
    ours, theirs = list(argv), []
    if "--" in ours:
        at = ours.index("--")
        ours, theirs = ours[:at], ours[at + 1:]
    configs = [word for word in ours if word.startswith("--config.")]
    for word in configs:
        if "=" not in word:
            raise ValueError(f"{word}: write {word}=VALUE")
    return [word for word in ours if not word.startswith("--config.")], configs, tuple(theirs)


def parsed(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str], tuple[str, ...]]:
    """Returns the flags, the config's changes, and the engine's flags.

    Raises:
      ValueError: a flag that there is not, or one that is missing.
    """
    ours, configs, theirs = split(argv)
    parser = Parser(prog="launch/run.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                     allow_abbrev=False)
    parser.add_argument("verb", nargs="?", default="submit", choices=VERBS)
    parser.add_argument("--run", default="train", choices=("train", "evaluate", "sample"))
    parser.add_argument("--config", metavar="FILE[:ARG]", help="of train; change a value with --config.key=value")
    parser.add_argument("--workdir", metavar="DIR")
    parser.add_argument("--name", help="default: the work folder's last word")
    shape_flags(parser)
    args = parser.parse_args(ours)
    if args.on is None:
        raise ValueError(f"--on=ENGINE is missing: {', '.join(MODULES)}")
    if args.verb == "submit" and args.workdir is None:
        raise ValueError("--workdir=DIR is missing: where the run writes")
    if args.verb == "submit" and args.run == "train" and args.config is None:
        raise ValueError("--config=FILE is missing: what is trained")
    if args.name is None and args.workdir is None:
        raise ValueError(f"--name=NAME is missing: whose {args.verb}")
    return args, configs, theirs


def name_of(args: argparse.Namespace) -> str:
    """Returns the job's name; the evaluation beside a training run has that run's name and `-eval`."""
    name = args.name or plain(Path(args.workdir or "").name, sys.maxsize)
    return f"{name}-eval" if args.run == "evaluate" and not name.endswith("-eval") else name


def accelerator(args: argparse.Namespace) -> accelerators.Accelerator | None:
    """Returns what is asked for; None on a machine as it is."""
    if args.tpu and args.gpu:
        raise ValueError(f"--tpu={args.tpu} and --gpu={args.gpu}: one of them")
    return accelerators.tpu(args.tpu) if args.tpu else accelerators.gpu(args.gpu) if args.gpu else None


def job_of(args: argparse.Namespace, name: str, argv: Sequence[str], workdir: str, flags: tuple[str, ...]) -> Job:
    """Returns the job of a command line."""
    return Job(name=name, argv=tuple(argv), workdir=workdir, accelerator=accelerator(args), slices=args.slices,
               nodes=args.nodes, spot=args.spot, zones=tuple(word for zone in args.zone for word in zone.split(",")),
               env=tuple(args.env), secrets=tuple(args.secret), setup=args.setup, restarts=args.restarts,
               flags=flags)


def command(run: str, workdir: str, config: str | None, changes: Sequence[str], *, watch: bool = True) -> list[str]:
    """Returns the words of `jaxdiff`, by the snapshot's own package and not by one that is installed."""
    given = [f"--config={config}"] if config is not None else []
    beside = ["--watch"] if run == "evaluate" and watch else []
    return ["python", "-m", "jaxdiff", run, *given, f"--workdir={workdir}", *beside, *changes]


def shown(job: Job, files: Mapping[str, str], made: Rendering, place: Path) -> str:
    """Returns what is done, for a reader."""
    out = [f"# {job.name}: a snapshot in {place}"]
    for file, text in files.items():
        out += [f"# {file}", text.rstrip("\n"), ""]
    out += ["# in the snapshot:", *(shlex.join(words) for words in made.submit)]
    out += [f"# {what}: {shlex.join(words)}"
            for what, words in (("status", made.status), ("logs", made.logs), ("stop", made.stop))]
    out += [f"# note: {line}" for line in made.said]
    out += [f"# {word} stands for what {flag.removesuffix('...')} says" for word, flag in made.lacks]
    return "\n".join(out)


def execute(commands: Sequence[Sequence[str]], place: Path) -> int:
    """Runs commands in turn, up to the first that fails; returns its status."""
    for words in commands:
        started = subprocess.Popen(words, cwd=place, env=surroundings())
        with _handed_on(started):
            status = started.wait()
        if status:
            return status if status > 0 else 128 - status
    return 0


@contextlib.contextmanager
def _handed_on(started: subprocess.Popen) -> Iterator[None]:
    """Within it, what ends this program ends the command instead, in its own way; Ctrl-C reaches both by itself."""
    handlers = {signal.SIGINT: lambda number, frame: None, signal.SIGTERM: lambda number, frame: started.terminate(),
                signal.SIGHUP: lambda number, frame: started.send_signal(number)}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def agreed(text: str, args: argparse.Namespace) -> bool:
    """Asks before what costs money, where there is somebody to ask."""
    print(text, flush=True)
    if args.yes or args.on == "local" or not sys.stdin.isatty():
        return True
    return input("Submit? [y/N] ").strip().lower() in ("y", "yes")


def submit(args: argparse.Namespace, changes: Sequence[str], flags: tuple[str, ...]) -> int:
    """Checks a job, shows or submits it; returns the exit status."""
    on = engine(args.on)
    workdir = checks.where(args.workdir, args.on)
    if args.run != "train" and args.config is not None:
        raise ValueError(f"--run={args.run} takes no --config: the work folder has the run's own")
    job = job_of(args, name_of(args), command(args.run, workdir, args.config, changes), workdir, flags)
    given = snapshot.code(ROOT, args.config or "")
    files = {f"jobs/{job.name}.sh": script(job, given.stamp)}
    place = given.path(job.name, files | {"": f"{on.NAME} {job}"})
    made = on.render(job, str(place), sys.executable)
    files |= made.files
    if args.dry_run:
        print(shown(job, files, made, place))
        return 0
    checks.ready(on, job, made)
    told = planned(job, args, changes)
    what = job.accelerator.name if job.accelerator else f"{job.nodes} process{'es' * (job.nodes > 1)} of this machine"
    found = checks.price(job, args.price) if job.accelerator else None
    price = "a rehearsal, which costs nothing" if args.on == "local" else checks.cost(job, told, found)
    notes = "".join(f"\n  {line}" for line in made.said)
    if not agreed(f"{job.name} on {on.NAME}: {what}{f' x {job.slices}' if job.slices > 1 else ''}"
                  f"{', spot' if job.spot else ''}; {price}{notes}", args):
        return 130
    snapshot.write(given, place, files)
    ledger.append(LEDGER, "submitted", job.name, engine=on.NAME, snapshot=str(place), code=given.stamp,
                  argv=job.argv, workdir=workdir, accelerator=what, slices=job.slices, zones=job.zones,
                  status=made.status, logs=made.logs, stop=made.stop)
    status = execute(made.submit, place)
    if on.NAME == "local":
        ledger.append(LEDGER, "closed", job.name, status=status)
    return status


def planned(job: Job, args: argparse.Namespace, changes: Sequence[str]) -> Mapping[str, Any] | None:
    """Returns what `jaxdiff plan` says of a job; None where it is not asked, and the config is built alone.

    Raises:
      ValueError: the config does not build, or does not fit the slice.
    """
    if args.run != "train":
        return None
    tpu = job.accelerator is not None and job.accelerator.is_tpu
    if args.on == "local" or args.no_plan or not tpu:
        if not checks.builds(args.config, changes, ROOT):
            print("jaxdiff is not installed here: whether the config builds is not known beforehand", flush=True)
        if args.on != "local" and not tpu:
            print("whether it fits a GPU is not known beforehand: jaxdiff plan compiles for TPUs alone", flush=True)
        return None
    words = [f"--config={args.config}", *changes, *([f"--image={args.image}"] if args.image else []),
             *(f"--condition={word}" for word in args.condition)]
    return checks.plan(job, words, ROOT)


def ask(args: argparse.Namespace, on: ModuleType) -> int:
    """Runs the engine's own status, logs or stop for what was submitted; returns its exit status."""
    row = ledger.last(LEDGER, name_of(args))
    if row["engine"] != on.NAME:
        raise ValueError(f"{row['name']} was submitted with --on={row['engine']}, not --on={on.NAME}")
    words = row[args.verb]
    if args.dry_run:
        print(shlex.join(words))
        return 0
    place = Path(row["snapshot"])
    status = execute([words], place if place.is_dir() else ROOT)
    if (args.verb == "stop" and status == 0) or (args.verb == "status" and on.NAME == "gcloud" and status == 3):
        ledger.append(LEDGER, "closed", row["name"], by=args.verb)
    return 0 if args.verb == "status" and status == 3 else status


def main(argv: Sequence[str]) -> int:
    """Does what the command line says; returns the exit status."""
    try:
        args, changes, flags = parsed(argv)
        for word in changes:
            clean(word)
        if args.verb == "submit":
            return submit(args, changes, flags)
        return ask(args, engine(args.on))
    except ValueError as error:
        print(f"launch: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
