"""The UNet and the autoencoder of Stable Diffusion, as CompVis published them and as diffusers has them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdiff.convert import schedules
from jaxdiff.convert.sources import Found, Source, Told, number
from jaxdiff.convert.tables import Rule, back, layer, norm
from jaxdiff.convert.transforms import flat, heads, joined, pixel_heads, pixel_joined, same
from jaxdiff.networks.autoencoder import CONSTANTS, Autoencoder
from jaxdiff.protocols import Array

__all__ = [
    "diffusers_unet_rules", "diffusers_vae_rules", "to_diffusers_vae", "to_vae", "unet", "unet_rules", "vae",
    "vae_rules",
]

SCALE = 0.18215  # of Stable Diffusion 1 and 2
LATENTS = {"name": "latents", "scale": SCALE, "shift": 0.0, "conditions": ("text", "mask")}
UNSUPPORTED = ("addition_embed_type", "class_embed_type", "encoder_hid_dim", "time_cond_proj_dim",
               "dual_cross_attention", "projection_class_embeddings_input_dim")


def unet_rules(levels: int, blocks: int, transformers: tuple[int, ...]) -> tuple[Rule, ...]:
    """Returns the table of CompVis's UNetModel, whose blocks bear numbers.

    Args:
      levels: sizes of the image.
      blocks: residual blocks in each level of the encoder.
      transformers: those after each residual block, a number for each level.
    """
    made, low, number = [*layer("input_blocks.0.0", "enc_0_conv")], levels - 1, 1
    for level in range(levels):
        for i in range(blocks):
            made += _numbered(f"input_blocks.{number}", f"enc_{level}_block{i}")
            number += 1
        if level < low:
            made += layer(f"input_blocks.{number}.0.op", f"enc_{level + 1}_down")
            number += 1
    number = 0
    for level in reversed(range(levels)):
        for i in range(blocks + 1):
            if level and i == blocks:
                place = 2 if transformers[level] else 1
                made += layer(f"output_blocks.{number}.{place}.conv", f"dec_{level - 1}_up")
            made += _numbered(f"output_blocks.{number}", f"dec_{level}_block{i}")
            number += 1
    made += _numbered("middle_block", f"dec_{low}_in0")
    made += _residual("middle_block.2", f"dec_{low}_in1")
    made += [*layer("time_embed.0", "map_layer0"), *layer("time_embed.2", "map_layer1")]
    return (*made, *norm("out.0", "out_norm"), *layer("out.2", "out_conv"))


def _numbered(stem: str, ours: str) -> list[Rule]:
    return [*_residual(f"{stem}.0", ours), *_transformer(f"{stem}.1", f"{ours}_transformer")]


def _residual(stem: str, ours: str) -> list[Rule]:
    return [*norm(f"{stem}.in_layers.0", f"{ours}/norm0"), *layer(f"{stem}.in_layers.2", f"{ours}/conv0"),
            *layer(f"{stem}.emb_layers.1", f"{ours}/affine"), *norm(f"{stem}.out_layers.0", f"{ours}/norm1"),
            *layer(f"{stem}.out_layers.3", f"{ours}/conv1"), *layer(f"{stem}.skip_connection", f"{ours}/skip")]


def _transformer(stem: str, ours: str) -> list[Rule]:
    """Of both layouts, whose q, k and v are tensors of their own; `{part}` joins them."""
    theirs, inside = f"{stem}.transformer_blocks.{{b}}", f"{ours}/block{{b}}"
    made = [*norm(f"{stem}.norm", f"{ours}/norm"), *layer(f"{stem}.proj_in", f"{ours}/in"),
            *layer(f"{stem}.proj_out", f"{ours}/out")]
    for i in range(3):
        made += norm(f"{theirs}.norm{i + 1}", f"{inside}/norm{i}")
    for i, name in enumerate(("self", "cross"), 1):
        made += layer(f"{theirs}.attn{i}.to_out.0", f"{inside}/{name}/out", joined)
    return [*made, Rule(f"{theirs}.attn1.to_{{part}}.weight", f"{inside}/self/qkv/kernel", heads),
            Rule(f"{theirs}.attn2.to_q.weight", f"{inside}/cross/q/kernel", heads),
            Rule(f"{theirs}.attn2.to_{{part}}.weight", f"{inside}/cross/kv/kernel", heads),
            *layer(f"{theirs}.ff.net.0.proj", f"{inside}/mlp0"), *layer(f"{theirs}.ff.net.2", f"{inside}/mlp1")]


def diffusers_unet_rules(levels: int) -> tuple[Rule, ...]:
    """Returns the table of `UNet2DConditionModel` with so many levels; its decoder counts them from the lowest."""
    made, low = [], levels - 1
    for level in range(levels):
        made += _diffusers_level(f"down_blocks.{level}", f"enc_{level}_block{{i}}")
        made += _diffusers_level(f"up_blocks.{low - level}", f"dec_{level}_block{{i}}")
        made += layer(f"down_blocks.{level}.downsamplers.0.conv", f"enc_{level + 1}_down")
        made += layer(f"up_blocks.{low - level}.upsamplers.0.conv", f"dec_{level - 1}_up")
    made += [*layer("time_embedding.linear_1", "map_layer0"), *layer("time_embedding.linear_2", "map_layer1")]
    return (*made, *_diffusers_level("mid_block", f"dec_{low}_in{{i}}"), *layer("conv_in", "enc_0_conv"),
            *norm("conv_norm_out", "out_norm"), *layer("conv_out", "out_conv"))


def _diffusers_level(stem: str, ours: str) -> list[Rule]:
    made = [*layer(f"{stem}.resnets.{{i}}.time_emb_proj", f"{ours}/affine"),
            *layer(f"{stem}.resnets.{{i}}.conv_shortcut", f"{ours}/skip")]
    for j in range(2):
        made += [*norm(f"{stem}.resnets.{{i}}.norm{j + 1}", f"{ours}/norm{j}"),
                 *layer(f"{stem}.resnets.{{i}}.conv{j + 1}", f"{ours}/conv{j}")]
    return made + _transformer(f"{stem}.attentions.{{i}}", f"{ours}_transformer")


def vae_rules() -> tuple[Rule, ...]:
    """Returns the table of CompVis's AutoencoderKL, which reads both ways; its discriminator, `loss`, is not kept."""
    made = [Rule("loss.{rest:.*}", None, same)]
    for side, way, change in (("encoder", "down", "downsample"), ("decoder", "up", "upsample")):
        made += _vae_block(f"{side}.{way}.{{i}}.block.{{j}}", f"{side}/{way}{{i}}_block{{j}}", "nin_shortcut")
        made += layer(f"{side}.{way}.{{i}}.{change}.conv", f"{side}/{way}{{i}}_resample")
        for j in range(2):
            made += _vae_block(f"{side}.mid.block_{j + 1}", f"{side}/middle/block{j}", "nin_shortcut")
        attn = f"{side}/middle/attn"
        made += [*norm(f"{side}.mid.attn_1.norm", f"{side}/middle/norm"),
                 *layer(f"{side}.mid.attn_1.proj_out", f"{attn}/out", pixel_joined),
                 *layer(f"{side}.mid.attn_1.{{part}}", f"{attn}/qkv", pixel_heads, bias=flat),
                 *norm(f"{side}.norm_out", f"{side}/norm_out")]
    return (*made, *_vae_ends())


