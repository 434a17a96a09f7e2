"""Measures the train step and the sampler of named configs on the devices that are here, on made-up data.

    compile   seconds of lowering and compiling the train step
    img/s     of training, the median of the steps after a few; of sampling, the whole sampler
    MFU       model FLOPs utilisation: three times the matrix FLOPs of one evaluation of the network for each image,
              over the device's peak in bfloat16 (`jaxdiff.flops.peak`; nothing for a CPU)
    GiB       most memory in use on a device, where the device tells

Command: python -m benchmarks.speed configs/dit.py:s_2 configs/edm.py:ddpmpp_cifar10 --batch=256 --steps=20
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def made_up(shapes: dict[str, Any], rng: Any) -> dict[str, Any]:
    """Returns a batch of the shapes: bytes, labels of class 0, small numbers."""
    import numpy as np

    def column(name: str, leaf: Any) -> Any:
        if name == "image":
            return rng.integers(0, 256, leaf.shape, np.uint8)
        if np.issubdtype(leaf.dtype, np.floating):
            return rng.standard_normal(leaf.shape, np.float32).astype(leaf.dtype) ** 2
        return np.zeros(leaf.shape, leaf.dtype)

    return {name: column(name, leaf) for name, leaf in shapes.items()}


def measure(spec: str, batch: int, steps: int, sampled: int) -> dict[str, Any]:
    """Returns the figures of one config."""
    import jax
    import numpy as np

    from benchmarks import networks_table
    from jaxdiff import experiment, flops, mesh, overrides, sample, train

    changes = [("batch", str(batch)), ("accumulate", "1"), ("mesh.data", "-1"), ("mesh.fsdp", "1"),
               ("mesh.rules", "()")]
    config = overrides.apply(overrides.load(str(ROOT / spec)), changes)
    on = experiment.meshed(config)
    made = experiment.model(config, networks_table.example(config))
    state = made.init(jax.random.key(0), on)
    data = mesh.put(on, made_up(made.example, np.random.default_rng(0)))
    key = jax.random.key(1)
    begun = time.perf_counter()
    with jax.set_mesh(on):
        run: Any = train.compiled(made.step(), state)
        run = run.lower(state, data, key).compile()
        compiling = time.perf_counter() - begun
        laps = []
        for _ in range(steps + 3):
            begun = time.perf_counter()
            state, metrics = run(state, data, key)
            jax.block_until_ready(metrics)
            laps.append(time.perf_counter() - begun)
    step = float(np.median(laps[3:]))
    speed, peak, macs = batch / step, flops.peak(jax.devices()[0].device_kind), made.macs()
    found = {
        "spec": spec, "device": jax.devices()[0].device_kind, "devices": jax.device_count(), "jax": jax.__version__,
        "batch": batch, "parameters": train.count(state.params), "compile_s": round(compiling, 1),
        "step_ms": round(step * 1e3, 2), "images_per_second": round(speed, 1), "loss": float(metrics["loss"]),
        "mfu": round(6 * macs * speed / (peak * jax.device_count()), 4) if peak and macs else None,
    }
    found["peak_gib"] = _memory(jax.devices()[0])
    return found | (_sampled(config, made, state, on, sampled, sample) if sampled else {})


def _memory(device: Any) -> float | None:
    stats = device.memory_stats() or {}
    return round(stats["peak_bytes_in_use"] / 2**30, 2) if "peak_bytes_in_use" in stats else None


def _sampled(config: Any, made: Any, state: Any, on: Any, batch: int, sample: Any) -> dict[str, Any]:
    import jax
    import numpy as np

    from jaxdiff import experiment

    generation = experiment.generation(config, made)
    denoiser = generation.guided(made.objective.denoiser(state.ema[made.ema[0]]))
    # Of class 0: a text is not made up here.
    cond_of = (lambda indices: {"label": np.zeros(len(indices), np.int32)}) if made.classes else None
    seconds = []
    for number in range(2):  # the first one compiles
        begun = time.perf_counter()
        images = sample.generate(denoiser, generation.sampler, generation.times, jax.random.key(number), num=batch,
                                 shape=made.shape, batch=batch, cond_of=cond_of, mesh=on)
        seconds.append(time.perf_counter() - begun)
    return {"sampler": config.sampler.name, "sampling_steps": generation.times.steps,
            "samples_per_second": round(batch / seconds[1], 2), "sampler_first_s": round(seconds[0], 1),
            "finite": bool(np.isfinite(images).all())}


def main(argv: list[str] | None = None) -> int:
    """Prints a JSON line a config."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("specs", nargs="+", help="configs/dit.py:s_2 ..., or with a batch: configs/dit.py:s_2@256")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--sample", type=int, default=0, metavar="N", help="also draw N samples, one batch")
    given = parser.parse_args(argv)
    sys.path.insert(0, str(ROOT))
    for spec in given.specs:
        name, _, batch = spec.partition("@")
        try:
            print(json.dumps(measure(name, int(batch or given.batch), given.steps, given.sample)), flush=True)
        except Exception as error:  # out of memory, mostly: the others are still to be measured
            print(json.dumps({"spec": spec, "error": f"{type(error).__name__}: {error}"[:300]}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
