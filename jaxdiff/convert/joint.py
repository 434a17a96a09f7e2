"""MMDiT as diffusers has it (Stable Diffusion 3), and U-ViT as its authors published it."""

from jaxdiff.convert import schedules
from jaxdiff.convert.transformers import vit_rules
from jaxdiff.convert.sources import Found, Source, number
from jaxdiff.convert.tables import Rule, layer, norm
from jaxdiff.convert.transforms import flat, heads, joined, patches, same, swapped, table
from jaxdiff.networks.uvit import SIZES

__all__ = ["mmdit", "mmdit_rules", "uvit", "uvit_rules"]


def mmdit_rules(patch: int, depth: int) -> tuple[Rule, ...]:
    """Returns the table of `SD3Transformer2DModel`, whose last block has no text after it.

    Args:
      patch: width of a patch.
      depth: number of blocks.
    """
    made = [Rule("pos_embed.pos_embed", None, same), *layer("pos_embed.proj", "patch", patches(patch))]
    for theirs, ours in (("timestep_embedder", "noise"), ("text_embedder", "pooled")):
        for i in range(2):
            made += layer(f"time_text_embed.{theirs}.linear_{i + 1}", f"{ours}{i}")
    made += layer("context_embedder", "text")
    for stem, target in ((f"transformer_blocks.{depth - 1}", "last"), ("transformer_blocks.{layer}", "blocks")):
        made += _stream(stem, f"{target}/image", "norm1", "ff", "to_out.0", "to_{part}", "norm_{part:[qk]}")
        made += _stream(stem, f"{target}/text", "norm1_context", "ff_context", "to_add_out", "add_{part}_proj",
                        "norm_added_{part:[qk]}", final=target == "last")
    return (*made, *layer("norm_out.linear", "modulation", swapped, bias=swapped), *layer("proj_out", "out"))


def _stream(stem: str, target: str, modulation: str, feed: str, out: str, qkv: str, rms: str, *,
            final: bool = False) -> list[Rule]:
    order = {"transform": swapped, "bias": swapped} if final else {}
    letter = rms.replace("part", "name")
    return [*layer(f"{stem}.{modulation}.linear", f"{target}/modulation", **order),
            *layer(f"{stem}.attn.{qkv}", f"{target}/qkv", heads, bias=flat),
            *layer(f"{stem}.attn.{out}", f"{target}/out", joined),
            *layer(f"{stem}.{feed}.net.0.proj", f"{target}/mlp0"), *layer(f"{stem}.{feed}.net.2", f"{target}/mlp1"),
            Rule(f"{stem}.attn.{letter}.weight", f"{target}/{{name}}_norm/scale", same)]


def mmdit(source: Source) -> Found:
    """Reads the transformer of a diffusers folder of Stable Diffusion 3.

    Raises:
      ValueError: another network, or an option that ours has not.
    """
    if "pos_embed.proj.weight" not in source.weights or "context_embedder.weight" not in source.weights:
        raise ValueError("no pos_embed.proj.weight or no context_embedder.weight: not the transformer of SD3")
    config, weights = source.config, source.weights
    if config.get("dual_attention_layers"):
        raise ValueError(f"this transformer has dual_attention_layers={config['dual_attention_layers']}, "
                         "which ours has not (Stable Diffusion 3.5 medium)")
    width, c, patch, _ = weights["pos_embed.proj.weight"].shape
    depth = number(weights, "transformer_blocks.")
    size = config.get("sample_size")
    network = {
        "name": "MMDiT", "patch": patch, "width": width, "depth": depth,
        "heads": config.get("num_attention_heads", width // 64),
        "qk_norm": "transformer_blocks.0.attn.norm_q.weight" in weights,
        "grid": config.get("pos_embed_max_size", 192), "base": None if size is None else size // patch,
    }
    noise, kind = schedules.flow(source.schedule)
    text, pooled = (weights[name].shape[1] for name in
                    ("context_embedder.weight", "time_text_embed.text_embedder.linear_1.weight"))
    return Found(weights, network, lambda network, resolution: mmdit_rules(patch, depth), (size, size, c), noise, kind,
                 {"name": "latents", "scale": 1.5305, "shift": 0.0609, "conditions": ("text", "pooled")},
                 {"name": "heun"}, {"name": "uniform", "steps": 28},
                 {"text": ((154, text), "float32"), "pooled": ((pooled,), "float32")})


def uvit_rules(patch: int) -> tuple[Rule, ...]:
    """Returns the table of the authors' U-ViT.

    Args:
      patch: width of a patch.
    """
    return (
        Rule("pos_embed", "position/table", table),
        *layer("patch_embed.proj", "patch", patches(patch)),
        Rule("label_emb.weight", "label/embedding", same),
        *_uvit_block("in_blocks.{layer}", "first/block"), *_uvit_block("mid_block", "middle"),
        *layer("out_blocks.{layer}.skip_linear", "second/skip"),
        *_uvit_block("out_blocks.{layer}", "second/block"),
        *norm("norm", "norm"), *layer("decoder_pred", "out"), *layer("final_layer", "out_conv"),
    )


def _uvit_block(stem: str, target: str) -> tuple[Rule, ...]:
    norms = (*norm(f"{stem}.norm1", f"{target}/norm0"), *norm(f"{stem}.norm2", f"{target}/norm1"))
    return *norms, *vit_rules(stem, target)


def uvit(source: Source) -> Found:
    """Reads a class-conditional U-ViT (Bao et al. 2023): ε at timesteps of Stable Diffusion's table.

    Raises:
      ValueError: another network.
    """
    weights = source.weights
    if "decoder_pred.weight" not in weights or "label_emb.weight" not in weights:
        raise ValueError("no decoder_pred.weight or no label_emb.weight: not a class-conditional U-ViT")
    width, c, patch, _ = weights["patch_embed.proj.weight"].shape
    half = number(weights, "in_blocks.")
    size = round((weights["pos_embed"].shape[1] - 2) ** 0.5) * patch  # one token of time, one of the class
    rows = len(weights["label_emb.weight"])
    network = {"name": "UViT", "patch": patch, "width": width, "depth": 2 * half + 1, "num_classes": rows - 1,
               "heads": next((heads for other, _, heads in SIZES.values() if other == width), None)}
    noise = {"name": "Discrete", "schedule": "scaled_linear"}
    kind = {"name": "eps", "noise": {**schedules.shown(noise), "offset": 0.0}}  # its timesteps are 1 to 1000
    return Found(weights, network, lambda network, resolution: uvit_rules(patch), (size, size, c), noise, kind,
                 {"name": "latents", "scale": 0.18215, "shift": 0.0}, {"name": "dpmpp_2m"},
                 {"name": "uniform", "steps": 50}, {"label": ((), "int32")})
