"""What the data of a config are, which of them are broken, and whether they come as fast as a step takes them.

Every example is decoded once, as training would, but for folders, whose opening has done so.  The loader's speed is
that of this machine for the whole batch: of several processes each loads its rows alone.
"""

import collections
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from jaxdiff import data, experiment, loop, train
from jaxdiff import mesh as meshes
from jaxdiff import workdir as workdirs
from jaxdiff.data.files import Broken

__all__ = ["check", "lines", "pace_of", "step_pace"]

THREADS = 8
CHUNK = 1_024  # examples that are handed to the threads at a time
NAMED = 100  # problems that are printed
SHOWN = 10  # classes that are counted one by one
LOGGED = 20  # lines of a run's metrics, of which the median is taken


def check(config: ConfigDict, *, most: int | None = None, seconds: float = 5.0) -> dict[str, Any]:
    """Looks at a config's data.

    Args:
      config: the run's.
      most: of the examples to decode, evenly spread; all by default.
      seconds: for how long the loader is timed; 0 not at all.

    Returns:
      JSON values: `data`, `examples`, `looked_at`, `columns` (name -> dtype and shape), `classes` (label -> count),
      `problems`, one line each, and, where there are none, `fingerprint` and `loader` with its `images_per_second`.

    Raises:
      ValueError: data that are not there, or of which nothing can be said.
    """
    spec = experiment.as_json(config.data)
    told: dict[str, Any] = {"data": spec}
    try:
        source = experiment.build(config.data, data)
    except Broken as error:
        return told | {"problems": list(error.problems)}
    told |= _columns(source) if isinstance(source, Mapping) else _decoded(source, most)
    told["problems"] += _labels(told["classes"], config)
    if not told["problems"]:
        loader = experiment.loader(config, None)
        told["fingerprint"] = loader.fingerprint
        if seconds:
            told["loader"] = _timed(loader, seconds)
    return told


def _columns(source: Mapping[str, np.ndarray]) -> dict[str, Any]:
    count = len(next(iter(source.values())))
    labels = collections.Counter(np.asarray(source["label"]).tolist() if "label" in source else [])
    return {"examples": count, "looked_at": count, "classes": _counted(labels), "problems": [],
            "columns": {name: _kind(column[0]) for name, column in source.items()}}


def _decoded(source: Any, most: int | None) -> dict[str, Any]:
    """Decodes the examples of a source, or believes one that has done so."""
    told = {"examples": len(source), "looked_at": len(source)}
    if getattr(source, "verified", False):
        known = collections.Counter([] if source.labels is None else source.labels.tolist())
        return told | {"columns": {name: _kind(value) for name, value in source[0].items()},
                       "classes": _counted(known), "problems": []}
    chosen = range(len(source))
    if most is not None and most < len(source):
        chosen = np.linspace(0, len(source) - 1, most).astype(int).tolist()
    labels: collections.Counter = collections.Counter()
    kinds: dict[tuple, int] = {}  # -> the first example of that kind
    problems = []
    for index, found in zip(chosen, _progress(_looked(source, chosen), len(chosen)), strict=True):
        if isinstance(found, str):
            problems.append(found)
            continue
        kind, label = found
        kinds.setdefault(tuple(kind.items()), index)
        labels.update([] if label is None else [label])
    if len(kinds) > 1:
        (first, i), (other, j) = list(kinds.items())[:2]
        one, two = (", ".join(f"{name} {kind}" for name, kind in sorted(items)) or "less"
                    for items in ({*first} - {*other}, {*other} - {*first}))
        problems.append(f"examples differ: {i} has {one} and {j} has {two}; images need one size (option 'size' of "
                        "the source)")
    return told | {"looked_at": len(chosen), "columns": dict(next(iter(kinds), ())), "classes": _counted(labels),
                   "problems": problems}


def _looked(source: Any, chosen: Sequence[int]) -> Iterator[tuple[dict[str, str], int | None] | str]:
    """Yields what each example is, or what is wrong with it, read in threads."""
    read = getattr(source, "check", source.__getitem__)

    def look(index: int) -> tuple[dict[str, str], int | None] | str:
        try:
            example = read(index)
        except Exception as error:  # whatever a source or a decoder raises is what is asked for here
            return str(error) or f"example {index}: {type(error).__name__}"
        label = example["label"] if "label" in example else None
        return {name: _kind(value) for name, value in example.items()}, None if label is None else int(label)

    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(chosen), CHUNK):
            yield from pool.map(look, chosen[start:start + CHUNK])