def diffusers_vae_rules(levels: int) -> tuple[Rule, ...]:
    """Returns the table of diffusers' `AutoencoderKL` with so many levels, which reads both ways."""
    made: list[Rule] = []
    for level in range(levels):
        up, down = f"decoder.up_blocks.{levels - 1 - level}", f"encoder.down_blocks.{level}"
        made += _vae_block(f"{down}.resnets.{{j}}", f"encoder/down{level}_block{{j}}", "conv_shortcut")
        made += _vae_block(f"{up}.resnets.{{j}}", f"decoder/up{level}_block{{j}}", "conv_shortcut")
        made += layer(f"{down}.downsamplers.0.conv", f"encoder/down{level}_resample")
        made += layer(f"{up}.upsamplers.0.conv", f"decoder/up{level}_resample")
    for side in ("encoder", "decoder"):
        attn = f"{side}.mid_block.attentions.0"
        made += _vae_block(f"{side}.mid_block.resnets.{{j}}", f"{side}/middle/block{{j}}", "conv_shortcut")
        made += [*norm(f"{attn}.group_norm", f"{side}/middle/norm"),
                 *layer(f"{attn}.to_out.0", f"{side}/middle/attn/out", joined),
                 *layer(f"{attn}.to_{{part}}", f"{side}/middle/attn/qkv", heads, bias=flat),
                 *norm(f"{side}.conv_norm_out", f"{side}/norm_out")]
    return (*made, *_vae_ends())


def _vae_block(stem: str, ours: str, skip: str) -> list[Rule]:
    return [*norm(f"{stem}.norm1", f"{ours}/norm0"), *layer(f"{stem}.conv1", f"{ours}/conv0"),
            *norm(f"{stem}.norm2", f"{ours}/norm1"), *layer(f"{stem}.conv2", f"{ours}/conv1"),
            *layer(f"{stem}.{skip}", f"{ours}/skip")]


def _vae_ends() -> list[Rule]:
    ends = [rule for side in ("encoder", "decoder") for name in ("conv_in", "conv_out")
            for rule in layer(f"{side}.{name}", f"{side}/{name}")]
    return [*ends, *layer("quant_conv", "encoder/quant"), *layer("post_quant_conv", "decoder/quant"),
            Rule("latent_{name}", "latent_{name}", same)]


