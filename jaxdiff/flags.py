"""The flags of every verb."""

import argparse
import ast
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from jaxdiff import __version__
from jaxdiff.build import nearest

__all__ = ["UserError", "parsed"]

BRING_EXAMPLE = "jaxdiff convert edm-cifar10-32x32-cond-vp.pkl --layout=edm --workdir=runs/edm_cifar10"
CODE_EXAMPLE = "jaxdiff encode --workdir=runs/vae --data=\"{'name': 'folder', ...}\" --out=data/latents"
DATA_EXAMPLE = "jaxdiff data check --config=configs/edm.py:ddpmpp_64 --needs=2000"
BACK_EXAMPLE = "jaxdiff export --workdir=runs/dit --layout=dit --out=dit.safetensors"
PLAN_EXAMPLE = "jaxdiff plan --config=configs/dit.py:xl_2 --topology=v5e:4x4 --image=32,32,4"
JUDGE_EXAMPLE = "jaxdiff evaluate --workdir=runs/digits --checkpoints=all --steps=9,18 --seeds=3"
REFER_EXAMPLE = "jaxdiff reference --data=\"{'name': 'folder', 'path': 'images'}\" --features=lite0 --out=real.npz"
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
    draw = verb("sample", "Draw samples from a run.", "jaxdiff sample --workdir=runs/digits")
    draw.add_argument("--checkpoint", type=int, metavar="STEP", help="default: the newest")
    draw.add_argument("--ema", metavar="NAME", help="an average of the run; default: its first")
    draw.add_argument("--sampler", metavar="NAME", help="such as heun, ddim, euler, ancestral")
    draw.add_argument("--steps", type=int, help="intervals of the grid")
    draw.add_argument("--guidance", type=float, metavar="W", help="classifier-free scale; 1 is none")
    draw.add_argument("--num", type=int, help="number of samples")
    draw.add_argument("--seed", type=int)
    draw.add_argument("--label", type=_labels, default=(), metavar="K[,K...]", help="classes, in turn")
    draw.add_argument("--conditions", type=Path, metavar="FILE.npz", help="other conditions, such as text [n, m, d] "
                      "and mask [n, m], in turn; default: none")
    draw.add_argument("--out", type=Path, metavar="DIR", help="where samples.png and samples.npz go; default: the "
                      "run's folder")
    _judging(verbs.add_parser("evaluate", help="Judge a run's samples over a grid of settings, or a folder of images.",
                              description="Judge a run's samples over any grid of checkpoints, averages, samplers, "
                              "steps and guidance; or a folder of images, whoever made them.  A cell that is done is "
                              "not done again, and a broken-off one goes on.", epilog=f"Example: {JUDGE_EXAMPLE}",
                              allow_abbrev=False))
    _referring(verbs.add_parser("reference", help="Write what evaluation compares with to a file.",
                                description="Write moments and features of real images, with the protocol, to an .npz.",
                                epilog=f"Example: {REFER_EXAMPLE}", allow_abbrev=False))
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


