"""The command `jaxdiff`: flags and verbs.

Exit status: 0 done; 1 a bug or a run that cannot go on; 2 a user's error, said in one line; 42 start me again (the
machine is being taken away, or nothing moved).
"""

import argparse
import ast
import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from jaxdiff import __version__
from jaxdiff.build import nearest

__all__ = ["main", "run"]

BRING_EXAMPLE = "jaxdiff convert edm-cifar10-32x32-cond-vp.pkl --layout=edm --workdir=runs/edm_cifar10"
CODE_EXAMPLE = "jaxdiff encode --workdir=runs/vae --data=\"{'name': 'folder', ...}\" --out=data/latents"
DATA_EXAMPLE = "jaxdiff data check --config=configs/edm.py:ddpmpp_64 --needs=2000"
BACK_EXAMPLE = "jaxdiff export --workdir=runs/dit --layout=dit --out=dit.safetensors"
PLAN_EXAMPLE = "jaxdiff plan --config=configs/dit.py:xl_2 --topology=v5e:4x4 --image=32,32,4"
TRAIN_EXAMPLE = "jaxdiff train --config=configs/digits.py --workdir=runs/digits --config.seed=1"


class UserError(Exception):
    """Something the user can mend; its message is the whole answer."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def _parser() -> _Parser:
    parser = _Parser(prog="jaxdiff", description="Diffusion models in JAX and Flax.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"jaxdiff {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=_Parser)

    def verb(name: str, summary: str, example: str) -> _Parser:
        made = verbs.add_parser(name, help=summary, description=summary, epilog=f"Example: {example}",
                                allow_abbrev=False)
        made.add_argument("--workdir", required=True, metavar="DIR", type=_located,
                          help="the run's folder, on a disk or gs://BUCKET/FOLDER")
        return made

    train = verb("train", "Train, or go on training what lies in the folder.", TRAIN_EXAMPLE)
    train.add_argument("--config", required=True, metavar="FILE[:ARG]", help="a config file; change a value with "
                       "--config.key=value")
    for name, summary in (("sample", "Draw samples from a run."), ("evaluate", "Judge samples of a run.")):
        made = verb(name, summary, f"jaxdiff {name} --workdir=runs/digits")
        made.add_argument("--checkpoint", type=int, metavar="STEP", help="default: the newest")
        made.add_argument("--ema", metavar="NAME", help="an average of the run; default: its first")
        made.add_argument("--sampler", metavar="NAME", help="such as heun, ddim, euler, ancestral")
        made.add_argument("--steps", type=int, help="intervals of the grid")
        made.add_argument("--guidance", type=float, metavar="W", help="classifier-free scale; 1 is none")
        made.add_argument("--num", type=int, help="number of samples")
        made.add_argument("--seed", type=int)
        if name == "sample":
            made.add_argument("--label", type=_labels, default=(), metavar="K[,K...]", help="classes, in turn")
            made.add_argument("--conditions", type=Path, metavar="FILE.npz", help="other conditions, such as text "
                              "[n, m, d] and mask [n, m], in turn; default: none")
            made.add_argument("--out", type=Path, metavar="DIR", help="where samples.png and samples.npz go; "
                              "default: the run's folder")
    _border(verb)
    _inspecting(verbs.add_parser("data", help="Look through the data of a config.", description="Look through the "
                                 "data of a config: what is there, what is broken, and how fast it comes.",
                                 epilog=f"Example: {DATA_EXAMPLE}", allow_abbrev=False))
    _planning(verbs.add_parser("plan", help="Say what a config will take of a TPU, before there is one.",
                               description="Compile the train step and the sampler of a config for a TPU topology, "
                               "with no TPU: does it fit, how fast can it be at most, what batch fits.  Exit status 1: "
                               "a program does not fit, or was not compiled.",
                               epilog=f"Example: {PLAN_EXAMPLE}", allow_abbrev=False))
    verb("report", "Draw the loss curve and print the results of a run.", "jaxdiff report --workdir=runs/digits")
    return parser


def _border(verb: Callable[..., argparse.ArgumentParser]) -> None:
    bring = verb("convert", "Make a run's folder of weights from elsewhere.", BRING_EXAMPLE)
    bring.add_argument("source", type=Path, help=".pkl, .pt, .pth, .ckpt, .safetensors, or a folder of diffusers")
    bring.add_argument("--layout", required=True, metavar="NAME", help="adm, dit, edm, edm2, jit, mmdit, sit, unet, "
                       "uvit or vae")
    bring.add_argument("--resolution", type=int, metavar="N", help="of images or latents, where the file says nothing")
    bring.add_argument("--sha256", metavar="HEX", help="what the file must hash to; it is recorded in any case")
    code = verb("encode", "Write the latents of images by an autoencoder, to train on.", CODE_EXAMPLE)
    code.add_argument("--data", required=True, type=_part, metavar="PART", help="the images, such as "
                      "\"{'name': 'folder', 'path': 'images', 'size': 256}\"")
    code.add_argument("--out", required=True, type=Path, metavar="DIR", help="where the moments go")
    code.add_argument("--batch", type=int, default=32, metavar="N", help="images a call (%(default)s)")
    back = verb("export", "Write a run's weights in the layout of another codebase.", BACK_EXAMPLE)
    back.add_argument("--layout", required=True, metavar="NAME", help="dit, diffusers_dit, vae or diffusers_vae")
    back.add_argument("--out", required=True, type=Path, metavar="FILE.safetensors")
    back.add_argument("--ema", metavar="NAME", help="an average of the run; default: its first")


def _inspecting(made: argparse.ArgumentParser) -> None:
    made.add_argument("what", choices=("check",))
    made.add_argument("--config", required=True, metavar="FILE[:ARG]")
    made.add_argument("--examples", type=int, metavar="N", help="decode so many, evenly spread; default: all")
    made.add_argument("--seconds", type=float, default=5.0, help="for how long the loader is timed (%(default)s)")
    made.add_argument("--json", action="store_true", help="print JSON, with every problem")
    speed = made.add_mutually_exclusive_group()
    speed.add_argument("--needs", type=float, metavar="IMG_PER_S", help="what a training step can take")
    speed.add_argument("--workdir", metavar="DIR", type=_located, help="a run that has logged it")
    speed.add_argument("--steps", type=int, metavar="N", help="measure it here, over so many steps")


def _planning(made: argparse.ArgumentParser) -> None:
    made.add_argument("--config", required=True, metavar="FILE[:ARG]")
    made.add_argument("--topology", required=True, metavar="NAME", help="such as v5e:4x4, v5p:2x2x1, v6e:4x4")
    made.add_argument("--slices", type=int, default=1, metavar="N", help="of that topology (%(default)s)")
    made.add_argument("--host_bounds", type=_sizes, metavar="X,Y,Z", help="chips of a host, such as 2,4,1")
    made.add_argument("--effort", type=float, default=-1.0, metavar="E", help="of the compiler, from -1 (soon) to 1; a "
                      "run has 0, and more or less memory (%(default)g)")
    made.add_argument("--image", type=_sizes, metavar="H,W,C", help="what the network sees, where data are not there")
    made.add_argument("--condition", type=_named_sizes, action="append", default=[], metavar="NAME=N[,M...]",
                      help="the shape of a condition of one example, such as text=77,768")
    made.add_argument("--only", choices=("train", "sample"), help="one program; default: both")
    made.add_argument("--no_search", action="store_true", help="leave out the largest batch: two compiles less")
    made.add_argument("--compile_timeout", type=float, default=3600.0, metavar="SECONDS", help="(%(default)g)")
    made.add_argument("--platform", choices=("tpu", "cpu"), help="default: tpu, where libtpu is installed")
    made.add_argument("--again", action="store_true", help="compile what was compiled before")
    made.add_argument("--json", action="store_true", help="print JSON")


def _located(text: str) -> Any:
    from jaxdiff import workdir

    return workdir.located(text)


def _part(text: str) -> dict[str, Any]:
    try:
        part = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        part = {"name": text}
    if not isinstance(part, dict) or "name" not in part:
        raise argparse.ArgumentTypeError(f"a part is a name, or a dict with a 'name' and options; got {text!r}")
    return part


def _labels(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"labels are whole numbers, such as 3 or 0,1,2; got {text!r}") from None


def _sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"sizes are whole numbers, such as 32,32,3; got {text!r}") from None


def _named_sizes(text: str) -> tuple[str, tuple[int, ...]]:
    name, equals, sizes = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"a condition has a name and sizes, such as text=77,768; got {text!r}")
    return name, _sizes(sizes)


def run() -> NoReturn:
    """The console script: one of the processes of its program, whose end the others hear of."""
    from jaxdiff import processes

    problem = ""
    try:
        status = main(sys.argv[1:], joined=True)
    except SystemExit as ended:  # of --help
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException as error:
        traceback.print_exc()
        status, problem = processes.verdict(error), f"{type(error).__name__}: {error}".partition("\n")[0]
    processes.leave(status, problem)


def main(argv: Sequence[str], *, joined: bool = False) -> int:
    """Runs one verb; returns the exit status.

    Args:
      argv: the words after `jaxdiff`.
      joined: join the other processes of the program first; the process can then be told to end, and must leave by
        `processes.leave`.
    """
    sys.path.insert(0, os.getcwd())  # so that a user's own parts import
    try:
        from jaxdiff import overrides

        with _users():
            rest, pairs = overrides.split(argv)
        args = _parse(rest)
        args.joined = joined
        return _VERBS[args.verb](args, pairs)
    except UserError as error:
        print(f"jaxdiff: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("jaxdiff: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130


def _parse(rest: Sequence[str]) -> argparse.Namespace:
    parser = _parser()
    args, unknown = parser.parse_known_args(rest)
    if unknown:
        known = [option for action in _subparser(parser, args.verb)._actions for option in action.option_strings]
        raise UserError(f"{args.verb} has no flag {unknown[0]!r}{nearest(unknown[0].partition('=')[0], known)}")
    return args


def _subparser(parser: argparse.ArgumentParser, verb: str) -> argparse.ArgumentParser:
    choices = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction)).choices
    return choices[verb]


@contextlib.contextmanager
def _users() -> Iterator[None]:
    """Within it, what a part refuses is the user's to mend: one line, no traceback."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error


