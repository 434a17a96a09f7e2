"""The command `jaxdiff`: flags and verbs.

Exit status: 0 done; 1 a bug or a run that cannot go on; 2 a user's error, said in one line; 42 start me again (the
machine is being taken away, or nothing moved).
"""

import argparse
import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from jaxdiff import flags

__all__ = ["main", "run"]


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
        args = flags.parsed(rest)
        args.joined = joined
        return _VERBS[args.verb](args, pairs)
    except flags.UserError as error:
        print(f"jaxdiff: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("jaxdiff: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130


@contextlib.contextmanager
def _users() -> Iterator[None]:
    """Within it, what a part refuses is the user's to mend: one line, no traceback."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise flags.UserError(str(error)) from error


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
    from jaxdiff import verbs

    if args.images is not None:
        with _users():
            _refuse(args, pairs)
            for name in ("ema", "sampler", "steps", "guidance", "seed", "num", "bits", "watch"):
                if getattr(args, name):
                    raise ValueError(f"--{name} is for the samples of a run; --images are judged as they are")
            return verbs.evaluate_images(
                args.images, args.reference, features=args.features, criteria=args.metrics, weights=args.weights,
                protocol=args.protocol, reference_protocol=args.reference_protocol, batch=args.batch, out=args.out)
    with _users():
        if args.watch and not verbs.awaited(args.workdir, args.patience):
            print(f"jaxdiff: no run has begun in {args.workdir} for {args.patience:g} minutes, or it failed",
                  file=sys.stderr)
            return 1
    with _drawing(args, "evaluate", pairs) as (config, beat):
        with _users():
            axes = {"sample.ema": args.ema, "sampler": args.sampler and [{"name": name} for name in args.sampler],
                    "times.steps": args.steps, "guidance.classifier_free.scale": args.guidance}
            job = verbs.commission(
                args.workdir, config, verbs.settings(config, axes, args.seeds), ("all",) if args.watch else
                args.checkpoints, features=args.features, criteria=args.metrics, weights=args.weights,
                protocol=args.protocol, reference=args.reference, reference_protocol=args.reference_protocol,
                batch=args.batch, bits=args.bits, out=args.out)
        return verbs.followed(job, patience=args.patience, beat=beat) if args.watch else verbs.evaluate(job, beat)


def _reference(args: argparse.Namespace, pairs: Sequence[tuple[str, str]]) -> int:
    from jaxdiff import verbs

    with _users():
        _refuse(args, pairs)
        print(verbs.refer(args.data or args.images, args.out, features=args.features, weights=args.weights,
                          protocol=args.protocol, split=args.split, batch=args.batch, moments_only=args.moments_only))
    return 0


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
    """Returns a command's flags as what they change in the config; an evaluation's lists are its grid's."""
    told = [(f"{slot}.num", args.num), (f"{slot}.seed", args.seed)]
    if slot == "evaluate":
        return told
    sampler = None if args.sampler is None else {"name": args.sampler}
    return [*told, ("sample.ema", args.ema), ("sampler", sampler), ("guidance.classifier_free.scale", args.guidance),
            ("times.steps", args.steps)]


_VERBS: dict[str, Callable[[argparse.Namespace, Sequence[tuple[str, str]]], int]] = {
    "train": _train, "sample": _sample, "evaluate": _evaluate, "reference": _reference, "report": _report,
    "convert": _convert, "encode": _encode, "export": _export, "data": _data, "plan": _plan,
}
