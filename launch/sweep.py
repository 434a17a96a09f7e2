"""Trains a config many times, each with other values.

    python launch/sweep.py --config=configs/sweeps/digits.py --workdir=runs/sweep --on=local --parallel=2
    python launch/sweep.py table --workdir=runs/sweep --metric=loss
    python launch/sweep.py stop --workdir=runs/sweep

The same command again goes on: what is done is skipped, a grid that grew runs what is new.  On `local` a pool, on
`slurm` one array; on `sky` and `xpk` all is submitted, and the engine's queue decides.  With --trials=N a config's
`search(trial)` is asked by Optuna instead, on `local`.
"""

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path[0] = str(ROOT)

from launch import checks, ledger, run, snapshot, table, trials  # noqa: E402
from launch.engines import MODULES, engine, here, slurm  # noqa: E402
from launch.job import Job, Rendering, plain, script  # noqa: E402
from launch.pool import Sweep, ledger_of, lock_of, noted, run_all  # noqa: E402

__all__ = ["main", "parsed", "rows"]


def parsed(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str], tuple[str, ...]]:
    """Returns the flags, the config's changes for all trials, and the engine's flags."""
    ours, changes, theirs = run.split(argv)
    parser = run.Parser(prog="launch/sweep.py", description=__doc__, allow_abbrev=False,
                         formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", nargs="?", default="run", choices=("run", "table", "stop"))
    parser.add_argument("--config", metavar="FILE[:ARG]", help="with a `def sweep(s)`")
    parser.add_argument("--workdir", required=True, metavar="ROOT", help="of all trials")
    parser.add_argument("--parallel", type=int, default=1, metavar="N", help="trials at a time (%(default)s)")
    parser.add_argument("--evaluate", action="store_true", help="each trial after its training, on local")
    parser.add_argument("--metric", default="loss", help="what the table is sorted by (%(default)s)")
    parser.add_argument("--trials", type=int, metavar="N", help="ask `def search(trial)` N times, by Optuna")
    parser.add_argument("--prune", action="store_true", help="a search ends what falls behind its median")
    run.shape_flags(parser)
    args = parser.parse_args(ours)
    args.run = "train"
    if args.verb == "run":  # the table and the end of a sweep know the engine from its ledger
        if args.on is None:
            raise ValueError(f"--on=ENGINE is missing: {', '.join(MODULES)}")
        if args.config is None:
            raise ValueError("--config=FILE is missing: a config with a `def sweep(s)`")
        if args.on == "gcloud":
            raise ValueError("--on=gcloud has no queue for a sweep; --on=sky looks for the same TPUs and has one")
        if args.parallel < 1 or (args.trials or 1) < 1:
            raise ValueError("--parallel and --trials are at least 1")
        if args.on != "local" and (args.evaluate or args.trials):
            raise ValueError(f"{'--evaluate' if args.evaluate else '--trials'} goes with --on=local")
    return args, changes, theirs


def _alive(names: Mapping[str, Mapping[str, Any]], root: str) -> dict[str, bool | None]:
    """Returns, for every name, whether it runs or waits; None where the engine did not say."""
    found: dict[str, bool | None] = {}
    lists: dict[tuple[str, ...], str | None] = {}
    for name, row in names.items():
        if row["engine"] == "local":
            lock = here.Lock(lock_of(root, name))
            found[name] = not lock.taken()
            lock.close()
            continue
        words = tuple(row["status"])
        if words not in lists:
            try:
                done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
                lists[words] = done.stdout if done.returncode == 0 else None
            except (OSError, subprocess.TimeoutExpired):
                lists[words] = None
        told = lists[words]
        found[name] = None if told is None else any(
            set(row.get("listed", [name])) <= set(line.split()) and not OVER & set(line.split())
            for line in told.splitlines())
    return found


OVER = {"SUCCEEDED", "FAILED", "CANCELLED", "FAILED_SETUP", "Completed", "Failed", "COMPLETED", "Finished"}


def rows(root: str) -> list[dict[str, Any]]:
    """Returns, for every trial: name, state, work folder, its changes, and all numbers that it told."""
    known = ledger.submissions(ledger_of(root))
    if not known:
        raise ValueError(f"--workdir={root}: no sweep was begun there")
    alive = _alive(known, root)
    return [{"name": name,
             "state": table.state(table.read(row["workdir"], "run.jsonl"), row["then"], alive[name]),
             **{key: str(value) for key, value in row["changes"].items()},
             **table.metrics(row["workdir"]), "workdir": row["workdir"]}
            for name, row in known.items()]


def told(root: str, metric: str) -> None:
    """Prints the table, and writes it as CSV and as a picture.

    Raises:
      ValueError: no trial has told the metric, though some have told others.
    """
    found = rows(root)
    metric = metric if any(isinstance(value, float) for row in found for value in row.values()) else ""
    ordered = table.sort(found, metric) if metric else found
    count = {state: sum(row["state"] == state for row in found) for state in table.STATES}
    print(table.as_text(ordered, list(filter(None, dict.fromkeys(("name", "state", "step", metric))))))
    print(", ".join(f"{number} {state}" for state, number in count.items() if number))
    folder = ledger_of(root).parent
    stem = "sweep" if "://" not in root else ledger_of(root).stem
    (folder / f"{stem}.csv").write_text(table.as_csv(ordered), encoding="utf-8")
    print(f"all of it: {folder / f'{stem}.csv'}")
    if metric:
        table.draw(ordered, metric, folder / f"{stem}.png")
        print(f"picture:   {folder / f'{stem}.png'}", flush=True)


def _closing(root: str, metric: str) -> None:
    """Prints the table at the end of a run, which may have ended before the metric was told."""
    try:
        told(root, metric)
    except ValueError as error:
        print(f"launch: {error}", file=sys.stderr)


def submit(sweep: Sweep) -> int:
    """Submits what is not done; returns the exit status."""
    on = engine(sweep.args.on)
    before = ledger.submissions(sweep.ledger)
    found = trials.loaded(sweep.config, ROOT, "sweep")(trials.Space())
    listed = trials.listed(sweep.config, found, {row["key"]: name for name, row in before.items()})
    states = {row["name"]: row["state"] for row in rows(sweep.root)} if before else {}
    waiting = ("done", "pruned") if on.NAME == "local" else ("done", "pruned", "queued", "running", "preempted")
    due = [trial for trial in listed if states.get(trial.name) not in waiting or (
        sweep.args.evaluate and states[trial.name] == "done"
        and not table.read(f"{sweep.root}/{trial.name}", "eval/results.jsonl"))]
    print(f"{len(listed)} trials, {len(listed) - len(due)} done or under way", flush=True)
    if not due:
        _closing(sweep.root, sweep.args.metric)
        return 0
    given = snapshot.code(ROOT, sweep.config)
    jobs = [sweep.job(trial) for trial in due]
    files = {f"jobs/{job.name}.sh": script(job, given.stamp) for job in jobs}
    name = plain(Path(sweep.root).name, 24, "sweep")
    place = given.path(name, files | {"": f"{on.NAME} {jobs}"})
    if on.NAME == "slurm":
        made = [slurm.array(jobs, name, str(place), sweep.args.parallel)]
    else:
        made = [on.render(job, str(place), sys.executable) for job in jobs]
    for each in made:
        files |= each.files
    if sweep.args.dry_run:
        for file, text in files.items():
            print(f"# {file}\n{text}")
        for each in made:
            print(run.shown(jobs[0], {}, each, place))
        return 0
    checks.ready(on, jobs[0], made[0])
    if not run.agreed(f"{len(jobs)} trials on {on.NAME}: {_cost(sweep, jobs)}", sweep.args):
        return 130
    snapshot.write(given, place, files)
    if on.NAME == "local":
        status = run_all(sweep, due, place, given.stamp)
        _closing(sweep.root, sweep.args.metric)
        return status
    return _queued(sweep, list(zip(due, jobs, strict=True)), made, name, place, given.stamp)


def _cost(sweep: Sweep, jobs: Sequence[Job]) -> str:
    """Looks at the first trial as at any job; returns what each will take."""
    job, planned = jobs[0], run.planned(jobs[0], sweep.args, run.split(list(jobs[0].argv))[1])
    if sweep.args.on == "local":
        return f"{sweep.args.parallel} at a time"
    return "each " + checks.cost(job, planned, checks.price(job, sweep.args.price) if job.accelerator else None)


def _queued(sweep: Sweep, due: Sequence[tuple[trials.Trial, Job]], made: Sequence[Rendering], name: str, place: Path,
            code: str) -> int:
    """Submits one array for all, or each for itself; every line of the ledger before its submission."""
    if sweep.args.on == "slurm":
        parts = [(made[0], [(*pair, {"listed": [name, str(number)]}) for number, pair in enumerate(due)])]
    else:
        parts = [(each, [(*pair, {})]) for each, pair in zip(made, due, strict=True)]
    for each, members in parts:
        for trial, job, more in members:
            sweep.note(trial, job, place, code, status=each.status, stop=each.stop, **more)
        if failed := run.execute(each.submit, place):
            for trial, _, _ in members:
                ledger.append(sweep.ledger, "failed", trial.name, status=failed)
            return failed
    return 0


def stop(root: str) -> int:
    """Stops what waits or runs; returns the exit status."""
    known, worst = ledger.submissions(ledger_of(root)), 0
    alive, told_stop = _alive(known, root), set()
    if any(row["engine"] == "local" for row in known.values()):
        worst = here.main(["stop", str(noted(root))])
    for name, row in known.items():
        if alive[name] is False:
            continue
        ledger.append(ledger_of(root), "stopped", name)
        if row["engine"] != "local" and tuple(row["stop"]) not in told_stop:
            told_stop.add(tuple(row["stop"]))
            worst = run.execute([row["stop"]], ROOT) or worst
    return worst


def main(argv: Sequence[str]) -> int:
    """Does what the command line says; returns the exit status."""
    try:
        args, changes, flags = parsed(argv)
        root = checks.where(args.workdir, "local" if args.verb != "run" else args.on)
        if args.verb == "table":
            told(root, args.metric)
            return 0
        if args.verb == "stop":
            return stop(root)
        sweep = Sweep(root, args.config, args, tuple(changes), flags)
        if args.trials:
            from launch import search

            if args.dry_run:
                trials.loaded(args.config, ROOT, "search")
                print(f"# search(trial) of {args.config}, asked {args.trials} times, {args.parallel} at a time; "
                      f"its study in {root}/search.log")
                return 0
            status = search.searched(sweep, ROOT)
            _closing(root, args.metric)
            return status
        return submit(sweep)
    except ValueError as error:
        print(f"launch: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