def _refuse(args: argparse.Namespace, pairs: Sequence[tuple[str, str]]) -> None:
    if pairs:
        raise ValueError(f"{args.verb} takes no config, got --config.{pairs[0][0]}")


def _train(args: argparse.Namespace, pairs: Sequence[tuple[str, str]]) -> int:
    from jaxdiff import attempts, experiment, overrides, pace, processes

    clock = pace.Clock()
    with _users():
        config = overrides.apply(overrides.load(args.config), pairs)
        limits = experiment.limits(config)
    with clock("join"):
        _join(args, limits)
    from jaxdiff import verbs

    try:
        with _users():
            attempt = verbs.begun(args.workdir, config)
    except attempts.InVain as error:
        print(f"jaxdiff: {error}", file=sys.stderr)
        return 1
    with processes.guard(limits, last=attempt.end) as beat, attempt.recorded():
        with _users():
            run = verbs.prepare(args.workdir, config, attempt, clock)
        return verbs.train(run, beat)


def _join(args: argparse.Namespace, limits: Any) -> None:
    """Joins the other processes, before anything touches a device."""
    from jaxdiff import processes

    if args.joined:
        with _users():
            processes.start(limits.heartbeat, patience=limits.barrier)


@contextlib.contextmanager
def _drawing(args: argparse.Namespace, slot: str, pairs: Sequence[tuple[str, str]]) -> Iterator[tuple[Any, Callable]]:
    """Yields a run's config, changed, and what is to be told of every batch of samples."""
    from jaxdiff import experiment, processes, verbs

    with _users():
        config = verbs.changed(args.workdir, _flags(args, slot), pairs)
        limits = experiment.limits(config)
    _join(args, limits)
    try:
        with processes.guard(limits) as beat:
            yield config, beat
    except verbs.Preempted:
        print("jaxdiff: preempted: to be started again", file=sys.stderr)
        raise SystemExit(processes.AGAIN) from None


