"""Trains the digits classifier that `jaxdiff.metrics.features.digits` ships, and writes its weights.

Source: scikit-learn's 8x8 digits, the 1,500 of the train split only; the 297 others are judged once.
Command: python -m benchmarks.digits_classifier   (25 s on 2 CPU cores; every run gives the same file)
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict

from jaxdiff import data
from jaxdiff.metrics import convnet

# Chosen by cross-validation within the train split: 99.3 % right at a mean confidence of 99.6 %.
BATCH, STEPS, RATE = 125, 1800, 3e-3
NOISE = 0.2  # largest standard deviation added, in units of [-1, 1]


def scaled(images: np.ndarray) -> jax.Array:
    """uint8 -> [-1, 1], as the extractor does."""
    return jnp.asarray(images, jnp.float32) / 127.5 - 1


def augment(key: jax.Array, x: jax.Array) -> jax.Array:
    """Moves each image [b, 8, 8, 1] by up to one pixel, black coming in, and adds a little noise."""
    move_key, level_key, noise_key = jax.random.split(key, 3)
    corners = jax.random.randint(move_key, (len(x), 2), 0, 3)
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-1)
    cut = lambda image, corner: jax.lax.dynamic_slice(image, (*corner, 0), x.shape[1:])
    level = jax.random.uniform(level_key, (len(x), 1, 1, 1), maxval=NOISE)
    return jnp.clip(jax.vmap(cut)(padded, corners) + level * jax.random.normal(noise_key, x.shape), -1, 1)


def train(x: jax.Array, label: jax.Array, *, seed: int, steps: int) -> tuple[dict, np.ndarray]:
    """Returns the parameters after `steps` of AdamW on a cosine schedule, and the losses."""
    init_key, run_key = jax.random.split(jax.random.key(seed))
    net = convnet.Convnet()
    optimizer = optax.adamw(optax.cosine_decay_schedule(RATE, steps), weight_decay=1e-2)

    def loss(params, key):
        pick_key, augment_key = jax.random.split(key)
        picked = jax.random.choice(pick_key, len(x), (BATCH,))
        logits = net.apply({"params": params}, augment(augment_key, x[picked]))[1]
        return optax.softmax_cross_entropy_with_integer_labels(logits, label[picked]).mean()

    @jax.jit
    def step(params, opt_state, key):
        value, grads = jax.value_and_grad(loss)(params, key)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    params = net.init(init_key, x[:1])["params"]
    opt_state, losses = optimizer.init(params), []
    for key in jax.random.split(run_key, steps):  # convolutions in a `lax.scan` are 20 times slower on a CPU
        params, opt_state, value = step(params, opt_state, key)
        losses.append(value)
    return params, np.asarray(losses)


def stored(params: dict) -> dict:
    """Half precision, in which the weights are shipped and must be judged."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float16), params)


def logits(params: dict, images: np.ndarray) -> np.ndarray:
    """Of images [b, 8, 8, 1] uint8."""
    params = jax.tree.map(lambda leaf: leaf.astype(np.float32), params)
    return np.asarray(convnet.Convnet().apply({"params": params}, scaled(images))[1])


def main(arguments: list[str] | None = None) -> None:
    """Trains, prints the accuracy on both splits, and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--out", type=Path, default=convnet.WEIGHTS)
    options = parser.parse_args(arguments)
    splits = {name: data.digits(split=name) for name in ("train", "test")}
    learnt = splits["train"]
    x, label = scaled(learnt["image"]), jnp.asarray(learnt["label"])
    params, losses = train(x, label, seed=options.seed, steps=options.steps)
    params = stored(params)
    about = {"seed": options.seed}
    print(f"loss {losses[0]:.3f} -> {losses[-50:].mean():.3f}")
    for name, split in splits.items():
        correct = int((logits(params, split["image"]).argmax(-1) == split["label"]).sum())
        about |= {name: len(split["label"]), f"{name}_correct": correct}
        print(f"{name}: {correct} of {len(split['label'])} right, {correct / len(split['label']):.2%}")
    arrays = flatten_dict(params, sep="/") | {convnet.ABOUT + name: value for name, value in about.items()}
    np.savez(options.out, **arrays)
    print(f"{options.out}: {options.out.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
