"""DiT, SiT and JiT as their authors published them, and DiT as diffusers has it: state dicts of transformers.

SiT's and JiT's clocks run from noise (0) to data (1): `timestep` and `velocity(rising=True)` turn them round.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdiff.convert.sources import Found, Source, number
from jaxdiff.convert.tables import Rule, back, layer
from jaxdiff.convert.transforms import flat, heads, joined, patches, same, table
from jaxdiff.layers import sincos
from jaxdiff.networks import dit as ours
from jaxdiff.networks import jit as pixels
from jaxdiff.protocols import Array

__all__ = [
    "diffusers_dit_rules", "dit", "dit_rules", "jit", "jit_rules", "sit", "to_diffusers_dit", "to_dit", "vit_rules",
]

SD = {"name": "latents", "scale": 0.18215, "shift": 0.0}
HEADS = {width: heads for sizes in (ours.SIZES, pixels.SIZES) for width, _, heads, *_ in sizes.values()}


def vit_rules(stem: str, target: str, mlp: tuple[str, str] = ("mlp.fc1", "mlp.fc2")) -> tuple[Rule, ...]:
    """Returns the table of attention and feed-forward part of a block as timm names it."""
    return (*layer(f"{stem}.attn.qkv", f"{target}/attention/qkv", heads, bias=flat),
            *layer(f"{stem}.attn.proj", f"{target}/attention/out", joined),
            *layer(f"{stem}.{mlp[0]}", f"{target}/mlp0"), *layer(f"{stem}.{mlp[1]}", f"{target}/mlp1"))


def dit_rules(patch: int) -> tuple[Rule, ...]:
    """Returns the table of the authors' DiT and SiT, which reads both ways.

    Args:
      patch: width of a patch.
    """
    return (
        Rule("pos_embed", None, same),
        *layer("x_embedder.proj", "patch", patches(patch)),
        *layer("t_embedder.mlp.0", "noise0"), *layer("t_embedder.mlp.2", "noise1"),
        Rule("y_embedder.embedding_table.weight", "label/embedding", same),
        *vit_rules("blocks.{layer}", "blocks"),
        *layer("blocks.{layer}.adaLN_modulation.1", "blocks/modulation"),
        *layer("final_layer.adaLN_modulation.1", "modulation"),
        *layer("final_layer.linear", "out"),
    )


def diffusers_dit_rules(patch: int) -> tuple[Rule, ...]:
    """Returns the table of `DiTTransformer2DModel`, which keeps a copy of the embedding in every block."""
    block, embedding = "transformer_blocks.{layer}", "transformer_blocks.0.norm1.emb"
    return (
        Rule("pos_embed.pos_embed", None, same),
        *layer("pos_embed.proj", "patch", patches(patch)),
        *layer(f"{embedding}.timestep_embedder.linear_1", "noise0"),
        *layer(f"{embedding}.timestep_embedder.linear_2", "noise1"),
        Rule(f"{embedding}.class_embedder.embedding_table.weight", "label/embedding", same),
        Rule(f"{block}.norm1.emb.{{rest:.*}}", None, same),
        *layer(f"{block}.norm1.linear", "blocks/modulation"),
        *layer(f"{block}.attn1.to_{{part}}", "blocks/attention/qkv", heads, bias=flat),
        *layer(f"{block}.attn1.to_out.0", "blocks/attention/out", joined),
        *layer(f"{block}.ff.net.0.proj", "blocks/mlp0"), *layer(f"{block}.ff.net.2", "blocks/mlp1"),
        *layer("proj_out_1", "modulation"), *layer("proj_out_2", "out"),
    )


def jit_rules(patch: int, start: int) -> tuple[Rule, ...]:
    """Returns the table of the authors' JiT, whose class tokens join before block `start`."""
    early = "|".join(map(str, range(start)))
    return (
        Rule("{name:pos_embed|feat_rope\\..*|feat_rope_incontext\\..*}", None, same),
        Rule("in_context_posemb", "class_position", table),
        Rule("x_embedder.proj1.weight", "patch0/kernel", patches(patch)),
        *layer("x_embedder.proj2", "patch1"),
        *layer("t_embedder.mlp.0", "noise0"), *layer("t_embedder.mlp.2", "noise1"),
        Rule("y_embedder.embedding_table.weight", "label/embedding", same),
        *_jit_blocks(f"blocks.{{layer:{early}}}", "early"), *_jit_blocks("blocks.{layer}", "late"),
        Rule("final_layer.norm_final.weight", "norm/scale", same),
        *layer("final_layer.adaLN_modulation.1", "modulation"), *layer("final_layer.linear", "out"),
    )


def _jit_blocks(stem: str, target: str) -> tuple[Rule, ...]:
    return (
        Rule(f"{stem}.norm1.weight", f"{target}/norm0/scale", same),
        Rule(f"{stem}.norm2.weight", f"{target}/norm1/scale", same),
        Rule(f"{stem}.attn.{{name:[qk]_norm}}.weight", f"{target}/attention/{{name}}/scale", same),
        *vit_rules(stem, target, ("mlp.w12", "mlp.w3")),
        *layer(f"{stem}.adaLN_modulation.1", f"{target}/modulation"),
    )


