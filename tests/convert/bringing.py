"""From a file to a network: what the tests of conversion share."""

import json
from pathlib import Path

import jax
import numpy as np
from networks.shown import drawn

from jaxdiff import checkpoint, experiment, foreign, main, networks
from jaxdiff import workdir as workdirs

GOLDEN = Path(__file__).parent.parent / "golden"
UNETS = np.load(GOLDEN / "networks_unets.npz")
TRANSFORMERS = np.load(GOLDEN / "networks_transformers.npz")
UNET = {"block_out_channels": [32, 64], "layers_per_block": 1, "attention_head_dim": 4, "cross_attention_dim": 16,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "sample_size": 8}
FAST = {"xla_backend_optimization_level": 0}


def drawn_of(golden, case):
    """Returns the peer's name -> value."""
    return {name: drawn(name, tuple(shape)) for name, (shape, _) in json.loads(str(golden[f"{case}/peer"])).items()}


def of_dit(source):
    """The authors' names of what diffusers calls otherwise: q, k and v are one there."""
    names = {"pos_embed.proj": "x_embedder.proj", "proj_out_1": "final_layer.adaLN_modulation.1",
             "proj_out_2": "final_layer.linear"}
    inner = {"norm1.linear": "adaLN_modulation.1", "attn1.to_out.0": "attn.proj", "ff.net.0.proj": "mlp.fc1",
             "ff.net.2": "mlp.fc2"}
    embedding = {"timestep_embedder.linear_1": "t_embedder.mlp.0", "timestep_embedder.linear_2": "t_embedder.mlp.2",
                 "class_embedder.embedding_table": "y_embedder.embedding_table"}
    names |= {f"transformer_blocks.0.norm1.emb.{a}": b for a, b in embedding.items()}
    names |= {f"transformer_blocks.{i}.{a}": f"blocks.{i}.{b}" for i in range(3) for a, b in inner.items()}
    made = {f"{b}.{leaf}": source[f"{a}.{leaf}"] for a, b in names.items() for leaf in ("weight", "bias")
            if f"{a}.{leaf}" in source}
    for i in range(3):
        for leaf in ("weight", "bias"):
            made[f"blocks.{i}.attn.qkv.{leaf}"] = np.concatenate(
                [source[f"transformer_blocks.{i}.attn1.to_{part}.{leaf}"] for part in "qkv"])
    return made | {"pos_embed": np.zeros((1, 16, 32), np.float32)}


def restored(workdir):
    """Returns the network and the parameters of a converted folder."""
    config = experiment.from_json(workdirs.read(workdir, "config.json"))
    network = experiment.build(config.network, networks)
    model = experiment.model(config, experiment.examples(workdir, config))
    shapes = {"ema": {"converted": model.shapes(None).params}}
    _, trees = checkpoint.restore(checkpoint.opened(str(workdir), None), shapes)
    return network, trees["ema"]["converted"], config, model


def brought(tmp_path, weights, layout, *flags, record=None):
    """Converts a file of these weights; returns the folder."""
    file = tmp_path / ("file.pkl" if record else "file.safetensors")
    if record:
        file.write_bytes(record)
    else:
        foreign.write(file, weights)
    status = main.main(["convert", str(file), f"--layout={layout}", f"--workdir={tmp_path / 'run'}", *flags])
    assert status == 0
    return tmp_path / "run"


def output(network, params, given, **options):
    run = jax.jit(lambda params: network.apply(params, *given, **options), compiler_options=FAST)
    return np.asarray(run(params))


def agrees(got, want):
    assert got.shape == want.shape
    assert np.abs(got - want).max() < 5e-5 * want.std()