def _sample(args: argparse.Namespace, pairs: Sequence[tuple[str, str]]) -> int:
    from jaxdiff import verbs

    with _drawing(args, "sample", pairs) as (config, beat):
        with _users():
            drawing = verbs.ready(args.workdir, config, step=args.checkpoint, labels=args.label,
                                  conditions=args.conditions)
        return verbs.sample(args.out or args.workdir, drawing, beat)


def _evaluate(args: argparse.Namespace, pairs: Sequence[tuple[str, str]]) -> int:
    from jaxdiff import experiment, verbs

    with _drawing(args, "evaluate", pairs) as (config, beat):
        with _users():
            drawing = verbs.ready(args.workdir, config, step=args.checkpoint, judged=True)
            scoring = experiment.scoring(config)
        return verbs.evaluate(args.workdir, drawing, scoring, beat)


def _report(args: argparse.Namespace, pairs: Sequence[tuple[str, str]]) -> int:
    from jaxdiff import verbs

    with _users():
        _refuse(args, pairs)
        return verbs.report(args.workdir)


def _convert(args: argparse.Namespace, pairs: Sequence[tuple[str, str]]) -> int:
    with _users():
        from jaxdiff import transfer

        print(transfer.bring(args.source, args.layout, args.workdir, resolution=args.resolution, sha256=args.sha256,
                             pairs=pairs))
    return 0