def _progress(items: Iterator[Any], total: int) -> Iterator[Any]:
    """Yields items, with a bar on a terminal and elsewhere a line for every tenth of many."""
    bar = tqdm(items, total=total, unit=" examples", disable=None)
    for done, item in enumerate(bar, 1):
        yield item
        if bar.disable and total > 10_000 and done % -(-total // 10) == 0:
            print(f"decoded {done:,} of {total:,} examples", file=sys.stderr, flush=True)


def _labels(classes: Mapping[str, int], config: ConfigDict) -> list[str]:
    """Returns what is wrong with labels that the config's network has no class for."""
    number = config.network.num_classes if "num_classes" in config.network else 0
    beyond = [label for label in classes if not 0 <= int(label) < number]
    if not number or not beyond:
        return []
    return [(f"label {beyond[0]} of {classes[beyond[0]]:,} examples: the network has classes 0 to {number - 1}; set "
             f"--config.network.num_classes={max(map(int, classes)) + 1}")]


def _counted(labels: Mapping[int, int]) -> dict[str, int]:
    return {str(label): labels[label] for label in sorted(labels)}


def _kind(value: Any) -> str:
    return f"{np.asarray(value).dtype} {list(np.shape(value))}"


# How fast.


def _timed(loader: experiment.Loader, seconds: float) -> dict[str, Any]:
    """Measures the loader, from its first batch on."""
    batches: Any = loader.batches
    stream = batches(0)
    next(stream)
    images, begun = 0, time.perf_counter()
    while images == 0 or time.perf_counter() - begun < seconds:
        images += len(next(iter(next(stream).values())))
    spent = time.perf_counter() - begun
    if hasattr(stream, "close"):
        stream.close()
    return {"images_per_second": images / spent, "threads": batches.threads, "workers": batches.workers}


def pace_of(workdir: Any) -> float:
    """Returns the images per second that a run's step takes when it does not wait for data, from its log.

    Raises:
      ValueError: the run has logged no speed.
    """
    batch = workdirs.read(workdir, "config.json")["batch"]
    rows = [row for row in workdirs.rows(workdir / "metrics.jsonl") if row.get("images_per_second")][-LOGGED:]
    if not rows:
        raise ValueError(f"{workdir} has logged no speed yet; --needs=IMG_PER_S says it, --steps=N measures it")
    spent = [batch / row["images_per_second"] - row.get("time/data", 0.0) for row in rows]
    return float(batch / max(np.median(spent), 1e-9))


def step_pace(config: ConfigDict, steps: int) -> float:
    """Returns the images per second of a config's training step on this machine's devices, one batch again and again.

    Raises:
      ValueError: whatever is wrong with the config.
    """
    on = experiment.meshed(config)
    loader = experiment.loader(config, on)
    model = experiment.model(config, loader.example)
    key = jax.random.key(config.seed)
    state = model.init(key, on)
    run = train.compiled(model.step(), state)
    batch = meshes.put(on, next(loader.batches(0)))
    with loop.on_mesh(state):
        state = jax.block_until_ready(run(state, batch, key))[0]
        begun = time.perf_counter()
        for _ in range(steps):
            state = jax.block_until_ready(run(state, batch, key))[0]
    return steps * config.batch / (time.perf_counter() - begun)


def lines(told: Mapping[str, Any], needs: float | None = None) -> list[str]:
    """Returns what `check` found as lines to print; `needs` is the step's speed in images per second."""
    place = next((f" {told['data'][key]}" for key in ("path", "dataset") if key in told["data"]), "")
    out = [f"data         {told['data']['name']}{place}"]
    if "examples" in told:
        columns = ", ".join(f"{name} {kind}" for name, kind in told["columns"].items())
        part = "" if told["looked_at"] == told["examples"] else f" ({told['looked_at']:,} looked at)"
        out.append(f"examples     {told['examples']:,}{part}: {columns}")
        out += [f"classes      {_histogram(told['classes'])}"] if told["classes"] else []
    if "fingerprint" in told:
        out.append("fingerprint  " + ", ".join(f"{name} {value}" for name, value in told["fingerprint"].items()))
    problems = told["problems"]
    out.append(f"problems     {len(problems):,}" if problems else "problems     none")
    out += [f"  {problem}" for problem in problems[:NAMED]]
    if len(problems) > NAMED:
        out.append(f"  and {len(problems) - NAMED:,} more; --json names all")
    if "loader" in told:
        out.append(f"speed        {_verdict(told['loader'], needs)}")
    return out


def _histogram(classes: Mapping[str, int]) -> str:
    if len(classes) <= SHOWN:
        return f"{len(classes)}: " + ", ".join(f"{label} {count:,}" for label, count in classes.items())
    ends = sorted(classes, key=lambda label: classes[label])
    return (f"{len(classes):,}, of {classes[ends[0]]:,} (label {ends[0]}) to {classes[ends[-1]]:,} examples "
            f"(label {ends[-1]})")


def _verdict(loader: Mapping[str, Any], needs: float | None) -> str:
    given = loader["images_per_second"]
    text = f"the loader gives {given:,.0f} img/s"
    if needs is None:
        return f"{text} (threads {loader['threads']}, workers {loader['workers']})"
    text = f"{text}, the step can take {needs:,.0f}"
    if given >= needs:
        return text
    return (f"{text}: training waits for data {1 - given / needs:.0%} of the time; --config.loader.workers="
            f"{max(2 * loader['workers'], 2)} decodes in so many processes")
