"""The command `jaxdiff`: flags and verbs.

Exit status: 0 done, 1 a bug or a run that cannot go on, 2 a user's error, said in one line.
"""

import argparse
import ast
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from jaxdiff import __version__
from jaxdiff.build import nearest

__all__ = ["main", "run"]

BRING_EXAMPLE = "jaxdiff convert edm-cifar10-32x32-cond-vp.pkl --layout=edm --workdir=runs/edm_cifar10"
CODE_EXAMPLE = "jaxdiff encode --workdir=runs/vae --data=\"{'name': 'folder', ...}\" --out=data/latents"
BACK_EXAMPLE = "jaxdiff export --workdir=runs/dit --layout=dit --out=dit.safetensors"
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
        made.add_argument("--workdir", required=True, metavar="DIR", type=Path, help="the run's folder")
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


def run() -> NoReturn:
    """The console script."""
    sys.exit(main(sys.argv[1:]))


def main(argv: Sequence[str]) -> int:
    """Runs one verb; returns the exit status."""
    sys.path.insert(0, os.getcwd())  # so that a user's own parts import
    try:
        from jaxdiff import overrides

        with _users():
            rest, pairs = overrides.split(argv)
        args = _parse(rest)
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
    from jaxdiff import overrides

    with _users():
        config = overrides.apply(overrides.load(args.config), pairs)
        from jaxdiff import verbs

        run = verbs.prepare(args.workdir, config)
    return verbs.train(run)


def _sample(args: argparse.Namespace, pairs: Sequence[tuple[str, str]]) -> int:
    from jaxdiff import verbs

    with _users():
        config = verbs.changed(args.workdir, _flags(args, "sample"), pairs)
        drawing = verbs.ready(args.workdir, config, step=args.checkpoint, labels=args.label,
                              conditions=args.conditions)
    return verbs.sample(args.out or args.workdir, drawing)


def _evaluate(args: argparse.Namespace, pairs: Sequence[tuple[str, str]]) -> int:
    from jaxdiff import experiment, verbs

    with _users():
        config = verbs.changed(args.workdir, _flags(args, "evaluate"), pairs)
        drawing = verbs.ready(args.workdir, config, step=args.checkpoint, judged=True)
        scoring = experiment.scoring(config)
    return verbs.evaluate(args.workdir, drawing, scoring)


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


def _flags(args: argparse.Namespace, slot: str) -> list[tuple[str, Any]]:
    """Returns a command's flags as what they change in the config."""
    sampler = None if args.sampler is None else {"name": args.sampler}
    return [(f"{slot}.num", args.num), (f"{slot}.seed", args.seed), ("sample.ema", args.ema), ("sampler", sampler),
            ("guidance.classifier_free.scale", args.guidance), ("times.steps", args.steps)]


_VERBS: dict[str, Callable[[argparse.Namespace, Sequence[tuple[str, str]]], int]] = {
    "train": _train, "sample": _sample, "evaluate": _evaluate, "report": _report, "convert": _convert,
    "encode": _encode, "export": _export,
}