def _encode(args: argparse.Namespace, pairs: Sequence[tuple[str, str]]) -> int:
    with _users():
        from jaxdiff import latents

        _refuse(args, pairs)
        print(latents.encode(args.workdir, args.data, args.out, batch=args.batch))
    return 0


def _export(args: argparse.Namespace, pairs: Sequence[tuple[str, str]]) -> int:
    with _users():
        from jaxdiff import transfer

        _refuse(args, pairs)
        print(transfer.export(args.workdir, args.layout, args.out, ema=args.ema))
    return 0


def _data(args: argparse.Namespace, pairs: Sequence[tuple[str, str]]) -> int:
    import json

    with _users():
        from jaxdiff import inspection, overrides

        if args.examples is not None and args.examples < 1:
            raise ValueError(f"--examples must be at least 1, got {args.examples}")
        config = overrides.apply(overrides.load(args.config), pairs)
        needs = args.needs if args.workdir is None else inspection.pace_of(args.workdir)
        told = inspection.check(config, most=args.examples, seconds=args.seconds)
        if args.steps and not told["problems"]:
            try:
                needs = inspection.step_pace(config, args.steps)
            except ValueError as error:  # what was found of the data is said all the same
                told["problems"].append(f"no step can be taken: {error}")
    told |= {} if needs is None else {"needs": {"images_per_second": needs}}
    print(json.dumps(told, indent=2) if args.json else "\n".join(inspection.lines(told, needs)))
    return 1 if told["problems"] else 0


def _plan(args: argparse.Namespace, pairs: Sequence[tuple[str, str]]) -> int:
    import json

    with _users():
        from jaxdiff import overrides, planning

        config = overrides.apply(overrides.load(args.config), pairs)
        told = planning.planned(
            config, args.topology, slices=args.slices, bounds=args.host_bounds, effort=args.effort, image=args.image,
            conditions=dict(args.condition), programs=(args.only,) if args.only else planning.PROGRAMS,
            search=not args.no_search, platform=args.platform, timeout=args.compile_timeout, again=args.again)
    print(json.dumps(told, indent=2) if args.json else "\n".join(planning.lines(told)))
    return 0 if all("fits" in program and program["fits"] for program in told["programs"].values()) else 1


def _flags(args: argparse.Namespace, slot: str) -> list[tuple[str, Any]]:
    """Returns a command's flags as what they change in the config."""
    sampler = None if args.sampler is None else {"name": args.sampler}
    return [(f"{slot}.num", args.num), (f"{slot}.seed", args.seed), ("sample.ema", args.ema), ("sampler", sampler),
            ("guidance.classifier_free.scale", args.guidance), ("times.steps", args.steps)]


_VERBS: dict[str, Callable[[argparse.Namespace, Sequence[tuple[str, str]]], int]] = {
    "train": _train, "sample": _sample, "evaluate": _evaluate, "report": _report, "convert": _convert,
    "encode": _encode, "export": _export, "data": _data, "plan": _plan,
}