def unet(source: Source) -> Found:
    """Reads the UNet of Stable Diffusion 1 and 2, also out of a whole checkpoint.

    Raises:
      ValueError: another network, or an option that ours has not.
    """
    weights = _part(source.weights, "model.diffusion_model.")
    compvis = "input_blocks.0.0.weight" in weights
    first = "input_blocks.0.0.weight" if compvis else "conv_in.weight"
    key = next((name for name in weights if name.endswith("attn2.to_k.weight")), None)
    if first not in weights or key is None:
        raise ValueError(f"no {first} or no attention to a text: not the UNet of Stable Diffusion")
    (channels, c, *_), width = weights[first].shape, weights[key].shape[1]
    network = {"name": "StableUNet", "channels": channels, "mults": (1, 2, 4, 4), "blocks": 2,
               "transformers": (1, 1, 1, 0), "heads": 0 if width == 1024 else 8} | _configured(source.config)
    noise, kind = schedules.noise(source.schedule, {"name": "Discrete", "schedule": "scaled_linear"})
    if kind is None and width != 1024:  # 2.x is published with ε and with v
        kind = {"name": "eps", "noise": schedules.shown(noise)}
    levels, size = len(network["mults"]), source.config["sample_size"] if "sample_size" in source.config else None
    rules = (unet_rules(levels, network["blocks"], network["transformers"]) if compvis
             else diffusers_unet_rules(levels))
    return Found(weights, network, lambda network, resolution: rules, (size, size, c), noise, kind, LATENTS,
                 {"name": "dpmpp_2m"}, {"name": "uniform", "steps": 25},
                 {"text": ((77, width), "float32"), "mask": ((77,), "bool")})


def _part(weights: Mapping[str, Array], stem: str) -> Mapping[str, Array]:
    """Returns the weights under a stem, or all where none is."""
    inner = {name.removeprefix(stem): value for name, value in weights.items() if name.startswith(stem)}
    return Told(inner) if inner else weights


def _configured(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the network's options of diffusers' config; {} of none."""
    if not config:
        return {}
    for name in UNSUPPORTED:
        if config.get(name):
            raise ValueError(f"this UNet has {name}={config[name]!r}, which ours has not")
    widths, heads = config["block_out_channels"], config["attention_head_dim"]  # their name for the number of heads
    each = [widths[i] / n for i, n in enumerate(heads)] if isinstance(heads, list) else []
    if len(set(each)) > 1:
        raise ValueError(f"this UNet has {heads} heads of {each} channels; ours are of one number or one size")
    depth = [int("Attn" in kind) for kind in config["down_block_types"]]
    return {"mults": tuple(width // widths[0] for width in widths), "blocks": config["layers_per_block"],
            "transformers": tuple(depth), "heads": 0 if each else heads,
            "head_channels": int(each[0]) if each else 64}


def vae(source: Source) -> Found:
    """Reads an autoencoder with its scale and shift: 0.18215 where the file does not say.

    Raises:
      ValueError: another network.
    """
    weights = _part(source.weights, "first_stage_model.")
    if "encoder.conv_in.weight" not in weights:
        raise ValueError("no encoder.conv_in.weight: not an autoencoder of Stable Diffusion")
    (channels, c, *_), z = weights["encoder.conv_in.weight"].shape, weights["decoder.conv_in.weight"].shape[1]
    compvis = any(name.startswith("encoder.down.") for name in weights)
    stem, block = ("encoder.down.", "block") if compvis else ("encoder.down_blocks.", "resnets")
    levels = number(weights, stem)
    widths = [len(weights[f"{stem}{i}.{block}.0.conv1.bias"]) for i in range(levels)]
    scale, shift = (usual if source.config.get(name) is None else source.config[name]
                    for name, usual in (("scaling_factor", SCALE), ("shift_factor", 0.0)))
    network = {
        "name": "Autoencoder", "channels": channels, "mults": tuple(width // channels for width in widths),
        "blocks": number(weights, f"{stem}0.{block}."), "latent_channels": z, "image_channels": c,
        "quant": "quant_conv.weight" in weights,
    }
    constants = {"latent_scale": np.full(z, scale), "latent_shift": np.full(z, shift)}
    rules = vae_rules() if compvis else diffusers_vae_rules(levels)
    return Found({**weights, **constants}, network, lambda network, resolution: rules, (None, None, c), None, None,
                 {"name": "images", "flip": False}, {}, {}, {})


def to_vae(network: Autoencoder, params: Mapping[str, Array], resolution: int = 0) -> dict[str, Array]:
    """Returns CompVis's name -> value of our path -> value, without scale and shift, which they keep elsewhere."""
    del network, resolution
    return back({path: value for path, value in params.items() if path not in CONSTANTS}, vae_rules())


def to_diffusers_vae(network: Autoencoder, params: Mapping[str, Array], resolution: int = 0) -> dict[str, Array]:
    """Returns diffusers' name -> value of our path -> value, without scale and shift, which are in its config."""
    del resolution
    kept = {path: value for path, value in params.items() if path not in CONSTANTS}
    return back(kept, diffusers_vae_rules(len(network.mults)))
