"""The UNet of ADM (Dhariwal & Nichol 2021) as OpenAI published it: a state dict whose blocks bear numbers."""

from itertools import pairwise
from typing import Any

from jaxdiff.convert.sources import Found, Source
from jaxdiff.convert.tables import Rule, layer, norm
from jaxdiff.convert.transforms import Transform, flat, heads, joined, legacy, same
from jaxdiff.networks import levels

__all__ = ["adm", "adm_rules"]

# Resolution -> options of the published networks (table 4 and the repository's flags).
PUBLISHED = {
    64: {"mults": (1, 2, 3, 4), "blocks": 3, "heads": 0},
    128: {"mults": (1, 1, 2, 3, 4), "blocks": 2, "heads": 4},
    256: {"mults": (1, 1, 2, 2, 4, 4), "blocks": 2, "heads": 0},
    512: {"mults": (0.5, 1, 1, 2, 2, 4, 4), "blocks": 2, "heads": 0},
}
UNKNOWN = {"mults": None, "blocks": None, "heads": None}


def adm_rules(network: Any, resolution: int, order: Transform = heads) -> tuple[Rule, ...]:
    """Returns the table of UNetModel, made from our plan of it.

    Args:
      network: our `ADM`.
      resolution: of its images.
      order: of the rows of packed attention, `heads` (new, at 64 pixels) or `legacy` (above).
    """
    encoder, decoder = levels.plan(resolution, network.channels, network.mults, network.blocks, network.attention,
                                   everywhere=True, first=int(network.channels * network.mults[0]))
    made = [*layer("input_blocks.0.0", encoder[0].name)]
    for i, block in enumerate(encoder[1:], 1):
        made += _block(f"input_blocks.{i}", 0, block, order)
    made += _block("middle_block", 0, decoder[0], order) + _block("middle_block", 2, decoder[1], order)
    number = -1
    for before, block in pairwise(decoder[1:]):
        number += block.mode == "keep"
        place = 0 if block.mode == "keep" else 1 + before.attention  # the last of those under one number goes up
        made += _block(f"output_blocks.{number}", place, block, order)
    made += [*layer("time_embed.0", "map_layer0"), *layer("time_embed.2", "map_layer1"),
             Rule("label_emb.weight", "map_label/linear/kernel", same)]
    return (*made, *norm("out.0", "out_norm"), *layer("out.2", "out_conv"))


def _block(stem: str, place: int, block: levels.Block, order: Transform) -> list[Rule]:
    at, attn, ours = f"{stem}.{place}", f"{stem}.{place + 1}", block.name
    made = [*norm(f"{at}.in_layers.0", f"{ours}/norm0"), *norm(f"{at}.out_layers.0", f"{ours}/norm1")]
    for theirs, name in (("in_layers.2", "conv0"), ("out_layers.3", "conv1"), ("emb_layers.1", "affine"),
                         ("skip_connection", "skip")):
        made += layer(f"{at}.{theirs}", f"{ours}/{name}")
    if block.attention:
        made += norm(f"{attn}.norm", f"{ours}/norm2")
        made += layer(f"{attn}.qkv", f"{ours}/attn/qkv", order, bias=flat if order is heads else order)
        made += layer(f"{attn}.proj_out", f"{ours}/attn/out", joined)
    return made


def adm(source: Source, resolution: int | None = None) -> Found:
    """Reads a checkpoint of guided-diffusion.

    Args:
      source: the state dict.
      resolution: of its images, which no tensor tells; with it the options are those published.

    Raises:
      ValueError: not a state dict of ADM.
    """
    weights = source.weights
    if "input_blocks.0.0.weight" not in weights:
        raise ValueError("no input_blocks.0.0.weight: not a UNet of guided-diffusion")
    first = weights["input_blocks.0.0.weight"]
    options: dict[str, Any] = PUBLISHED[resolution] if resolution in PUBLISHED else UNKNOWN
    mults = options["mults"]
    classes = len(weights["label_emb.weight"]) if "label_emb.weight" in weights else 0
    network = {
        "name": "ADM", "layout": "openai", **options, "channels": None if mults is None else int(len(first) / mults[0]),
        "attention": (32, 16, 8), "num_classes": classes,
        "learned_variance": len(weights["out.2.weight"]) == 2 * first.shape[1],
    }
    noise = {"name": "Discrete", "schedule": "cosine" if resolution == 64 else "linear"}
    shown = {"name": "timestep", "process": {**noise, "name": "jaxdiff.process:Discrete"}}
    order = heads if resolution == 64 else legacy
    return Found(weights, network, lambda network, resolution: adm_rules(network, resolution, order),
                 (resolution, resolution, first.shape[1]), noise, {"name": "eps", "noise": shown},
                 {"name": "images", "flip": False}, {"name": "ddim"}, {"name": "uniform", "steps": 50},
                 {"label": ((), "int32")} if classes else {})
