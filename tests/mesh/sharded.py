"""What the tests of sharded training share, in processes of 8 virtual devices: small networks, and runs of them."""

import jax
import numpy as np
import optax

from jaxdiff import mesh, networks, objective, parameterization, process, train
from jaxdiff.objective import levels

NULL = {"label": np.int32(3)}
DIT = objective.denoising(networks.DiT(width=16, heads=2, depth=2, num_classes=3), process.RectifiedFlow(),
                          parameterization.velocity(), null=NULL, drop=0.1)
UNET = networks.SongUNet(channels=8, mults=(1,), blocks=1, attention=(), num_classes=3, dropout=0.0)
SONG = objective.denoising(UNET, process.EDM(), parameterization.edm(sigma_data=0.5), levels=levels.lognormal,
                           null=NULL, drop=0.1)
MLP = objective.denoising(networks.MLP(width=16, depth=1, num_classes=3), process.EDM(),
                          parameterization.edm(sigma_data=0.5), null=NULL, drop=0.1)
LOSSES = {"DiT": DIT, "SongUNet": SONG, "MLP": MLP}
RULES = {
    "DiT": (("(qkv|mlp0|modulation)/kernel", (None, "fsdp")),
            ("blocks/attention/out/kernel", (None, "tensor", None, "fsdp")),
            ("blocks/mlp1/kernel", (None, "tensor", "fsdp"))),
    "SongUNet": (("conv[01]/kernel", (None, None, "tensor", "fsdp")),),
    "MLP": (("hidden0/kernel", (None, "fsdp")),),
}
SHAPES = ((8, 1, 1), (2, 4, 1), (1, 4, 2))
EMA = ("decay_0.9", "power_0.1")
RNG = np.random.default_rng(0)
BATCH = {"x0": RNG.standard_normal((16, 4, 4, 2)).astype(np.float32),
         "cond": {"label": RNG.integers(0, 3, 16).astype(np.int32)}}
KEY = jax.random.key(1)


def on_mesh(shape):
    """The mesh of these sizes, over as many devices."""
    return mesh.make_mesh(**dict(zip(mesh.AXES, shape, strict=True)), devices=jax.devices()[:int(np.prod(shape))])


def shardings(tree):
    """Where every array of a tree lies."""
    return jax.tree.map(lambda leaf: leaf.sharding, tree)


def batch_of(name):
    """What a network is trained on: images, or vectors."""
    return BATCH | {"x0": BATCH["x0"][:, 0, 0]} if name == "MLP" else BATCH


class Runs:
    """Runs of one network from one beginning; each compiles its step, and nothing else."""

    def __init__(self, name, optimizer=None):
        self.name, self.loss, self.optimizer = name, LOSSES[name], optimizer or optax.adam(1e-3)
        self.step = train.make_step(self.loss, self.optimizer, ema=EMA)
        self.batch = batch_of(name)
        self.start = jax.device_get(train.init(self.loss, self.optimizer, self.batch, jax.random.key(0), ema=EMA))

    def state(self, on, zero=False):
        """The beginning, on a mesh; cut by the rules where fsdp or tensor is more than 1."""
        rules = RULES[self.name] if on.size > on.shape["data"] else ()
        shapes = train.shapes(self.loss, self.optimizer, self.batch, mesh=on, rules=rules, zero=zero, ema=EMA)
        return jax.device_put(self.start, shardings(shapes))

    def run(self, on, zero=False, steps=3):
        """(losses, last state, memory analysis) of a few steps."""
        state, batch, key = self.state(on, zero), mesh.put(on, self.batch), jax.device_put(KEY, mesh.replicated(on))
        losses = []
        with jax.set_mesh(on):
            program = train.compiled(self.step, state).lower(state, batch, key).compile()
            for _ in range(steps):
                state, metrics = program(state, batch, key)
                losses.append(float(metrics["loss"]))  # waits: free-running loops on virtual devices deadlock
        return np.array(losses), state, program.memory_analysis()