def _judging(made: argparse.ArgumentParser) -> None:
    what = made.add_mutually_exclusive_group(required=True)
    what.add_argument("--workdir", metavar="DIR", type=_located, help="the run's folder, or gs://BUCKET/FOLDER")
    what.add_argument("--images", metavar="DIR|NPZ", help="a folder of images, or an .npz with arr_0 [n, h, w, 3]")
    grid = made.add_argument_group("the grid, of which every combination is a row")
    grid.add_argument("--checkpoints", "--checkpoint", type=_checkpoints, default=("last",), metavar="WHICH",
                      help="all, last, best, or steps such as 1000,2000 (last)")
    grid.add_argument("--ema", type=_words, metavar="NAME[,NAME...]", help="averages; default: the run's first")
    grid.add_argument("--sampler", type=_words, metavar="NAME[,NAME...]", help="such as heun,ddim")
    grid.add_argument("--steps", type=_sizes, metavar="N[,N...]", help="intervals of the grid of times")
    grid.add_argument("--guidance", type=_numbers, metavar="W[,W...]", help="classifier-free scales; 1 is none")
    grid.add_argument("--seeds", type=int, default=1, metavar="N", help="how many seeds (%(default)s)")
    made.add_argument("--seed", type=int, help="the first of them")
    made.add_argument("--num", type=int, help="number of samples of a row")
    _seeing(made)
    made.add_argument("--metrics", type=_words, metavar="NAME[,NAME...]", help="such as fid,sfid,kid,inception_score,"
                      "precision_recall,density_coverage,fid_infinity,cmmd,vendi,memorisation")
    made.add_argument("--bits", type=int, default=0, metavar="N", help="bits/dim of so many held-out images as well")
    made.add_argument("--reference", metavar="FILE", help="statistics of real images, by `jaxdiff reference` or "
                      "published; default: the run's own data")
    made.add_argument("--reference_protocol", metavar="NAME", help="how that file's images were prepared, where it "
                      "does not say")
    made.add_argument("--out", metavar="FILE", type=_located, help="where rows go; default: eval/results.jsonl, in "
                      "the run's folder or here")
    made.add_argument("--watch", action="store_true", help="follow a running job: judge its checkpoints as they come")
    made.add_argument("--patience", type=float, default=60.0, metavar="MINUTES", help="with --watch: how long "
                      "nothing may come (%(default)g)")


def _seeing(made: argparse.ArgumentParser) -> None:
    made.add_argument("--features", type=_words, metavar="NAME[,NAME...]", help="such as inception, dinov2, clip, "
                      "vgg16, lite0, pixels, or yours as module:attribute")
    made.add_argument("--protocol", metavar="NAME", help="how images are prepared: tf1, half_pixel, clean, ...")
    made.add_argument("--weights", metavar="FILE|DIR", help="of the extractors; default: $JAXDIFF_WEIGHTS")
    made.add_argument("--batch", type=int, metavar="N", help="images a call")


def _referring(made: argparse.ArgumentParser) -> None:
    what = made.add_mutually_exclusive_group(required=True)
    what.add_argument("--data", type=_part, metavar="PART", help="a source, such as \"{'name': 'folder', 'path': "
                      "'images', 'size': 64}\"")
    what.add_argument("--images", metavar="DIR|NPZ", help="a folder of images, or an .npz with arr_0")
    made.add_argument("--out", required=True, metavar="FILE.npz", type=_located)
    made.add_argument("--split", default="", metavar="NAME", help="whose images these are, such as train")
    made.add_argument("--moments_only", action="store_true", help="leave out features: a small file, for FID alone")
    _seeing(made)


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


def _words(text: str) -> tuple[str, ...]:
    words = tuple(word.strip() for word in text.split(","))
    if not all(words):
        raise argparse.ArgumentTypeError(f"names with commas between them, such as a,b; got {text!r}")
    return words


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"numbers with commas between them, such as 1,1.5; got {text!r}") from None


def _checkpoints(text: str) -> tuple[Any, ...]:
    if text in ("all", "last", "best"):
        return (text,)
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"checkpoints are all, last, best, or steps such as 1000,2000; got {text!r}"
                                         ) from None


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


def parsed(rest: Sequence[str]) -> argparse.Namespace:
    """Returns the flags of a command.

    Raises:
      UserError: an unknown verb or flag, or a value that is none.
    """
    parser = _parser()
    args, unknown = parser.parse_known_args(rest)
    if unknown:
        known = [option for action in _subparser(parser, args.verb)._actions for option in action.option_strings]
        raise UserError(f"{args.verb} has no flag {unknown[0]!r}{nearest(unknown[0].partition('=')[0], known)}")
    return args


def _subparser(parser: argparse.ArgumentParser, verb: str) -> argparse.ArgumentParser:
    choices = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction)).choices
    return choices[verb]
