"""What depth costs the compiler, a train step against torch's, and slopes through networks; into docs/networks.md.

    depth    CPU seconds of compiling DiT-XL/2's train step for 16 TPU v5e, at depth 28 over depth 4
    step     seconds of a train step (loss, gradient, AdamW, average; float32) over those of the torch peer of the same
             sizes: diffusers' DiT, physicsnemo's DDPM++.  Same batch and threads, a process each, in turns
    slopes   a derivative by forward mode, through every policy of what is computed again, against central differences:
             the largest difference over the largest slope

Command: PYTHONPATH=.venv/tpu python -m benchmarks.networks --peers=PYTHON   (PYTHON has torch, diffusers, physicsnemo;
5 minutes on 2 CPU cores)
"""

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import networks_table
from jaxdiff import layers, networks, objective, overrides, parameterization, process, train
from jaxdiff.objective import levels

START = "<!-- written by python -m benchmarks.networks -->"
THREADS, STEPS, ROUNDS = 2, 12, 3
SIZES = {  # sizes, batch
    "dit": (dict(width=384, depth=6, heads=6, side=32, channels=4), 8),
    "ddpmpp": (dict(width=32, mults=(1, 2), blocks=2, side=32, channels=3), 16),
}
PEERS = {"dit": "diffusers' DiT", "ddpmpp": "physicsnemo's DDPM++"}


def network(name: str, **changes: Any) -> Any:
    """Returns the network of a name in `SIZES`."""
    sizes = {key: value for key, value in SIZES[name][0].items() if key not in ("side", "channels")} | changes
    if name == "dit":
        return networks.DiT(num_classes=1000, **sizes)
    sizes["channels"] = sizes.pop("width")
    return networks.SongUNet(num_classes=1000, attention=(SIZES[name][0]["side"] // 2,), dropout=0.0, **sizes)


def seconds(name: str) -> dict[str, Any]:
    """Returns the median seconds of our train step."""
    sizes, batch = SIZES[name]
    loss = objective.denoising(network(name), process.RectifiedFlow(), parameterization.velocity(),
                               levels=functools.partial(levels.uniform))
    rows = {"x0": jax.random.normal(jax.random.key(0), (batch, sizes["side"], sizes["side"], sizes["channels"])),
            "cond": {"label": jnp.arange(batch)}}
    optimizer = optax.adamw(1e-4)
    state = train.init(loss, optimizer, rows, jax.random.key(1))
    step = train.compiled(train.make_step(loss, optimizer), state)
    spent = []
    for _ in range(STEPS):
        begin = time.perf_counter()
        state, metrics = step(state, rows, jax.random.key(2))
        metrics["loss"].block_until_ready()
        spent.append(time.perf_counter() - begin)
    return {"seconds": statistics.median(spent[2:]), "parameters": sum(p.size for p in jax.tree.leaves(state.params))}


def slope_error(name: str, remat: str) -> float:
    """Returns by how much the slope along cos(x) is not that of central differences, over the largest."""
    small = dict(width=32, depth=2, heads=2, remat=remat) if name == "dit" else dict(width=16, blocks=1)
    sizes = SIZES[name][0]
    net = network(name, **small)
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, sizes["channels"]))
    given = jnp.array([0.3, -0.6]), {"label": jnp.arange(2)}
    like = jax.eval_shape(net.init, jax.random.key(1), x, *given)
    rng = np.random.default_rng(0)  # at the start the network is zero, and its slope is nothing
    params = jax.tree.map(lambda leaf: jnp.asarray(0.1 * rng.standard_normal(leaf.shape), jnp.float32), like)
    apply = jax.jit(lambda x: net.apply(params, x, *given))
    _, slope = jax.jit(lambda x: jax.jvp(apply, (x,), (jnp.cos(x),)))(x)
    step = 1e-2
    central = (apply(x + step * jnp.cos(x)) - apply(x - step * jnp.cos(x))) / (2 * step)
    return float(jnp.abs(slope - central).max() / jnp.abs(central).max())


def compiling(depth: int) -> float:
    """Returns the CPU seconds of lowering and compiling DiT-XL/2's train step."""
    config = overrides.load(str(networks_table.ROOT / "configs" / "dit.py") + ":xl_2")
    with config.unlocked():
        config.network.depth = depth
    return networks_table.measure(config, "train")["cpu_s"]


def apart(*words: str, python: str = sys.executable, module: str = "benchmarks.networks", **settings: str) -> Any:
    """Runs in a process of its own, on the cores of this one; returns what it prints."""
    start = [module] if module.endswith(".py") else ["-m", module]
    run = subprocess.run([python, *start, *words], cwd=networks_table.ROOT, env={**os.environ, **settings},
                         stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])


def depths() -> str:
    """Returns the sentence on depth."""
    shallow, deep = (apart("--one", f"compiling:{depth}", **networks_table.ENVIRONMENT) for depth in (4, 28))
    return (f"- **depth**: compiling DiT-XL/2's train step for {networks_table.TOPOLOGY} takes {deep:.0f} s of CPU at "
            f"depth 28 and {shallow:.0f} s at depth 4: {deep / shallow:.2f} of it.")


def steps(name: str, peers: str) -> str:
    """Returns the sentence on a train step: the median ratio of some rounds, in turns."""
    sizes, batch = SIZES[name]
    pairs = []
    for _ in range(ROUNDS):
        ours = apart("--one", f"seconds:{name}", JAX_PLATFORMS="cpu")
        theirs = apart(name, json.dumps(sizes), str(batch), str(STEPS), str(THREADS), python=peers,
                       module="benchmarks/networks_peers.py")
        pairs.append((ours, theirs))
    ratios = sorted(ours["seconds"] / theirs["seconds"] for ours, theirs in pairs)
    ours, theirs = pairs[-1]
    return (f"- **step**, {name}, {ours['parameters']:,} parameters, batch {batch}, {THREADS} CPU cores, float32: "
            f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) of the time of {PEERS[name]} in "
            f"torch {theirs['torch']} ({theirs['parameters']:,} parameters); in the last round {ours['seconds']:.3f} s "
            f"and {theirs['seconds']:.3f} s.")


def slopes() -> str:
    """Returns the sentence on slopes."""
    found = [f"DiT, remat {policy} {slope_error('dit', policy):.0e}" for policy in layers.REMAT]
    found.append(f"DDPM++ {slope_error('ddpmpp', 'none'):.0e}")
    return "- **slopes** by forward mode against central differences in float32: " + ", ".join(found) + "."


def main(argv: list[str] | None = None) -> int:
    """Measures and writes; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", help="a Python that has torch, diffusers and physicsnemo")
    parser.add_argument("--one", help="measure here, and print")
    given = parser.parse_args(argv)
    if given.one:
        what, _, argument = given.one.partition(":")
        print(json.dumps(seconds(argument) if what == "seconds" else compiling(int(argument))))
        return 0
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
    lines = [slopes(), depths(), *(steps(name, given.peers) for name in SIZES if given.peers)]
    print("\n".join(lines))
    networks_table.replace(START, "\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