def dit(source: Source) -> Found:
    """Reads DiT (Peebles & Xie 2023): timesteps 0 to 999 of DDPM's linear table, ε and its variance.

    Raises:
      ValueError: not a state dict of DiT.
    """
    noise = {"name": "Discrete", "schedule": "linear"}
    shown = {"name": "timestep", "process": {**noise, "name": "jaxdiff.process:Discrete"}}
    return _latent(source, noise, {"name": "eps", "noise": shown}, {"name": "ddim"})


def sit(source: Source) -> Found:
    """Reads SiT (Ma et al. 2024): DiT's network, the velocity of a straight path, its clock from noise to data.

    Raises:
      ValueError: not a state dict of SiT.
    """
    return _latent(source, {"name": "RectifiedFlow"}, _risen("velocity", rising=True), {"name": "heun"})


def _risen(name: str, **options: Any) -> dict[str, Any]:
    shown = {"name": "timestep", "process": {"name": "jaxdiff.process:RectifiedFlow"}, "scale": -1.0, "offset": 1.0}
    return {"name": name, "raw": True, "noise": shown, **options}


def _latent(source: Source, noise: dict, kind: dict, sampler: dict) -> Found:
    theirs = "pos_embed.proj.weight" in source.weights
    place, out, position = (("pos_embed.proj", "proj_out_2", "pos_embed.pos_embed") if theirs else
                            ("x_embedder.proj", "final_layer.linear", "pos_embed"))
    width, channels, patch, _ = source.weights[f"{place}.weight"].shape
    stem = "transformer_blocks" if theirs else "blocks"
    feed = f"{stem}.0.ff.net.0.proj.bias" if theirs else f"{stem}.0.mlp.fc1.bias"
    classes = len(source.weights["transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight" if theirs
                                 else "y_embedder.embedding_table.weight"])
    network = {
        "name": "DiT", "patch": patch, "width": width, "depth": number(source.weights, f"{stem}."),
        "heads": source.config["num_attention_heads"] if "num_attention_heads" in source.config else _heads(width),
        "mlp_ratio": len(source.weights[feed]) / width, "num_classes": classes - 1,
        "learned_variance": len(source.weights[f"{out}.bias"]) == 2 * patch**2 * channels,
    }
    if position in source.weights:
        size: int | None = round(source.weights[position].shape[1] ** 0.5) * patch
    else:
        size = source.config["sample_size"] if "sample_size" in source.config else None
    rules = diffusers_dit_rules(patch) if theirs else dit_rules(patch)
    return Found(source.weights, network, lambda network, resolution: rules, (size, size, channels), noise, kind, SD,
                 sampler, {"name": "uniform", "steps": 50}, {"label": ((), "int32")})


def to_dit(network: ours.DiT, params: Mapping[str, Array], resolution: int) -> dict[str, Array]:
    """Returns the authors' name -> value of our path -> value, with their table of positions.

    Raises:
      Mismatch: parameters that theirs has not.
    """
    made, side = back(params, dit_rules(network.patch)), np.arange(resolution // network.patch)
    positions = np.asarray(sincos(side, side, len(params["patch/bias"])), np.float32)
    return made | {"pos_embed": positions[None]}


def to_diffusers_dit(network: ours.DiT, params: Mapping[str, Array], resolution: int) -> dict[str, Array]:
    """Returns diffusers' name -> value of our path -> value, the embedding again in every block.

    Raises:
      Mismatch: parameters that theirs has not.
    """
    del resolution
    made, depth = back(params, diffusers_dit_rules(network.patch)), len(params["blocks/mlp0/bias"])
    stem = "transformer_blocks.0.norm1.emb."
    copies = {name.replace(".0.", f".{i}.", 1): value for name, value in made.items() if name.startswith(stem)
              for i in range(1, depth)}
    return made | copies


def jit(source: Source) -> Found:
    """Reads JiT (Li & He 2025): x0 on pixels, its clock from noise to data.

    Raises:
      ValueError: not a state dict of JiT.
    """
    weights = source.weights
    bottleneck, channels, patch, _ = weights["x_embedder.proj1.weight"].shape
    width = weights["x_embedder.proj2.weight"].shape[0]
    size = round(weights["pos_embed"].shape[1] ** 0.5) * patch
    if size >= 512:
        raise ValueError(f"JiT at {size} pixels was trained with noise of standard deviation 2, which no process here "
                         "has")
    start = next((sizes[-1] for sizes in pixels.SIZES.values() if sizes[0] == width), None)
    network = {
        "name": "JiT", "patch": patch, "width": width, "depth": number(weights, "blocks."), "heads": _heads(width),
        "bottleneck": bottleneck, "start": start,
        "class_tokens": weights["in_context_posemb"].shape[1] if "in_context_posemb" in weights else 0,
        "num_classes": len(weights["y_embedder.embedding_table.weight"]) - 1,
    }
    return Found(weights, network, lambda network, resolution: jit_rules(network.patch, network.start),
                 (size, size, channels), {"name": "RectifiedFlow"}, _risen("x0"), {"name": "images", "flip": False},
                 {"name": "heun"}, {"name": "uniform", "steps": 50}, {"label": ((), "int32")})


def _heads(width: int) -> int | None:
    return HEADS[width] if width in HEADS else None
