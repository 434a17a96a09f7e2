"""Features and moments of one folder of images, here and by the torch tools: images a second, and the ratio.

All make the 2,048 features of FID's Inception of n PNG files of 32x32, in float32, 64 a call, with the same weights,
drawn from a seed, and their mean and covariance, on the CPU.  Ours and the tools take turns; figures are medians of the
turns.  The network's own time is that of its compiled program on a batch that lies ready; the rest is reading,
decoding, moving and moments.

Command: python -m benchmarks.evaluation --peers=/tmp/peers/bin/python   (--n=256 --turns=3: 10 minutes on 2 CPU cores)
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from jaxdiff import evaluate, metrics
from jaxdiff import mesh as meshes
from jaxdiff.metrics.features import inception
from jaxdiff.verbs import against

BATCH = 64
PEERS = Path(__file__).resolve().with_name("evaluation_peers.py")
PROTOCOLS = {"torch-fidelity": "tf1", "pytorch-fid": "half_pixel", "clean-fid": "clean"}


def write(folder: Path, n: int) -> None:
    """Writes n images of noise, smooth and rough."""
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    for i in range(n):
        coarse = rng.integers(0, 256, (4, 4, 3)).repeat(8, 0).repeat(8, 1)
        image = np.clip(coarse + rng.normal(0, 8, (32, 32, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(image).save(folder / "images" / f"{i:05}.png")


def ours(folder: Path, protocol: str) -> tuple[float, float]:
    """Returns the seconds of all images, and those of the network alone."""
    mesh = meshes.make_mesh()
    extractors = evaluate.placed({"inception": inception(weights=folder / "weights.pth", protocol=protocol)}, mesh)
    source = evaluate.pictures.opened(str(folder / "images"))
    first = np.stack([example["image"] for example in evaluate.pictures.examples(source, 0, BATCH)])
    alone = jax.jit(lambda extractors, images: evaluate.Seeing(None, ("features",))(images, extractors))
    jax.block_until_ready(alone(extractors, first))
    against.looked(source, extractors, ("features",), BATCH, mesh)  # compiles
    begun = time.perf_counter()
    seen = against.looked(source, extractors, ("features",), BATCH, mesh)
    metrics.moments(seen["inception/features"])
    whole = time.perf_counter() - begun
    begun = time.perf_counter()
    for _ in range(-(-len(seen["inception/features"]) // BATCH)):
        jax.block_until_ready(alone(extractors, first))
    return whole, time.perf_counter() - begun


def main(argv: list[str] | None = None) -> int:
    """Prints a line a tool; returns 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", required=True, help="a Python that has torch and the tools")
    parser.add_argument("--n", type=int, default=256)
    parser.add_argument("--turns", type=int, default=3)
    given = parser.parse_args(argv)
    cores = len(os.sched_getaffinity(0))
    times: dict[str, list] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write(folder, given.n)
        for turn in range(given.turns):
            command = [given.peers, str(PEERS), place, str(cores)]
            told = subprocess.run(command, capture_output=True, text=True, check=False)
            if told.returncode:
                print(told.stderr[-3000:], file=sys.stderr)
                return 1
            for name, seconds in json.loads(told.stdout.splitlines()[-1]).items():
                whole, network = ours(folder, PROTOCOLS[name])
                times.setdefault(name, []).append((seconds, whole, network))
                print(f"turn {turn + 1}: {name} {given.n / seconds:.1f} img/s, ours ({PROTOCOLS[name]}) "
                      f"{given.n / whole:.1f}, beside the network {1 - network / whole:.1%}", flush=True)
    for name, turns in times.items():
        theirs, mine, network = (statistics.median(column) for column in zip(*turns, strict=True))
        print(json.dumps({"tool": name, "protocol": PROTOCOLS[name], "n": given.n, "cores": cores,
                          "theirs_img_s": round(given.n / theirs, 2), "ours_img_s": round(given.n / mine, 2),
                          "ratio": round(theirs / mine, 2), "beside_network": round(1 - network / mine, 4)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
